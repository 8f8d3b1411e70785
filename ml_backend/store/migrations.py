"""Forward steps between schemas of the store. Each runs once, in the transaction that opens the store."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.split import place
from ml_backend.store import schema

Migration = Callable[[Connection], None]

PIECE = 5_000
"""Rows brought up to date at a time."""


def to_schema_2(connection: Connection) -> None:
    """Tasks get their place in the split, by which they are held out; what was drawn by the rule before is forgotten.

    Images whose fault was once for good are tried again. Annotations get who made them say what they say,
    versions the order in which they were served. Answers in which nothing is chosen are read again: some of them say
    "none of them".
    """
    task = schema.tasks.c
    added = (
        task.place,
        task.reached,
        task.found,
        task.image_attempts,
        task.image_retry_at,
        schema.answers.c.answered_by,
        schema.answers.c.none_of,
        schema.projects.c.several_of,
        schema.versions.c.turn,
    )
    for column in added:
        _add_column(connection, column)
    failed = sa.text("UPDATE tasks SET image_retry_at = CURRENT_TIMESTAMP WHERE image_error IS NOT NULL")
    connection.execute(failed)
    for index in schema.tasks.indexes:
        index.create(connection, checkfirst=True)
    for former in ("split", "drawn_at", "first_answered_at"):
        connection.exec_driver_sql(f"ALTER TABLE tasks DROP COLUMN {former}")
    _give_places(connection)
    _read_blanks_again(connection)


def to_schema_3(connection: Connection) -> None:
    """Labels that were accepted of a model are told from those of people, and attempts to accept have a table. There was none before."""
    for column in (schema.tasks.c.accepted, schema.answers.c.accepted):
        _add_column(connection, column)
    schema.accepted.create(connection)
    schema.acceptances.create(connection)


def to_schema_4(connection: Connection) -> None:
    """Answers get the seconds that they took, known from the next one on; tasks can be set aside; what people do on our own pages is kept."""
    for column in (schema.answers.c.seconds, schema.tasks.c.aside):
        _add_column(connection, column)
    schema.acts.create(connection)


MIGRATIONS: tuple[Migration, ...] = (to_schema_2, to_schema_3, to_schema_4)
"""Forward steps from schema 1 on: MIGRATIONS[0] turns a schema 1 into a schema 2. A new store is made at the newest."""


def _add_column(connection: Connection, column: sa.Column[object]) -> None:
    definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")


def _read_blanks_again(connection: Connection) -> None:
    blank = "labels = '[]' AND NOT was_cancelled"
    connection.exec_driver_sql(
        f"UPDATE projects SET full_at = NULL WHERE id IN (SELECT project_id FROM annotations WHERE {blank})"  # noqa: S608
    )
    connection.exec_driver_sql(f"DELETE FROM annotations WHERE {blank}")  # noqa: S608


def _give_places(connection: Connection) -> None:
    """Put every task whose content is known at its place. Projects of schema 1 have no seed of their own: it is 0."""
    tasks = sa.table("tasks", *(sa.column(name) for name in ("project_id", "task_id", "content_hash", "place")))
    key = sa.tuple_(tasks.c.project_id, tasks.c.task_id)
    given = (
        tasks.update()
        .where(tasks.c.project_id == sa.bindparam("project"), tasks.c.task_id == sa.bindparam("task"))
        .values(place=sa.bindparam("at"))
    )
    last = (0, -1)
    while True:
        piece = (
            sa.select(tasks.c.project_id, tasks.c.task_id, tasks.c.content_hash)
            .where(key > sa.tuple_(*map(sa.literal, last)), tasks.c.content_hash.is_not(None))
            .order_by(tasks.c.project_id, tasks.c.task_id)
            .limit(PIECE)
        )
        rows = connection.execute(piece).all()
        if not rows:
            return
        connection.execute(
            given, [{"project": row.project_id, "task": row.task_id, "at": place(row.content_hash, 0)} for row in rows]
        )
        last = (rows[-1].project_id, rows[-1].task_id)
