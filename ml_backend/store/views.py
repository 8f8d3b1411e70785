"""What the ledger tells of a project: its tasks as arrays, as rows to export, and in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml_backend.records import Label, Task

Split = Literal["train", "holdout"]


@dataclass(frozen=True)
class PoolRows:
    """All tasks of a project as arrays, one row per task, ascending task ids.

    ids: (N,) int64. hashes: (N,) bytes, hex SHA-256 of the image, b"" where not known yet.
    labelled: (N,) bool, the task has a label that counts. labels: (N,) int64, its class index, -1 elsewhere (with
    several labels, the first in the label config's order; `pairs` has them all; -1, too, where it is none of them).
    pairs: (M, 2) int64, one line (row, class index) for every label of every labelled row.
    answered: (N,) bool, somebody has answered, whether it gave a label or not: Label Studio serves it no more.
    skipped: (N,) bool, skipped by somebody and labelled by nobody.
    holdout: (N,) bool. drawable: (N,) bool, could still be drawn into the held-out slice.
    failed: (N,) bool, the image cannot be read. resting: (N,) bool, and is not to be tried now.
    """

    ids: NDArray[np.int64]
    hashes: NDArray[np.bytes_]
    labelled: NDArray[np.bool_]
    labels: NDArray[np.int64]
    pairs: NDArray[np.int64]
    answered: NDArray[np.bool_]
    skipped: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    drawable: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    resting: NDArray[np.bool_]


@dataclass(frozen=True)
class Quarantined:
    """An answer that cannot count under the present label config, and why."""

    task_id: int
    annotation_id: int
    labels: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class LedgerRow:
    """All that is known of one task, for exports. The query fields are of the last round that asked for it."""

    task: Task
    split: Split
    content_hash: str | None
    image_error: str | None
    conflict: bool
    label: Label | None
    round: int | None = None
    strategy: str | None = None
    seed: int | None = None
    version: int | None = None
    arm: str | None = None
    rank: int | None = None
    acquisition: float | None = None
    reason: str | None = None
    confidence: float | None = None
    prediction: tuple[str, ...] = ()
    queried_at: datetime | None = None


@dataclass(frozen=True)
class Counts:
    """How far a project is. labelled: tasks with a label that counts, held-out ones included.

    waiting: tasks that can still be asked for. blanks: answers in which nothing was chosen, though one choice had to be.
    """

    tasks: int
    labelled: int
    holdout: int
    holdout_labelled: int
    conflicts: int
    quarantined: int
    skips: int
    failed_images: int
    waiting: int
    blanks: int = 0
