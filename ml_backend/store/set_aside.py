"""Tasks that a person has set aside: they are not asked for until they are taken back. Measuring and labels do not look at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import ConflictError
from ml_backend.store.heldout import HeldOut, is_held_out
from ml_backend.store.projects import Project, lock
from ml_backend.store.rows import pieces
from ml_backend.store.schema import acceptances, tasks


class SetAside(HeldOut):
    """The tasks of each project that are set aside."""

    def aside(self, project: Project, task_ids: Sequence[int] | None = None) -> list[int]:
        """Tasks that are set aside and not held out, answered since or not, ascending; those of some if asked."""
        return self._found(project, task_ids)

    def aside_waiting(self, project: Project, task_ids: Sequence[int] | None = None) -> list[int]:
        """Of those the ones that nobody has answered or skipped since."""
        return self._found(project, task_ids, tasks.c.answers == 0, tasks.c.skips == 0)

    def _found(self, project: Project, task_ids: Sequence[int] | None, *where: sa.ColumnElement[bool]) -> list[int]:
        mine = sa.select(tasks.c.task_id).where(
            tasks.c.project_id == project.id,
            sa.not_(tasks.c.gone),
            tasks.c.aside,
            sa.not_(is_held_out(project)),
            *where,
        )
        some = [mine] if task_ids is None else [mine.where(tasks.c.task_id.in_(few)) for few in pieces(task_ids)]
        with self.database.read() as connection:
            return [task for each in some for task in connection.scalars(each.order_by(tasks.c.task_id))]

    def set_aside(self, project: Project, task_ids: Iterable[int]) -> list[int]:
        """Have these be asked for no more; returns those that were until now, ascending. All of them, or none if it is killed.

        What has an answer or a skip is left as it is, and what is held out, which measures: none of it may be passed over.
        Raises ConflictError while an audit is on, which may have drawn them.
        """
        free = (tasks.c.answers == 0, tasks.c.skips == 0, sa.not_(tasks.c.aside))
        with self.database.write() as connection:
            now = lock(connection, project.id)
            asking = sa.select(acceptances.c.number).where(
                acceptances.c.project_id == project.id, acceptances.c.state == "auditing"
            )
            if connection.scalar(asking.limit(1)) is not None:
                raise ConflictError("An audit is on, and may ask for these: end it first, under Accept the rest.")
            return _mark(connection, now, task_ids, True, *free, sa.not_(is_held_out(now)))

    def take_back(self, project: Project, task_ids: Iterable[int]) -> list[int]:
        """Have these be asked for as any others; returns those that were set aside, ascending. All of them, or none if it is killed."""
        with self.database.write() as connection:
            lock(connection, project.id)
            return _mark(connection, project, task_ids, False, tasks.c.aside)


def _mark(
    connection: Connection, project: Project, task_ids: Iterable[int], aside: bool, *where: sa.ColumnElement[bool]
) -> list[int]:
    mine = (tasks.c.project_id == project.id, sa.not_(tasks.c.gone), *where)
    statement = tasks.update().where(*mine).values(aside=aside).returning(tasks.c.task_id)
    return sorted(
        task
        for piece in pieces(task_ids)
        for task in connection.scalars(statement.where(tasks.c.task_id.in_(piece))).all()
    )
