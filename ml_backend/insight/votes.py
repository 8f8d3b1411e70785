"""Who said what of the tasks that several people have answered: one vote a person, as the consensus counts them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from ml_backend.records import LabelSchema
from ml_backend.store.answers import blank
from ml_backend.store.projects import Project
from ml_backend.store.schema import answers

WHO = sa.func.coalesce(answers.c.answered_by, answers.c.annotator)
"""Who made an answer say what it says."""
COLUMNS = (
    answers.c.task_id,
    answers.c.annotation_id,
    WHO.label("who"),
    answers.c.annotator,
    answers.c.labels,
    answers.c.ground_truth,
    answers.c.created_at,
)


@dataclass(frozen=True)
class Vote:
    """who: the id of a Label Studio user; None where nobody knows."""

    who: int | None
    labels: tuple[str, ...]
    ground_truth: bool
    at: datetime


def votes_count(project: Project) -> sa.ColumnElement[bool]:
    """An answer that votes: of a person, neither a skip nor blank, and fit for the label config."""
    fit = (sa.not_(answers.c.was_cancelled), answers.c.accepted.is_(None), answers.c.quarantine.is_(None))
    return sa.and_(answers.c.project_id == project.id, *fit, sa.not_(blank(project.schema)))


def by_task(rows: Iterable[Any]) -> Iterator[tuple[int, list[Vote]]]:
    """The votes on each task, the oldest first. rows: with COLUMNS, those of a task together."""
    for task, given in groupby(rows, key=attrgetter("task_id")):
        latest: dict[object, Any] = {}
        for row in sorted(given, key=lambda row: (row.created_at, row.annotation_id)):
            latest[row.annotator if row.annotator is not None else ("unknown", row.annotation_id)] = row
        last = sorted(latest.values(), key=lambda row: (row.created_at, row.annotation_id))
        yield task, [Vote(row.who, row.labels, row.ground_truth, row.created_at) for row in last]


def in_order(labels: Sequence[str], schema: LabelSchema) -> tuple[str, ...]:
    """The labels of an answer as the label config has them, whichever was ticked first."""
    return tuple(sorted(labels, key=lambda name: (schema.labels.index(name) if name in schema.labels else -1, name)))
