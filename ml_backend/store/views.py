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
    failed: (N,) bool, the image cannot be read. resting: (N,) bool, and is not to be tried now.
    holdout: (N,) bool, held out. places: (N,) float64 in [0, 1), the order in which held-out tasks are asked for; NaN
    where the image was not read yet.
    reached: (N,) int64, the round from which on a held-out task is asked for, 0 before. found: (N,) bool, somebody had
    chosen to answer it before that.
    """

    ids: NDArray[np.int64]
    hashes: NDArray[np.bytes_]
    labelled: NDArray[np.bool_]
    labels: NDArray[np.int64]
    pairs: NDArray[np.int64]
    answered: NDArray[np.bool_]
    skipped: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    resting: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    places: NDArray[np.float64]
    reached: NDArray[np.int64]
    found: NDArray[np.bool_]

    @property
    def waiting(self) -> NDArray[np.bool_]:
        """(N,) the task can still be asked for."""
        return np.asarray(~self.answered & ~self.skipped & ~self.failed)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(N,) labelled and fit to measure the accuracy: together a random sample of all tasks.

        Held-out tasks are asked for in rounds, each a random sample. Of a round with tasks that somebody had answered
        before, and so had chosen, labels count when all up to that round are settled; of others, as they come in.
        """
        asked = self.holdout & (self.reached > 0)
        first_open = self.reached[asked & self.waiting].min(initial=np.iinfo(np.int64).max)
        mixed = np.isin(self.reached, np.unique(self.reached[asked & self.found]))
        return np.asarray(asked & self.labelled & (~mixed | (self.reached < first_open)))


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
class SliceCounts:
    """The held-out tasks of a project: how many there are, have a label, measure; and of these, were found labelled."""

    tasks: int
    labelled: int
    measured: int
    found: int


@dataclass(frozen=True)
class Counts:
    """How far a project is. labelled: tasks with a label that counts, held-out ones included.

    holdout_measured: held-out labels that measure the accuracy; holdout_found: those of them that somebody had given
    before they were asked for. waiting: tasks that can still be asked for. blanks: answers in which nothing was chosen
    and that do not say "none of them".
    """

    tasks: int
    labelled: int
    holdout: int
    holdout_labelled: int
    holdout_measured: int
    holdout_found: int
    conflicts: int
    quarantined: int
    skips: int
    failed_images: int
    waiting: int
    blanks: int = 0
