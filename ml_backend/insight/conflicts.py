"""The tasks on which annotators differ: who said what, the last answer first."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ml_backend.insight.votes import COLUMNS, Vote, by_task, votes_count
from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from ml_backend.store.schema import answers, labels, tasks

PAGE = 20
DIFFERING = sa.text("tasks.conflict")
"""As the index of such tasks has it: SQLAlchemy would write `= 1` for SQLite, which is no reason to use it."""


@dataclass(frozen=True)
class Conflict:
    """label: what counts, by the rule of the project; None where it leaves that open. votes: the oldest first."""

    task: int
    label: tuple[str, ...] | None
    votes: list[Vote]


def conflicts(project: Project, database: Database, *, page: int = 1) -> list[Conflict]:
    """Up to PAGE of them; page 1 is that of the last answers."""
    mine = sa.and_(answers.c.project_id == tasks.c.project_id, answers.c.task_id == tasks.c.task_id)
    last = sa.select(sa.func.max(answers.c.created_at)).where(mine).correlate(tasks).scalar_subquery()
    newest = (
        sa.select(tasks.c.task_id)
        .where(tasks.c.project_id == project.id, DIFFERING)
        .order_by(last.desc(), tasks.c.task_id.desc())
        .limit(PAGE)
        .offset(PAGE * (page - 1))
    )
    with database.read() as connection:
        these = list(connection.scalars(newest))
        voted = sa.select(*COLUMNS).where(votes_count(project), answers.c.task_id.in_(these))
        votes = dict(by_task(connection.execute(voted.order_by(answers.c.task_id))))
        decided = sa.select(labels.c.task_id, labels.c.labels).where(
            labels.c.project_id == project.id, labels.c.task_id.in_(these)
        )
        label = {row.task_id: row.labels for row in connection.execute(decided)}
    return [Conflict(task, label.get(task), votes.get(task, [])) for task in these]


def count(project: Project, database: Database) -> int:
    statement = sa.select(sa.func.count()).where(tasks.c.project_id == project.id, DIFFERING)
    with database.read() as connection:
        return int(connection.scalar(statement) or 0)
