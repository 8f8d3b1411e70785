"""Two versions of a model asked about the same held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.errors import BackendError
from ml_backend.manual_promotion import compare
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.version import version_number
from ml_backend.wording import encodable, interval, measured


def look(_project: Project, _services: Services) -> dict[str, Any]:
    return {"verdict": "Choose two versions.", "rows": []}


def part(project: Project, services: Services, query: Mapping[str, str]) -> dict[str, Any]:
    """query: `first` and `second`, names of versions. It takes a second or so, and more where there are many held-out images.

    Not while an audit is on: from one answer to the next, how many are right would tell the guess of what was just answered.
    """
    if services.acceptances.is_blind(project):
        return {"verdict": "An audit is on: versions are compared again once it is over.", "rows": []}
    names = [query.get(name, "") for name in ("first", "second")]
    if not all(names):
        return look(project, services)
    try:
        first, second = (services.versions.version(project, version_number(name)) for name in names)
        found = compare(project, first, second, services.predictor, alpha=services.settings.promotion_alpha)
    except BackendError as error:
        return {"verdict": encodable(str(error)), "rows": []}
    rows = [
        {"name": version.name, "accuracy": measured(each), "macro_f1": interval(each.get("macro_f1"))}
        for version, each in zip((first, second), found.measured, strict=False)
    ]
    return {"verdict": encodable(found.verdict), "rows": rows}
