"""Rows of the tables as the records that travel between rooms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from ml_backend.records import Annotation, Label, Task
from ml_backend.store.schema import labels, tasks

SAME_TASK = sa.and_(labels.c.project_id == tasks.c.project_id, labels.c.task_id == tasks.c.task_id)
TASK_COLUMNS = (tasks.c.task_id, tasks.c.image, tasks.c.data, tasks.c.updated_at)

STREAM = 5_000
"""Rows fetched at a time where a whole project is read."""
IDS = 1_000
"""Ids named in one statement, however many a project has: PostgreSQL takes 65,535 parameters, SQLite 250,000."""


def pieces(ids: Iterable[int]) -> Iterator[list[int]]:
    """The distinct ids, ascending, as many at a time as a statement may name."""
    ordered = sorted(set(ids))
    return (ordered[start : start + IDS] for start in range(0, len(ordered), IDS))


def task_of(row: Any) -> Task:
    """Read a row that has at least TASK_COLUMNS."""
    return Task(id=row.task_id, image=row.image, data=json.loads(row.data), updated_at=row.updated_at)


def annotation_of(row: Any) -> Annotation:
    return Annotation(
        id=row.annotation_id,
        task_id=row.task_id,
        labels=row.labels,
        was_cancelled=row.was_cancelled,
        ground_truth=row.ground_truth,
        annotator=row.annotator,
        created_at=row.created_at,
        updated_at=row.updated_at,
        answered_by=row.answered_by,
        none_of=row.none_of,
    )


def label_of(row: Any) -> Label:
    """Read a row of `labels` joined with its task, which knows of the conflict."""
    return Label(
        task_id=row.task_id,
        labels=row.labels,
        annotation_id=row.annotation_id,
        annotators=row.annotators,
        agreement=row.agreement,
        conflict=row.conflict,
        ground_truth=row.ground_truth,
        labelled_at=row.labelled_at,
    )
