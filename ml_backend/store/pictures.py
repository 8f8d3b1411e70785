"""What is known of each task's image: its content hash, or why it cannot be read and when it is tried again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ml_backend.chunks import chunks
from ml_backend.records import Task
from ml_backend.split import place
from ml_backend.store.projects import Project, Projects
from ml_backend.store.rows import STREAM, TASK_COLUMNS, pieces, task_of
from ml_backend.store.schema import tasks

CHUNK = 200
"""Rows written at a time, so that webhooks wait a few milliseconds at most."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
"""Before an image whose fault may pass is tried again; doubled each time."""


@dataclass(frozen=True)
class Away:
    """Images that cannot be fetched for the time being: how many, when the next is tried again, and why one of them."""

    images: int
    next_at: datetime | None
    reason: str


class Pictures(Projects):
    """The images of the tasks of all projects."""

    def tasks_without_hash(self, project: Project) -> Iterator[Task]:
        """Tasks whose image is to be read: not read yet, or not to be had a while ago and now worth another try."""
        return self._stream(project, tasks.c.content_hash.is_(None), sa.not_(resting(self.clock())))

    def images(self, project: Project) -> Iterator[tuple[int, str | None]]:
        """Task ids, ascending, each with the content hash of its image, None where it is yet to be read; streamed.

        Without images that could not be read and are not to be tried now.
        """
        statement = (
            sa.select(tasks.c.task_id, tasks.c.content_hash)
            .where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone), sa.not_(resting(self.clock())))
            .order_by(tasks.c.task_id)
        )
        with self.database.read() as connection:
            result = connection.execute(statement.execution_options(yield_per=STREAM))
            yield from ((row.task_id, row.content_hash) for row in result)

    def set_content_hash(self, project: Project, hashes: Mapping[int, str]) -> None:
        """Note what the image of each task is, by hex SHA-256 of its bytes, which decides its place in the split.

        Clears an earlier failure.
        """
        known, seed = {"error": None, "attempts": None, "retry_at": None}, project.state.split_seed
        self._set_image(project, [{"of": i, "hash": h, "at": place(h, seed), **known} for i, h in hashes.items()])

    def content_hashes(self, project: Project, given: Sequence[Task]) -> dict[int, str]:
        """Hash by task id, of those `given` tasks whose image is known and still the same reference."""
        references = {task.id: task.image for task in given}
        known = sa.select(tasks.c.task_id, tasks.c.image, tasks.c.content_hash).where(
            tasks.c.project_id == project.id, tasks.c.content_hash.is_not(None)
        )
        with self.database.read() as connection:
            rows = [
                row
                for piece in pieces(references)
                for row in connection.execute(known.where(tasks.c.task_id.in_(piece)))
            ]
        return {row.task_id: row.content_hash for row in rows if row.image == references[row.task_id]}

    def set_image_errors(self, project: Project, errors: Mapping[int, str], *, passing: Collection[int] = ()) -> None:
        """Note the tasks whose image could not be read, and why.

        passing: those of them that may well be read later. They are offered again (`tasks_without_hash`) after a pause
        that grows with each failure; what was known of the content of one stays known. The others are offered again by
        `retry_images` alone. One that was read before keeps its place: what is held out stays held out though a
        file went away.
        """
        for_good = {"hash": None, "at": None, "attempts": None, "retry_at": None}
        lasting = [{"of": i, "error": e, **for_good} for i, e in errors.items() if i not in passing]
        self._set_image(project, lasting)
        self._set_away(project, {i: e for i, e in errors.items() if i in passing})

    def image_errors(self, project: Project) -> dict[int, str]:
        statement = (
            sa.select(tasks.c.task_id, tasks.c.image_error)
            .where(tasks.c.project_id == project.id, tasks.c.image_error.is_not(None), sa.not_(tasks.c.gone))
            .order_by(tasks.c.task_id)
        )
        with self.database.read() as connection:
            return {row.task_id: row.image_error for row in connection.execute(statement)}

    def unreadable(self, project: Project, *, after: int = 0, limit: int = 100) -> list[tuple[Task, str]]:
        """Up to `limit` tasks above id `after` whose image cannot be read, by id, each with the reason."""
        statement = (
            sa.select(*TASK_COLUMNS, tasks.c.image_error)
            .where(*_failed(project), tasks.c.task_id > after)
            .order_by(tasks.c.task_id)
            .limit(limit)
        )
        with self.database.read() as connection:
            return [(task_of(row), row.image_error) for row in connection.execute(statement)]

    def away(self, project: Project) -> Away:
        """The images that are tried again by themselves."""
        known = (*_failed(project), tasks.c.image_retry_at.is_not(None))
        some = sa.select(sa.func.count(), sa.func.min(tasks.c.image_retry_at), sa.func.max(tasks.c.image_error))
        with self.database.read() as connection:
            count, next_at, reason = connection.execute(some.where(*known)).one()
        return Away(count, next_at, reason or "")

    def retry_images(self, project: Project) -> int:
        """Offer every image that could not be read again (`tasks_without_hash`), lasting faults, too; returns how many."""
        failed = list(self.image_errors(project))
        again = {"hash": None, "at": None, "error": None, "attempts": None, "retry_at": None}
        self._set_image(project, [{"of": i, **again} for i in failed])
        return len(failed)

    def _set_image(self, project: Project, values: list[dict[str, Any]]) -> None:
        """at: the place, or None to leave it. At another place it is another image, not asked for yet."""
        new = sa.func.coalesce(sa.bindparam("at", type_=tasks.c.place.type), tasks.c.place)
        same = new.is_not_distinct_from(tasks.c.place)
        statement = (
            tasks.update()
            .where(tasks.c.project_id == project.id, tasks.c.task_id == sa.bindparam("of"))
            .values(
                content_hash=sa.bindparam("hash"),
                place=new,
                reached=sa.case((same, tasks.c.reached)),
                found=sa.case((same, tasks.c.found)),
                image_error=sa.bindparam("error"),
                image_attempts=sa.bindparam("attempts"),
                image_retry_at=sa.bindparam("retry_at", type_=tasks.c.image_retry_at.type),
            )
        )
        for part in chunks(values, CHUNK):
            with self.database.write(bulk=True) as connection:
                connection.execute(statement, part)

    def _set_away(self, project: Project, errors: Mapping[int, str]) -> None:
        statement = (
            tasks.update()
            .where(
                tasks.c.project_id == project.id,
                tasks.c.task_id == sa.bindparam("of"),
                tasks.c.content_hash.is_(None),
            )
            .values(
                image_error=sa.bindparam("error"),
                image_attempts=sa.bindparam("attempts"),
                image_retry_at=sa.bindparam("retry_at", type_=tasks.c.image_retry_at.type),
            )
        )
        attempts = sa.select(tasks.c.task_id, tasks.c.image_attempts).where(tasks.c.project_id == project.id)
        now = self.clock()
        for piece in chunks(sorted(errors), CHUNK):
            with self.database.write(bulk=True) as connection:
                known = connection.execute(attempts.where(tasks.c.task_id.in_(piece)))
                tried = {task_id: (before or 0) + 1 for task_id, before in known}
                values = [
                    {"of": i, "error": errors[i], "attempts": times, "retry_at": now + pause(times)}
                    for i, times in tried.items()
                ]
                if values:
                    connection.execute(statement, values)

    def _stream(self, project: Project, *conditions: sa.ColumnElement[bool]) -> Iterator[Task]:
        statement = (
            sa.select(*TASK_COLUMNS)
            .where(tasks.c.project_id == project.id, *conditions, sa.not_(tasks.c.gone))
            .order_by(tasks.c.task_id)
        )
        with self.database.read() as connection:
            for row in connection.execute(statement.execution_options(yield_per=STREAM)):
                yield task_of(row)


def resting(now: datetime) -> sa.ColumnElement[bool]:
    """Images that could not be read and are not to be tried now: for good, or not yet."""
    again = sa.and_(tasks.c.image_retry_at.is_not(None), tasks.c.image_retry_at <= now)
    return sa.and_(tasks.c.image_error.is_not(None), sa.not_(again))


def pause(attempts: int) -> timedelta:
    """How long an image rests after so many failures in a row."""
    return min(FIRST_PAUSE * (1 << min(attempts - 1, 20)), LONGEST_PAUSE)


def _failed(project: Project) -> tuple[sa.ColumnElement[bool], ...]:
    without_hash = tasks.c.content_hash.is_(None)  # implied: it has the index used
    return tasks.c.project_id == project.id, without_hash, tasks.c.image_error.is_not(None), sa.not_(tasks.c.gone)
