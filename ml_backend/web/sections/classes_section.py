"""The classes of a project: how many labels each has, and how well the version that is served tells it."""

from __future__ import annotations

from typing import Any

from ml_backend.insight.balance import Balance, balance
from ml_backend.insight.findings import Found
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.wording import imbalance, interval

Shown = dict[str, Any]


def found_balance(project: Project, services: Services) -> Found[Balance]:
    """Labels by class, as of the last time that labels were read."""
    basis = project.reconciled_at, project.judged_by
    return services.findings.of(("balance", project.id), basis, lambda: balance(project, services.database))


def look(project: Project, services: Services) -> Shown:
    found = found_balance(project, services)
    version = services.versions.current(project)
    holdout = (version.meta.metrics.holdout or {}) if version else {}
    told = {each["name"]: each for each in holdout.get("classes", ())}
    counts = found.value.people if found.value else {}
    names = [*dict.fromkeys([*project.schema.labels, *counts, *told])]
    rows = [_row(name, counts.get(name, 0), told.get(name)) for name in names]
    return {
        "version": version.name if version else None,
        "n": holdout.get("n", 0),
        "coming": not found.is_current,
        "known": found.value is not None,
        "rows": sorted(rows, key=lambda row: row["order"]) if holdout.get("n") else rows,
        "balanced": interval(holdout.get("balanced_accuracy")),
        "macro_f1": interval(holdout.get("macro_f1")),
        "words": imbalance(holdout) if holdout.get("n") else None,
    }


def _row(name: str, labels: int, told: Shown | None) -> Shown:
    recall, precision = ((told or {}).get(each) for each in ("recall", "precision"))
    return {
        "name": name,
        "labels": labels,
        "support": told["support"] if told else 0,
        "recall": recall,
        "recall_said": interval(recall),
        "precision": precision,
        "precision_said": interval(precision),
        "order": (recall is None, recall["value"] if recall else 0.0),
    }
