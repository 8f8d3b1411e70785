"""The held-out tasks of a project: which they are, which are asked for so far, and which of their labels measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from ml_backend.chunks import chunks
from ml_backend.records import BLIND
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round, Rounds, still_open
from ml_backend.store.rows import SAME_TASK, pieces
from ml_backend.store.schema import labels, queries, tasks

CHUNK = 200
"""Rows written at a time, so that webhooks wait a few milliseconds at most."""


def is_held_out(project: Project) -> sa.ColumnElement[bool]:
    """Whether a task is held out, by its place; a task whose image nobody has read is not."""
    return sa.func.coalesce(tasks.c.place, 1.0) < project.reserved_share


def count_of(name: str, *conditions: sa.ColumnElement[bool]) -> sa.Label[int]:
    """A column that counts the rows of which all of this is so."""
    return sa.func.count().filter(*conditions).label(name)


class HeldOut(Rounds):
    """The split of each project."""

    def held_out(self, project: Project, task_ids: Sequence[int]) -> set[int]:
        """Those of the tasks that are held out, asked for or not."""
        held = sa.select(tasks.c.task_id).where(tasks.c.project_id == project.id, is_held_out(project))
        with self.database.read() as connection:
            return {
                task
                for piece in pieces(task_ids)
                for task in connection.scalars(held.where(tasks.c.task_id.in_(piece)))
            }

    def settled(self, project: Project, task_ids: Sequence[int]) -> set[int]:
        """Those of the tasks that people have answered or skipped as often as they are to be: nobody is asked any more."""
        people = tasks.c.answers - tasks.c.accepted + tasks.c.skips
        enough = (tasks.c.project_id == project.id, sa.not_(tasks.c.gone), people >= project.state.overlap)
        with self.database.read() as connection:
            return {
                task
                for piece in pieces(task_ids)
                for task in connection.scalars(sa.select(tasks.c.task_id).where(*enough, tasks.c.task_id.in_(piece)))
            }

    def size(self, project: Project) -> int:
        """How many tasks the project has."""
        statement = sa.select(sa.func.count()).where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone))
        with self.database.read() as connection:
            return int(connection.scalar(statement) or 0)

    def reach(self, project: Project, asked: Mapping[int, bool], dropped: Sequence[int], *, round_: int) -> None:
        """Note which held-out tasks are asked for from this round on, each with whether it was chosen and answered before.

        dropped: tasks whose turn is yet to come, after all, because others have come before them.
        """
        statement = (
            tasks.update()
            .where(tasks.c.project_id == project.id, tasks.c.task_id == sa.bindparam("of"))
            .values(reached=sa.bindparam("round"), found=sa.bindparam("was_found"))
        )
        values = [{"of": task, "round": None, "was_found": None} for task in dropped]
        values += [{"of": task, "round": round_, "was_found": found} for task, found in asked.items()]

        def write(connection: Connection, part: Sequence[dict[str, int | None]]) -> None:
            connection.execute(statement, list(part))

        self.database.write_pieces(partial(write, part=part) for part in chunks(values, CHUNK))

    def not_measured(self, project: Project) -> list[int]:
        """Held-out tasks that are asked for and have an accepted label alone: what comes after them waits to measure."""
        stuck = (is_held_out(project), tasks.c.reached.is_not(None), still_open(), tasks.c.accepted > 0)
        statement = sa.select(tasks.c.task_id).where(tasks.c.project_id == project.id, *stuck)
        with self.database.read() as connection:
            return list(connection.scalars(statement.order_by(tasks.c.task_id)))

    def hold_back(self, project: Project, round_: Round) -> int:
        """Have the split decide which queries of a round are of the arm "holdout"; returns how many have become so.

        Those of an audit stay as they are: they show no guess either.
        """
        held_out = sa.select(tasks.c.task_id).where(tasks.c.project_id == project.id, is_held_out(project))
        statement = (
            queries.update()
            .where(
                queries.c.project_id == project.id,
                queries.c.round == round_.number,
                queries.c.arm.not_in(BLIND),
                queries.c.task_id.in_(held_out),
            )
            .values(arm="holdout")
        )
        with self.database.write() as connection:
            return connection.execute(statement).rowcount

    def holdout_counts(self, connection: Connection, project: Project) -> RowMapping:
        """The fields `holdout...` of `Counts`; by the rules of `PoolRows.measured` and `PoolRows.undecided`."""
        held_out = sa.and_(tasks.c.project_id == project.id, sa.not_(tasks.c.gone), is_held_out(project))
        reached = sa.and_(held_out, tasks.c.reached.is_not(None))
        first_open = sa.select(sa.func.min(tasks.c.reached)).where(reached, still_open()).scalar_subquery()
        chosen = sa.select(tasks.c.reached).where(reached, tasks.c.found)
        held_up = sa.or_(still_open(), sa.and_(tasks.c.reached.in_(chosen), tasks.c.reached >= first_open))
        end = sa.select(sa.func.coalesce(sa.func.min(tasks.c.place), 1.0)).where(reached, held_up).scalar_subquery()
        answered = (
            sa.select(sa.func.max(tasks.c.place)).where(reached, tasks.c.answers > tasks.c.accepted).scalar_subquery()
        )
        together = sa.select(sa.func.max(tasks.c.reached)).where(reached, tasks.c.found).scalar_subquery()
        in_the_way = sa.or_(tasks.c.place <= answered, tasks.c.reached <= together)
        has_label, readable = labels.c.task_id.is_not(None), tasks.c.image_error.is_(None)
        within = sa.and_(reached, readable, tasks.c.place < end)
        counts = sa.and_(has_label, within)
        with_label = tasks.join(labels, SAME_TASK)
        last = sa.select(sa.func.max(tasks.c.place)).select_from(with_label).where(within).scalar_subquery()
        settled = sa.and_(sa.not_(has_label), sa.not_(still_open()), readable)
        statement = (
            sa.select(
                sa.func.count().label("holdout"),
                count_of("holdout_labelled", has_label),
                count_of("holdout_measured", counts),
                count_of("holdout_found", counts, tasks.c.found),
                count_of("holdout_open", tasks.c.reached.is_not(None), still_open(), in_the_way),
                count_of(
                    "holdout_accepted", tasks.c.reached.is_not(None), still_open(), in_the_way, tasks.c.accepted > 0
                ),
                count_of("holdout_undecided", settled, tasks.c.place <= last),
                count_of("holdout_unreadable", has_label, sa.not_(readable)),
            )
            .select_from(tasks.outerjoin(labels, SAME_TASK))
            .where(held_out)
        )
        return connection.execute(statement).mappings().one()
