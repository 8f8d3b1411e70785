"""The log of what people did on the project's pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.services import Services
from ml_backend.store.acts import DoneAct
from ml_backend.store.projects import Project
from ml_backend.wording import encodable, shortened

SHOWN = 20


def look(project: Project, services: Services) -> dict[str, Any]:
    return part(project, services, {})


def part(project: Project, services: Services, query: Mapping[str, str]) -> dict[str, Any]:
    """query: `all` lists the last thousand."""
    every = bool(query.get("all"))
    found = services.acts.list(project, limit=1_000 if every else SHOWN + 1)
    shown = found if every else found[:SHOWN]
    return {"acts": [_row(act) for act in shown], "more": len(found) > len(shown), "every": every}


def _row(act: DoneAct) -> dict[str, Any]:
    said, undo = act.detail.get("said"), act.detail.get("undo")
    if isinstance(undo, dict) and isinstance(undo.get("given"), dict) and "tasks" in undo["given"]:
        undo = undo | {"given": {"of": act.id}}  # thousands of them are no part of a page
    return {
        "id": act.id,
        "at": f"{act.at:%Y-%m-%d %H:%M:%S} UTC",
        "person": encodable(shortened(act.person, 100)),
        "account": encodable(shortened(act.account, 100)),
        "said": encodable(str(said or act.what)),
        "undo": undo if isinstance(undo, dict) and undo.keys() >= {"act", "given", "label"} else None,
    }
