"""Who has answered what, how fast, and how far they agree."""

from __future__ import annotations

from typing import Any

from ml_backend.insight.annotators import Annotator, Share, annotators
from ml_backend.learning.evaluation import wilson_interval
from ml_backend.services import Services
from ml_backend.store.projects import Project

Shown = dict[str, Any]


def look(project: Project, services: Services) -> Shown:
    basis = project.reconciled_at, project.judged_by
    found = services.findings.of(("annotators", project.id), basis, lambda: annotators(project, services.database))
    rows = [_row(each) for each in found.value or ()]
    return {
        "coming": not found.is_current,
        "known": found.value is not None,
        "rows": rows,
        "timed": any(row["seconds"] for row in rows),
        "compared": any(row["agreement"] for row in rows),
        "tested": any(row["accuracy"] for row in rows),
    }


def _row(each: Annotator) -> Shown:
    return {
        "who": each.who,
        "answers": each.answers,
        "skips": each.skips,
        "agreement": _share(each.agreement),
        "accuracy": _share(each.accuracy),
        "seconds": _seconds(each.seconds),
        "last": f"{each.last_at:%Y-%m-%d %H:%M}",
    }


def _share(share: Share) -> str:
    """With its 95 % interval; nothing where nothing was compared."""
    if not share.of:
        return ""
    low, high = wilson_interval(share.hits, share.of)
    return f"{share.hits / share.of:.0%} ({low:.0%} to {high:.0%}, n={share.of:,})"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:,.1f} min"
