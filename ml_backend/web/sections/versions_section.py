"""The versions of a project's model: what each was measured at, and which one answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ml_backend.manual_promotion import listed
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.wording import encodable, measured, shortened

SHOWN = 20
STATES = {
    "candidate": "not judged yet",
    "passed": "good enough",
    "promoted": "served before",
    "rejected": "not good enough",
    "rolled_back": "rolled back",
    "pruned": "files deleted",
}


def look(project: Project, services: Services) -> dict[str, Any]:
    return part(project, services, {})


def part(project: Project, services: Services, query: Mapping[str, str]) -> dict[str, Any]:
    """query: `all` lists them all."""
    every = bool(query.get("all"))
    current, count = services.versions.current(project), services.versions.count(project)
    rows = listed(project, services.versions, limit=None if every else SHOWN)
    return {
        "versions": [_row(row) for row in rows],
        "served": current.name if current else "",
        "total": count,
        "every": every,
        "most": SHOWN,
        "pinned": services.versions.pinned(project),
        "labelled": services.ledger.size(project) if not count else 0,
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    at = datetime.fromisoformat(row["created_at"])
    return {
        "name": row["name"],
        "served": row["served"],
        "pinned": row["pinned"],
        "chosen": row["state"] != "pruned" and not row["served"],
        "state": "pinned" if row["pinned"] else "served" if row["served"] else STATES[row["state"]],
        "good": row["served"],
        "bad": row["state"] in {"rejected", "rolled_back"},
        "accuracy": measured(row["holdout"]),
        "labels": row["labels"],
        "encoder": encodable(shortened(str(row["encoder"] or ""), 60)),
        "at": f"{at:%Y-%m-%d %H:%M} UTC",
        "reason": encodable(shortened(row["reason"] or "", 300)),
    }
