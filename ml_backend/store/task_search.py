"""Tasks by a part of their image's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import sqlalchemy as sa

from ml_backend.records import Task
from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from ml_backend.store.rows import STREAM, TASK_COLUMNS, task_of
from ml_backend.store.schema import tasks
from ml_backend.task_names import address_path, task_filename

_PLAIN = re.compile(r"[A-Za-z0-9]+")
"""What stands in JSON and in addresses as it is."""
PARTS = 4
"""The longest of them are looked for."""


def tasks_named(database: Database, project: Project, text: str, *, after: int = 0) -> Iterator[Task]:
    """The tasks above id `after` in whose filename or path `text` is, whatever the case; by ascending id, streamed.

    The database looks for the plain parts of it, and of what it finds the names are looked at here.
    """
    statement = (
        sa.select(*TASK_COLUMNS)
        .where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone), tasks.c.task_id > after)
        .order_by(tasks.c.task_id)
    )
    parts = sorted(set(_PLAIN.findall(text)), key=len)[
        -PARTS:
    ]  # one alone may be in every name: "image" of "image-0999"
    statement = statement.where(*(_has(part) for part in parts))
    if not parts:  # as JSON and addresses have it: letters that are none of the plain ones
        wanted = text.strip().casefold()
        spelt = sorted({each for written in (wanted, wanted.upper(), text.strip()) for each in _spelt(written)})
        statement = statement.where(sa.or_(*map(_has, spelt)))
    with database.read() as connection:
        for row in connection.execute(statement.execution_options(yield_per=STREAM)):
            task = task_of(row)
            if is_named(task, text):
                yield task


def is_named(task: Task, text: str) -> bool:
    """Whether the text is in its filename or path, whatever the case."""
    wanted = text.strip().casefold()
    return any(wanted in name.casefold() for name in _names(task))


def _has(part: str) -> sa.ColumnElement[bool]:
    return sa.or_(*(column.icontains(part, autoescape=True) for column in (tasks.c.data, tasks.c.image)))


def _spelt(text: str) -> set[str]:
    return {text, json.dumps(text)[1:-1], quote(text)}


def _names(task: Task) -> Iterator[str]:
    yield task_filename(task)
    yield address_path(task.image or "")
    if isinstance(path := task.data.get("path"), str):
        yield path
