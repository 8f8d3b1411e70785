"""Rounds and their queries: which tasks were asked for, in which order, why, and whether Label Studio serves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import NotFoundError
from ml_backend.records import ProjectKey, Query
from ml_backend.store.projects import Project, Projects, find, lock
from ml_backend.store.rows import QUERY_COLUMNS
from ml_backend.store.schema import queries, rounds, tasks

RoundState = Literal["computed", "pushed", "verified", "failed"]

UNGUESSED = "unguessed"
"""Set in the params of a round that carries no guess, as an audit waits for its certificate: one with guesses comes after it."""


@dataclass(frozen=True)
class Round:
    """One batch of queries. computed -> pushed (Label Studio has it) -> verified (Label Studio serves it); or failed.

    A computed or failed round is pushed again by the next cycle; annotators keep the queue of the round before it.
    `version` 0 means before any model; `number` 0 is the first order, served before any image was read.
    """

    project_id: int
    number: int
    version: int
    strategy: str
    seed: int
    params: dict[str, Any]
    state: RoundState
    error: str | None
    created_at: datetime
    pushed_at: datetime | None
    verified_at: datetime | None

    @property
    def served_name(self) -> str:
        """The `model_version` under which Label Studio serves this round: a new name for every queue."""
        return f"v{self.version}-r{self.number}"


@dataclass(frozen=True)
class Left:
    """What is left of a queue. tasks: asked for. waiting: neither answered, skipped, set aside, deleted nor unreadable since.

    held_out: those of the waiting that are to measure the accuracy.
    """

    tasks: int
    waiting: int
    held_out: int


class Rounds(Projects):
    """The rounds of each project."""

    def open_round(
        self,
        project: Project,
        *,
        version: int,
        strategy: str,
        seed: int,
        queries: Sequence[Query],
        params: dict[str, Any] | None = None,
        first: bool = False,
    ) -> Round:
        """Record a computed round. first: this is number 0, served before anything is read; once a project."""
        with self.database.write() as connection:
            lock(connection, project.id)
            last = connection.scalar(sa.select(sa.func.max(rounds.c.number)).where(rounds.c.project_id == project.id))
            number = 0 if first else (last or 0) + 1
            connection.execute(
                rounds.insert().values(
                    project_id=project.id,
                    number=number,
                    version=version,
                    strategy=strategy,
                    seed=seed,
                    params=params or {},
                    state="computed",
                    created_at=self.clock(),
                )
            )
            _write_queries(connection, project, number, queries)
        return self.round(project, number)

    def mark_pushed(self, round_: Round) -> Round:
        return self._mark(round_, state="pushed", pushed_at=self.clock(), error=None)

    def mark_verified(self, round_: Round) -> Round:
        """Label Studio was asked and serves this round's order."""
        return self._mark(round_, state="verified", verified_at=self.clock(), error=None)

    def mark_unserved(self, round_: Round, why: str) -> Round:
        """Label Studio has the round, but does not serve it in its order, or not any more."""
        return self._mark(round_, state="pushed", error=why)

    def mark_failed(self, round_: Round, error: str) -> Round:
        return self._mark(round_, state="failed", error=error)

    def round(self, project: Project, number: int) -> Round:
        found = self._rounds(project, rounds.c.number == number)
        if not found:
            raise NotFoundError(f"{project.key} has no round {number}; `ml-backend sync status` names the last one.")
        return found[0]

    def current_round(self, project: Project) -> Round | None:
        """The round whose queue Label Studio has: the last one pushed."""
        found = self._rounds(project, rounds.c.pushed_at.is_not(None), limit=1)
        return found[0] if found else None

    def last_round(self, project: Project) -> Round | None:
        """The last round computed, pushed or not."""
        found = self._rounds(project, limit=1)
        return found[0] if found else None

    def rounds(self, project: Project) -> list[Round]:
        """All rounds, newest first."""
        return self._rounds(project)

    def made(self, key: ProjectKey, served_name: str) -> bool:
        """Whether this store has made the queue of that name for the project."""
        with self.database.read() as connection:
            known = find(connection, key)
        return known is not None and any(round_.served_name == served_name for round_ in self.rounds(known))

    def queries(self, round_: Round) -> list[Query]:
        """The queries of a round by rank."""
        statement = (
            sa.select(*QUERY_COLUMNS)
            .where(queries.c.project_id == round_.project_id, queries.c.round == round_.number)
            .order_by(queries.c.rank)
        )
        with self.database.read() as connection:
            return [Query(*row) for row in connection.execute(statement)]

    def answered_of(self, round_: Round) -> dict[int, bool]:
        """The tasks of a round that are still there, each with whether it has been answered, skipped, set aside or turned out unreadable."""
        statement = (
            sa.select(tasks.c.task_id, sa.not_(still_waiting()))
            .join_from(
                queries,
                tasks,
                sa.and_(tasks.c.project_id == queries.c.project_id, tasks.c.task_id == queries.c.task_id),
            )
            .where(
                queries.c.project_id == round_.project_id,
                queries.c.round == round_.number,
                sa.not_(tasks.c.gone),
            )
        )
        with self.database.read() as connection:
            return {task: bool(done) for task, done in connection.execute(statement)}

    def drawn_blind(self, project: Project) -> set[int]:
        """Tasks that some round asks for in the arm of a blind audit, answered or not."""
        drawn = sa.select(queries.c.task_id).where(queries.c.project_id == project.id, queries.c.arm == "audit")
        with self.database.read() as connection:
            return set(connection.scalars(drawn))

    def left(self, round_: Round) -> Left:
        """How much of a round's queue still waits for an answer."""
        waiting = still_waiting()
        statement = (
            sa.select(
                sa.func.count(),
                sa.func.count().filter(waiting),
                sa.func.count().filter(sa.and_(waiting, queries.c.arm == "holdout")),
            )
            .select_from(
                queries.outerjoin(
                    tasks, sa.and_(tasks.c.project_id == queries.c.project_id, tasks.c.task_id == queries.c.task_id)
                )
            )
            .where(queries.c.project_id == round_.project_id, queries.c.round == round_.number)
        )
        with self.database.read() as connection:
            return Left(*connection.execute(statement).one())

    def first_asked(self, project: Project) -> list[int]:
        """The tasks of the first order, which was drawn at random from all before there was a model, ascending."""
        drawn = sa.select(queries.c.task_id).where(queries.c.project_id == project.id, queries.c.round == 0)
        with self.database.read() as connection:
            return list(connection.scalars(drawn.order_by(queries.c.task_id)))

    def asked_at_random(self, project: Project, *, later: bool) -> list[int]:
        """Tasks that were last asked for by a draw at random: that of the first order; with `later`, of a random arm, too."""
        these = [queries.c.project_id == project.id, queries.c.arm == "random", tasks.c.last_round == queries.c.round]
        if not later:
            these.append(queries.c.round == 0)
        same = sa.and_(tasks.c.project_id == queries.c.project_id, tasks.c.task_id == queries.c.task_id)
        with self.database.read() as connection:
            return list(connection.scalars(sa.select(queries.c.task_id).join_from(queries, tasks, same).where(*these)))

    def _rounds(self, project: Project, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> list[Round]:
        statement = (
            sa.select(rounds)
            .where(rounds.c.project_id == project.id, *conditions)
            .order_by(rounds.c.number.desc())
            .limit(limit)
        )
        with self.database.read() as connection:
            return [Round(**row._mapping) for row in connection.execute(statement)]  # noqa: SLF001 - its public name

    def _mark(self, round_: Round, **values: Any) -> Round:
        this = (rounds.c.project_id == round_.project_id, rounds.c.number == round_.number)
        with self.database.write() as connection:
            connection.execute(rounds.update().where(*this).values(**values))
            row = connection.execute(sa.select(rounds).where(*this)).one_or_none()
        if row is None:
            raise NotFoundError(f"Round {round_.number} is gone: its project was removed here.")
        return Round(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name


def still_waiting() -> sa.ColumnElement[bool]:
    """A task that can still be asked for."""
    return sa.and_(unanswered(), sa.not_(tasks.c.aside))


def unanswered() -> sa.ColumnElement[bool]:
    """A task without answer or skip, set aside or not."""
    return sa.and_(sa.not_(tasks.c.gone), tasks.c.answers == 0, tasks.c.skips == 0, tasks.c.image_error.is_(None))


def still_open() -> sa.ColumnElement[bool]:
    """A task that no person has answered or skipped: one that waits, or that has an accepted label alone."""
    nobody = sa.and_(tasks.c.answers == tasks.c.accepted, tasks.c.skips == 0)
    return sa.and_(sa.not_(tasks.c.gone), nobody, tasks.c.image_error.is_(None))


def _write_queries(connection: Connection, project: Project, number: int, given: Sequence[Query]) -> None:
    if not given:
        return
    rows = [{"project_id": project.id, "round": number, **vars(query)} for query in given]
    connection.execute(queries.insert(), rows)
    connection.execute(
        tasks.update()
        .where(tasks.c.project_id == project.id, tasks.c.task_id == sa.bindparam("of"))
        .values(last_round=number),
        [{"of": q.task_id} for q in given],
    )
