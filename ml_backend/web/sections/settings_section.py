"""The settings of one project that are safe to change while it runs, as a form, and whether it is paused."""

from __future__ import annotations

from typing import Any

from ml_backend.project_settings import CHOOSABLE, MOST_LABELS, WORDS, settings_of, shown
from ml_backend.services import Services
from ml_backend.settings import strategy_names
from ml_backend.store.job import MOST_QUIET
from ml_backend.store.projects import Project

MOST = {
    "batch_size": 100_000,
    "train_after_labels": MOST_LABELS,
    "train_after_seconds": int(MOST_QUIET.total_seconds()),
}
LEAST = {"train_after_seconds": 0}


def look(project: Project, services: Services) -> dict[str, Any]:
    """was: what the form was made of, so that an act changes only what somebody changed in it, whoever changes others meanwhile."""
    own = {name: getattr(project.state.chosen, name) for name in CHOOSABLE}
    mine = settings_of(project, services.settings)
    return {
        "numbers": [
            {
                "name": name,
                "words": WORDS[name].capitalize(),
                "own": "" if own[name] is None else shown(own[name]),
                "service": shown(getattr(services.settings, name)),
                "least": LEAST.get(name, 1),
                "most": MOST[name],
            }
            for name in CHOOSABLE
            if name != "strategy"
        ],
        "strategies": list(dict.fromkeys([*strategy_names(), *([own["strategy"]] if own["strategy"] else [])])),
        "strategy": own["strategy"] or "",
        "service_strategy": services.settings.strategy,
        "now": [(WORDS[name].capitalize(), shown(getattr(mine, name))) for name in CHOOSABLE],
        "was": {name: value for name, value in own.items() if value is not None},
        "paused": project.state.paused and f"{project.state.paused[:16].replace('T', ' ')} UTC",
    }
