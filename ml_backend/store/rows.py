"""What is read of the tables: rows as the records that travel between rooms, the tasks as arrays, and counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ml_backend.chunks import chunks
from ml_backend.records import AcceptedLabel, Annotation, Label, Origin, Query, Task
from ml_backend.store.schema import accepted, labels, queries, tasks

Split = Literal["train", "holdout"]

SAME_TASK = sa.and_(labels.c.project_id == tasks.c.project_id, labels.c.task_id == tasks.c.task_id)
TASK_COLUMNS = (tasks.c.task_id, tasks.c.image, tasks.c.data, tasks.c.updated_at)
QUERY_COLUMNS = tuple(queries.c[field.name] for field in fields(Query))
ANSWER_FIELDS = tuple(field.name for field in fields(Annotation) if field.name not in {"id", "editor"})
"""What is kept of an annotation under the same name."""

STREAM = 500
"""Rows fetched at a time where a whole project is read. Thousands at once cost Python's garbage collector twice the time."""
IDS = 1_000
"""Ids named in one statement, however many a project has: PostgreSQL takes 65,535 parameters, SQLite 250,000."""

ACCEPTED_COLUMNS = tuple(accepted.c[field.name].label(f"accepted_{field.name}") for field in fields(AcceptedLabel))
SAME_TASK_ACCEPTED = sa.and_(accepted.c.project_id == tasks.c.project_id, accepted.c.task_id == tasks.c.task_id)
_accepted = attrgetter(*(column.name for column in ACCEPTED_COLUMNS))
_label = attrgetter(*(field.name for field in fields(Label)))


def pieces(ids: Iterable[int]) -> Iterator[list[int]]:
    """The distinct ids, ascending, as many at a time as a statement may name."""
    return chunks(sorted(set(ids)), IDS)


def task_of(row: Any) -> Task:
    """Read a row that has at least TASK_COLUMNS."""
    return Task(id=row.task_id, image=row.image, data=json.loads(row.data), updated_at=row.updated_at)


def annotation_of(row: Any) -> Annotation:
    return Annotation(id=row.annotation_id, **{name: getattr(row, name) for name in ANSWER_FIELDS})


def label_of(row: Any) -> Label:
    """Read a row of `labels` joined with its task, which knows of the conflict."""
    return Label(*_label(row))


def accepted_of(row: Any) -> AcceptedLabel | None:
    """Read a row that has ACCEPTED_COLUMNS, of an outer join."""
    return None if row.accepted_task_id is None else AcceptedLabel(*_accepted(row))


@dataclass(frozen=True)
class PoolRows:
    """All tasks of a project as arrays, one row per task, ascending task ids.

    ids: (N,) int64. hashes: (N,) bytes, hex SHA-256 of the image, b"" where not known yet.
    labelled: (N,) bool, the task has a label that counts. labels: (N,) int64, its class index, -1 elsewhere (with
    several labels, the first in the label config's order; `pairs` has them all; -1, too, where it is none of them).
    pairs: (M, 2) int64, one line (row, class index) for every label of every labelled row.
    answered: (N,) bool, somebody has answered, whether it gave a label or not: Label Studio serves it no more.
    accepted: (N,) bool, of these, the ones that no person has answered: a model's label was accepted.
    skipped: (N,) bool, skipped by somebody and labelled by nobody.
    failed: (N,) bool, the image cannot be read. resting: (N,) bool, and is not to be tried now.
    holdout: (N,) bool, held out. places: (N,) float64 in [0, 1), the order in which held-out tasks are asked for; NaN
    where the image was not read yet.
    aside: (N,) bool, somebody has set it aside: it is not asked for until it is taken back, unless it is held out.
    reached: (N,) int64, the round from which on a held-out task is asked for, 0 before. found: (N,) bool, somebody had
    chosen to answer it before that.
    """

    ids: NDArray[np.int64]
    hashes: NDArray[np.bytes_]
    labelled: NDArray[np.bool_]
    labels: NDArray[np.int64]
    pairs: NDArray[np.int64]
    answered: NDArray[np.bool_]
    accepted: NDArray[np.bool_]
    skipped: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    resting: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    aside: NDArray[np.bool_]
    places: NDArray[np.float64]
    reached: NDArray[np.int64]
    found: NDArray[np.bool_]

    @property
    def waiting(self) -> NDArray[np.bool_]:
        """(N,) the task can still be asked for."""
        return np.asarray(~self.answered & ~self.skipped & ~self.failed & ~self.set_aside)

    @property
    def set_aside(self) -> NDArray[np.bool_]:
        """(N,) not asked for until it is taken back. What is held out is, whatever it was before: none of it is passed over."""
        return np.asarray(self.aside & ~self.holdout)

    @property
    def open(self) -> NDArray[np.bool_]:
        """(N,) no person has answered or skipped it: it waits, or has an accepted label alone, which measures nothing."""
        return np.asarray((~self.answered | self.accepted) & ~self.skipped & ~self.failed)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(N,) labelled, with an image, and fit to measure the accuracy: together a random sample of all tasks.

        The first of the held-out tasks in their order, up to one that is asked for and open: what is left open, as hard
        images may be, is not passed over.
        """
        asked, end = self._asked()
        return np.asarray(asked & self.labelled & ~self.failed & (self.places < end))

    @property
    def undecided(self) -> NDArray[np.bool_]:
        """(N,) up to the last that is measured, and without a label for good: skipped, or answered with what is none."""
        within = self.holdout & (self.places <= self.places[self.measured].max(initial=-1.0))
        return np.asarray(within & ~self.labelled & ~self.open & ~self.failed)

    def _asked(self) -> tuple[NDArray[np.bool_], float]:
        """(N,) the held-out tasks that are asked for, and the place of the first of them that is open.

        Those that are asked for from one round on count as open together where somebody had answered some of them before,
        and so had chosen, until all up to that round are settled.
        """
        asked = self.holdout & (self.reached > 0)
        open_ = asked & self.open
        first_open = self.reached[open_].min(initial=np.iinfo(np.int64).max)
        chosen = asked & np.isin(self.reached, np.unique(self.reached[asked & self.found]))
        held_up = open_ | (chosen & (self.reached >= first_open))
        return asked, float(self.places[held_up].min(initial=1.0))


@dataclass(frozen=True)
class LedgerRow:
    """All that is known of one task, for exports. The query fields are of the last round that asked for it.

    skipped: by somebody, and labelled by nobody. accepted: the model's label that stands where people gave none.
    """

    task: Task
    split: Split
    content_hash: str | None
    image_error: str | None
    conflict: bool
    label: Label | None
    skipped: bool = False
    accepted: AcceptedLabel | None = None
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

    @property
    def origin(self) -> Origin | None:
        """Whose label it has; None for none. audited: people gave it without seeing the model's, for the sample of an audit."""
        if self.label:
            return "audited" if self.arm == "audit" else "human"
        return "accepted" if self.accepted else None

    def names(self, *, accepted: bool) -> tuple[str, ...] | None:
        """The names of its label, () for none of them; of one accepted of a model if asked; None for no label."""
        label = self.label or (self.accepted if accepted else None)
        return None if label is None else label.labels


@dataclass(frozen=True)
class Counts:
    """How far a project is. labelled: tasks with a label that counts, held-out ones included.

    holdout: held-out tasks; holdout_labelled: those of them with a label; holdout_measured: with one that measures the
    accuracy; holdout_found: and that somebody had given before it was asked for.
    holdout_open: held-out tasks asked for, not answered yet, and before or with such as are. holdout_accepted: those of them
    that have an accepted label. holdout_undecided: as
    `PoolRows.undecided`. holdout_unreadable: labelled, and do not measure as their image cannot be read.
    waiting: tasks that can still be asked for. aside: tasks without an answer that cannot, as they are set aside. accepted: tasks without a label of people whose label is a model's. blanks: answers in which nothing was chosen and that do not say "none of
    them".
    """

    tasks: int
    labelled: int
    holdout: int
    holdout_labelled: int
    holdout_measured: int
    holdout_found: int
    holdout_open: int
    holdout_accepted: int
    holdout_undecided: int
    holdout_unreadable: int
    conflicts: int
    quarantined: int
    skips: int
    failed_images: int
    waiting: int
    aside: int = 0
    accepted: int = 0
    blanks: int = 0
