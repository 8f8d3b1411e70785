"""Every task that can be on a map, read as a few small arrays: a million take seconds, and never live as objects at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ml_backend.store.database import Database
from ml_backend.store.heldout import is_held_out
from ml_backend.store.projects import Project
from ml_backend.store.rows import SAME_TASK, pieces
from ml_backend.store.schema import labels, tasks

PART = 20_000
NONE = 65_535
"""Stands for no class."""
LEARNED, WAITS, MEASURES, TO_MEASURE, SKIPPED, ACCEPTED, OTHER, ASIDE = range(8)
"""What a task is: labelled; waiting for a label; held out and labelled; held out without; skipped; accepted of the model; answered otherwise; set aside."""
SEVERAL, NOBODY = -1, 0
"""In place of an annotator."""


@dataclass(frozen=True)
class MapRows:
    """Some tasks, by ascending id. hashes: hex SHA-256 of the image, "" where it was not read. label: uint16, place in the label config, or NONE.

    kind: uint8. annotator: int64, Label Studio's user, SEVERAL or NOBODY.
    """

    ids: NDArray[np.int64]
    hashes: list[str]
    label: NDArray[np.uint16]
    kind: NDArray[np.uint8]
    annotator: NDArray[np.int64]


def map_rows(
    database: Database, project: Project, task_ids: Sequence[int] | None = None, *, share: float = 1.0
) -> Iterator[MapRows]:
    """All tasks of the project that have not gone, or those of them that are named, in parts.

    share: about so many of those whose image was read, drawn by its content.
    """
    of_model = sa.and_(tasks.c.accepted > 0, tasks.c.answers == tasks.c.accepted)
    kind = sa.case(
        (sa.and_(labels.c.task_id.is_not(None), is_held_out(project)), MEASURES),
        (labels.c.task_id.is_not(None), LEARNED),
        (is_held_out(project), TO_MEASURE),
        (of_model, ACCEPTED),
        (tasks.c.skips > 0, SKIPPED),
        (tasks.c.answers > 0, OTHER),
        (tasks.c.aside, ASIDE),
        else_=WAITS,
    )
    told = sa.type_coerce(labels.c.labels, sa.Text), sa.type_coerce(labels.c.annotators, sa.Text)
    statement = (
        sa.select(tasks.c.task_id, tasks.c.content_hash, *told, kind)
        .select_from(tasks.outerjoin(labels, SAME_TASK))
        .where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone))
        .order_by(tasks.c.task_id)
    )
    if share < 1:
        statement = statement.where(sa.func.substr(tasks.c.content_hash, 57) < format(int(share * 16**8), "08x"))
    names, people = _Known(project), _People()
    some = [statement] if task_ids is None else [statement.where(tasks.c.task_id.in_(few)) for few in pieces(task_ids)]
    with database.read() as connection:
        for part in chain.from_iterable(
            connection.execute(each.execution_options(yield_per=500)).partitions(PART) for each in some
        ):
            ids, hashes, given, by, kinds = zip(*part, strict=True)
            yield MapRows(
                np.array(ids, np.int64),
                [digest or "" for digest in hashes],
                np.array([names[text] for text in given], np.uint16),
                np.array(kinds, np.uint8),
                np.array([people[text] for text in by], np.int64),
            )


class _Known(dict[str | None, int]):
    """Stored labels -> the place of the first of them; each text is read once."""

    def __init__(self, project: Project) -> None:
        self._labels = {name: place for place, name in enumerate(project.schema.labels)}

    def __missing__(self, text: str | None) -> int:
        found: list[Any] = json.loads(text) if text else []
        self[text] = min((self._labels[name] for name in found if name in self._labels), default=NONE)
        return self[text]


class _People(dict[str | None, int]):
    def __missing__(self, text: str | None) -> int:
        found: list[Any] = json.loads(text) if text else []
        self[text] = NOBODY if not found else found[0] if len(found) == 1 else SEVERAL
        return self[text]
