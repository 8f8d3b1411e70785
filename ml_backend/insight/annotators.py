"""What each annotator did: answers, skips, agreement with the others, accuracy against ground truth, seconds an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import permutations

import sqlalchemy as sa

from ml_backend.insight.votes import COLUMNS, WHO, Vote, by_task, votes_count
from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from ml_backend.store.rows import STREAM
from ml_backend.store.schema import answers


@dataclass(frozen=True)
class Share:
    """hits of `of`."""

    hits: int = 0
    of: int = 0


@dataclass(frozen=True)
class Annotator:
    """who: the id of a Label Studio user; None where nobody knows.

    agreement: of the answers of others to the same tasks, those that say the same. accuracy: of the answers to tasks whose
    ground truth somebody else has given, those that say the same. seconds: the median of an answer, skips not counted.
    """

    who: int | None
    answers: int
    skips: int
    last_at: datetime
    seconds: float | None
    agreement: Share
    accuracy: Share


def annotators(project: Project, database: Database) -> list[Annotator]:
    """Who answered most comes first. What was accepted of a model is nobody's. Reads every answer: some seconds for a million."""
    with database.read() as connection:
        did = connection.execute(_did(project)).all()
        seconds = {row.who: row.median for row in connection.execute(_medians(project))}
        rows = connection.execute(_several(project).execution_options(yield_per=STREAM))
        agreement, accuracy = compared(votes for _, votes in by_task(rows))
    found = [
        Annotator(
            row.who, row.answers, row.skips, row.last_at, seconds.get(row.who),
            agreement.get(row.who, Share()), accuracy.get(row.who, Share()),
        )
        for row in did
    ]  # fmt: skip
    return sorted(found, key=lambda each: (-each.answers, -each.skips, each.who is None, each.who or 0))


def compared(tasks: Iterable[list[Vote]]) -> tuple[dict[int | None, Share], dict[int | None, Share]]:
    """Agreement and accuracy of each person, of the votes on each task. A person is not compared with themselves."""
    agrees, met, right, tested = (Counter[int | None]() for _ in range(4))
    for votes in tasks:
        for mine, other in permutations(votes, 2):
            if mine.who == other.who and mine.who is not None:
                continue
            same = set(mine.labels) == set(other.labels)
            met[mine.who] += 1
            agrees[mine.who] += same
        truth = next((vote for vote in reversed(votes) if vote.ground_truth), None)
        for mine in votes if truth else ():
            if truth and not mine.ground_truth and mine.who != truth.who:
                tested[mine.who] += 1
                right[mine.who] += set(mine.labels) == set(truth.labels)
    return (
        {who: Share(agrees[who], of) for who, of in met.items()},
        {who: Share(right[who], of) for who, of in tested.items()},
    )


def _did(project: Project) -> sa.Select[tuple[int | None, int, int, datetime]]:
    cancelled = answers.c.was_cancelled
    return (
        sa.select(
            WHO.label("who"),
            sa.func.count().filter(sa.not_(cancelled)).label("answers"),
            sa.func.count().filter(cancelled).label("skips"),
            sa.type_coerce(sa.func.max(answers.c.created_at), answers.c.created_at.type).label("last_at"),
        )
        .where(answers.c.project_id == project.id, answers.c.accepted.is_(None))
        .group_by(WHO)
    )


def _medians(project: Project) -> sa.Select[tuple[int | None, float]]:
    """The middle one of each, or the mean of the two in the middle: databases agree on no function for it."""
    timed = (answers.c.project_id == project.id, answers.c.seconds.is_not(None), sa.not_(answers.c.was_cancelled))
    place = sa.func.row_number().over(partition_by=WHO, order_by=answers.c.seconds).label("place")
    count = sa.func.count().over(partition_by=WHO).label("count")
    each = sa.select(WHO.label("who"), answers.c.seconds, place, count).where(*timed, answers.c.accepted.is_(None))
    of = each.subquery()
    middle = of.c.place.in_([(of.c.count + 1) // 2, (of.c.count + 2) // 2])
    return sa.select(of.c.who, sa.func.avg(of.c.seconds).label("median")).where(middle).group_by(of.c.who)


def _several(project: Project) -> sa.Select[tuple[object, ...]]:
    """The votes on every task that has more than one."""
    votes = votes_count(project)
    tasks = sa.select(answers.c.task_id).where(votes).group_by(answers.c.task_id).having(sa.func.count() > 1)
    return sa.select(*COLUMNS).where(votes, answers.c.task_id.in_(tasks)).order_by(answers.c.task_id)
