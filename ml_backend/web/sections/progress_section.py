"""How far a project is: what is labelled, how good its model is, and whether labelling more still pays."""

from __future__ import annotations

from typing import Any

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.version_meta import FROM_NAMES
from ml_backend.wording import encodable, measured


def look(project: Project, services: Services) -> dict[str, Any]:
    counts = services.known_counts.of(project)
    version = services.versions.current(project)
    advice, holdout = project.state.advice, version.meta.metrics.holdout if version else None
    status = services.status.of(project, counts)
    words = status["version"] or {}
    untaught = version is not None and version.meta.mode == FROM_NAMES and not counts.labelled
    return {
        "counts": counts,
        "version": version.name if version else "",
        "pinned": services.versions.pinned(project),
        "accuracy": measured(holdout) if version else "",
        "words": [
            *(encodable(words[name]) for name in words if name.endswith("in_words") and words[name]),
            *([encodable(told)] if (told := status["encoder"]["in_words"]) else []),
        ],
        "encoder": [encodable(words) for name in ("why", "better") if (words := status["encoder"][name])],
        "stop": advice.stopping if advice else "",
        "missing": _missing(project, counts.tasks, counts.labelled) if version is None or untaught else "",
    }


def _missing(project: Project, tasks: int, labelled: int) -> str:
    if project.state.gone:
        return "Label Studio has no such project any more, or the service's token may not see it: what was learned is kept."
    if len(project.schema.labels) < 2:
        return "The label config asks for fewer than two classes: add <Choice> tags to it in Label Studio."
    if not tasks:
        return "No image is known yet: import some, as with `ml-backend import-images`."
    if not labelled:
        return "Nothing is labelled yet: open the project in Label Studio and press Label All Tasks."
    return "There is no model yet: it takes labels of two classes."
