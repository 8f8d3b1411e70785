"""One version of a model: what it is called, what became of it, and whether it may be served."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ml_backend.errors import InvalidInputError
from ml_backend.records import LabelSchema
from ml_backend.store.version_meta import VersionMeta

VersionState = Literal["candidate", "passed", "promoted", "rejected", "rolled_back", "pruned"]
"""candidate: not judged yet. passed: good enough, but another version was pinned. promoted: served, now or before.

What the gate or a person found of a version: being pinned changes nothing of it.
"""
PASSED: tuple[VersionState, ...] = ("passed", "promoted")
WHILE_PINNED = "v%s is pinned"
"""Why a version that was good enough was not served."""


@dataclass(frozen=True)
class Version:
    """One trained model. `folder` holds its files and never changes; `meta` is its meta.json."""

    project_id: int
    number: int
    state: VersionState
    reason: str
    meta: VersionMeta
    created_at: datetime
    promoted_at: datetime | None
    folder: Path

    @property
    def name(self) -> str:
        return f"v{self.number}"

    def fits(self, schema: LabelSchema) -> bool:
        """Whether it was trained for the labels that the project has now, in whatever order, and for as many an image."""
        classes, multiple = self.meta.classes, self.meta.multiple
        return (classes is None or set(classes) == set(schema.labels)) and multiple in {None, schema.multiple}


@dataclass(frozen=True)
class Verdict:
    """Whether a version may be served. reason: why it must not be; None: it may."""

    reason: str | None = None


def was_good_enough(state: str, reason: str | None, promoted_at: datetime | None) -> bool:
    """Whether a version has been good enough to be served: by its state, or by what is left of it where its files were deleted."""
    if state != "pruned":
        return state in PASSED
    return (promoted_at is not None and not reason) or bool(re.fullmatch(WHILE_PINNED % "[0-9]+", reason or ""))


def version_number(name: str) -> int:
    """The number of a version as people call it: "v4", or "4". Raises InvalidInputError."""
    found = re.fullmatch(r"[vV]?([0-9]{1,9})", name.strip())
    if found is None:
        raise InvalidInputError(f"{name!r} is not a version: versions are called v1, v2, ...")
    return int(found[1])
