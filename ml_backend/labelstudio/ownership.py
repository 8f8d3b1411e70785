"""Whose project it is: the mark by which a project in Label Studio names the one store that may push to it.

The mark is an entry of the project's `control_weights` with a weight of zero, which leaves agreement alone. A new label
config drops the entry; the owner's next turn puts it back, and until then the queue that is served, which another store
did not make, says that the project is not free. docs/decisions/one-store-for-a-project.md says why it stands there.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ml_backend.errors import AnotherStoreError
from ml_backend.labelstudio.checks import Finding
from ml_backend.labelstudio.client import Json, LabelStudio
from ml_backend.labelstudio.queue import OUR_VERSION

MARK = "active-learning"
SETTLE_SECONDS = 0.5
"""Label Studio has no compare-and-set. Whoever else found the project unmarked has written by then; the last one has it."""


@dataclass(frozen=True)
class Owner:
    """A store, and where and since when it has had the project, for people."""

    store: str
    machine: str = ""
    since: str = ""

    @classmethod
    def here(cls, store: str) -> Owner:
        """What a mark says that this store makes here and now."""
        return cls(store, socket.gethostname(), f"{datetime.now(UTC):%Y-%m-%d}")


def owner_of(project: Json) -> Owner | None:
    """Read the mark of a project as Label Studio's API shows it; None where there is none."""
    found: Any = (project.get("control_weights") or {}).get(MARK)
    if not isinstance(found, dict) or not found.get("store"):
        return None
    return Owner(*(str(found.get(name, "")) for name in ("store", "machine", "since")))


def require_own(project: Json, store: str | None, made: Callable[[str], bool]) -> Owner | None:
    """Return the mark, which is this store's or none; raise AnotherStoreError where another store has the project.

    made: whether this store made the queue of that name; asked only where there is no mark.
    """
    owner, served = owner_of(project), project.get("model_version") or ""
    if owner is not None and owner.store != store:
        since = f", which has had it since {owner.since}" if owner.since else ""
        machine = f" on {owner.machine}" if owner.machine else ""
        raise AnotherStoreError(
            f"Project {project['id']} ({project['title']}) belongs to another store ({owner.store[:8]}{machine}{since}): "
            f"{_either(project)}"
        )
    if owner is None and OUR_VERSION.fullmatch(served) and not made(served):
        raise AnotherStoreError(
            f"Project {project['id']} ({project['title']}) serves the queue {served}, which another store pushed: "
            f"{_either(project)}"
        )
    return owner


def finding(project: Json, store: str | None, made: Callable[[str], bool]) -> Finding:
    """The same as something looked at."""
    try:
        owner = require_own(project, store, made)
    except AnotherStoreError as error:
        return Finding("owner", "FIX", str(error))
    return Finding(
        "owner", "ok", f"The project {'belongs to this store' if owner else 'does not belong to a store yet'}."
    )


def claim(client: LabelStudio, project: Json, owner: Owner) -> None:
    """Mark the project as the owner's, whoever had it. Raises AnotherStoreError where another one did so just now."""
    number = int(project["id"])
    weights = (project.get("control_weights") or {}) | {
        MARK: {"overall": 0.0, "type": "Choices", "labels": {}, **asdict(owner)}
    }
    client.update_project(number, control_weights=weights)
    time.sleep(SETTLE_SECONDS)
    require_own(client.get_project(number), owner.store, lambda _name: True)


def _either(project: Json) -> str:
    return (
        "nothing was changed. Use that store (its ML_BACKEND_DATA_DIR, and its ML_BACKEND_DATABASE_URL if any), or "
        f"take the project over for good with `ml-backend setup-project --project {project['id']} --take-over`."
    )
