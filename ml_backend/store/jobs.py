"""Durable jobs: at most one due and one running a project; a burst of labels becomes one training, not many.

A job waits (due) until enough labels are there or it has been quiet, is claimed by a worker (running) and ends as done,
failed or cancelled. Labels that arrive while it runs make one successor due. A paused project's job waits on. All times come
from the clock given.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import ConflictError
from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.job import MOST_QUIET, Debounce, Job, JobStatus, RetryPolicy
from ml_backend.store.liveness import Watch
from ml_backend.store.projects import Project, lock
from ml_backend.store.schema import jobs, projects

# Built once: a webhook pays as long for building such a statement as for running it.
_WAITING = sa.select(jobs).where(jobs.c.project_id == sa.bindparam("of"), jobs.c.state == "due")
_MOVE = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("job"))
    .values(labels=sa.bindparam("labels"), immediate=sa.bindparam("immediate"), due_at=sa.bindparam("due_at"))
)


class Jobs:
    """The jobs of all projects of one store."""

    def __init__(
        self,
        database: Database,
        *,
        debounce: Debounce | None = None,
        retry_policy: RetryPolicy | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.database = database
        self.debounce = debounce or Debounce()
        self.retry_policy = retry_policy or RetryPolicy()
        self.clock = clock
        self._watch = Watch()

    def mark_due(
        self,
        project: Project,
        *,
        labels: int = 0,
        immediately: bool = False,
        reason: str,
        now: datetime | None = None,
    ) -> Job:
        """Ask for a training; joins the job that is already due, if there is one. Starts a failed project again."""
        with self.database.write() as connection:
            state = lock(connection, project.id).state
            return self.mark_due_in(
                connection,
                project.id,
                labels=labels,
                immediately=immediately,
                reason=reason,
                now=now,
                debounce=self.debounce.of(state.chosen),
            )

    def mark_due_in(
        self,
        connection: Connection,
        project_id: int,
        *,
        labels: int = 0,
        immediately: bool = False,
        fresh: bool = False,
        reason: str,
        now: datetime | None = None,
        debounce: Debounce | None = None,
    ) -> Job:
        """Do the same inside the caller's transaction, which has locked the project: event and job are kept together.

        fresh: the project has no queue yet, so that somebody waits for this. debounce: the project's; None: as the service is set,
        which is all the same where it is due immediately.
        """
        now, debounce = now or self.clock(), debounce or self.debounce
        row = connection.execute(_WAITING, {"of": project_id}).one_or_none()
        waiting = None if row is None else _job(row)
        total = labels + (waiting.labels if waiting else 0)
        enough = immediately or total >= debounce.labels
        due_at = now if enough else now + (debounce.fresh if fresh else debounce.quiet)
        if waiting is None:
            new = {"reason": reason, "labels": labels, "immediate": immediately, "due_at": due_at}
            return _insert(connection, project_id, now, state="due", **new)
        if not immediately and (waiting.failures or waiting.crashes or waiting.delays):
            due_at = waiting.due_at  # it waits for its next try: new labels do not hurry it, a person does
        elif enough or waiting.immediate or waiting.due_at <= now:
            due_at = min(due_at, waiting.due_at)  # never put off what was due already
        elif fresh:
            due_at = min(due_at, waiting.created_at + debounce.quiet)
        moved: dict[str, Any] = {"labels": total, "immediate": immediately or waiting.immediate, "due_at": due_at}
        connection.execute(_MOVE, {"job": waiting.id, **moved})
        return replace(waiting, **moved)

    def retime_in(self, connection: Connection, before: Project, after: Project) -> None:
        """Inside the caller's transaction: the project's debounce has changed, and a job that waits for labels goes by it now.

        What was due stays due, and what waits for its next try waits.
        """
        old, new = self.debounce.of(before.state.chosen), self.debounce.of(after.state.chosen)
        job = _one(connection, jobs.c.project_id == after.id, jobs.c.state == "due")
        now = self.clock()
        if old == new or job is None or job.immediate or job.due_at <= now or job.failures or job.crashes or job.delays:
            return
        last = job.due_at - old.quiet
        if job.labels >= new.labels:
            _update(connection, job.id, due_at=now)
        elif last >= job.created_at:  # else it is the first queue's, which waits a moment for the rest of an import
            _update(connection, job.id, due_at=min(last, now) + new.quiet)

    def claim(self, worker: str, now: datetime | None = None, *, project: Project | None = None) -> Job | None:
        """Take the next job that is due, or None. Projects take turns: the one served longest ago comes first.

        project: of this one alone. Jobs of workers that fell silent are made due again first. `worker` names the
        process, for people and logs.
        """
        now = now or self.clock()
        only = (jobs.c.project_id == project.id,) if project else ()
        latest = self._latest()
        with self.database.read() as connection:  # idle workers ask often; asking must not take the write lock
            if not self._silent(connection, now) and _next(connection, now, latest, *only) is None:
                return None
        with self.database.write() as connection:
            for silent in self._silent(connection, now):
                self._crashed(connection, silent, now)
            while (found := _next(connection, now, latest, *only)) is not None:
                paused = lock(connection, found.project_id).state.paused
                job = _one(connection, jobs.c.id == found.id, jobs.c.state == "due")
                running = _one(connection, jobs.c.project_id == found.project_id, jobs.c.state == "running")
                if job is None or running is not None or paused:
                    continue  # PostgreSQL: another was faster while we waited for the project's lock
                return _update(
                    connection,
                    job.id,
                    state="running",
                    worker=worker,
                    claims=job.claims + 1,
                    started_at=now,
                    heartbeat_at=now,
                    progress=0.0,
                    message="",
                )
        return None

    def begin(self, project: Project, worker: str, reason: str) -> Job | None:
        """Enter a job as running at once, for work that must not meet a cycle; None while another one runs.

        What is due stays due, and starts when this one has ended.
        """
        now = self.clock()
        with self.database.write() as connection:
            for silent in self._silent(connection, now):
                self._crashed(connection, silent, now)
            lock(connection, project.id)
            if _one(connection, jobs.c.project_id == project.id, jobs.c.state == "running") is not None:
                return None
            times = {"due_at": now, "started_at": now, "heartbeat_at": now}
            asked = {"reason": reason, "labels": 0, "immediate": False, "worker": worker, "claims": 1}
            return _insert(connection, project.id, now, state="running", **times, **asked)

    def heartbeat(self, job: Job, progress: float, message: str = "") -> Job:
        """Say that the job is alive, how far (0..1) and at what. Raises ConflictError if it was given to another."""
        now = self.clock()
        with self.database.write() as connection:
            self._own(connection, job)
            return _update(connection, job.id, heartbeat_at=now, progress=progress, message=message)

    def finish(self, job: Job, summary: dict[str, Any] | None = None) -> Job:
        """The job is done. Raises ConflictError if it was given to another worker meanwhile."""
        now = self.clock()
        with self.database.write() as connection:
            self._own(connection, job)
            return _update(
                connection, job.id, state="done", finished_at=now, progress=1.0, summary=summary or {}, error=None
            )

    def fail(self, job: Job, error: str) -> Job:
        """The job went wrong: due again after a pause, or failed for good after `RetryPolicy.failures` errors in a row.

        A failed project starts again when the next label arrives, or at once if labels arrived while the job ran.
        """
        now = self.clock()
        with self.database.write() as connection:
            current = self._own(connection, job)
            failures = current.failures + 1
            if failures >= self.retry_policy.failures:
                return _update(connection, job.id, state="failed", finished_at=now, failures=failures, error=error)
            due_at = now + self.retry_policy.pause(failures)
            return self._again(connection, current, due_at=due_at, failures=failures, error=error)

    def postpone(self, job: Job, reason: str) -> Job:
        """Label Studio is away, which is not the job's fault: due again after a pause, as often as it takes."""
        now = self.clock()
        with self.database.write() as connection:
            current = self._own(connection, job)
            delays = current.delays + 1
            due_at = now + min(self.retry_policy.pause(delays), self.retry_policy.away)
            return self._again(connection, current, due_at=due_at, delays=delays, error=reason)

    def hand_back(self, job: Job) -> Job:
        """The worker stops, or has lost the store for a while: due again at once, which is no fault of the job's."""
        now = self.clock()
        with self.database.write() as connection:
            current = self._own(connection, job)
            if current.cancel_requested:
                return _cancelled(connection, current, now)
            return self._again(connection, current, due_at=now)

    def abandon(self, worker: str) -> int:
        """The worker of that name is known to be dead: its jobs are due again at once. Returns how many."""
        now = self.clock()
        with self.database.write() as connection:
            left = connection.execute(sa.select(jobs).where(jobs.c.state == "running", jobs.c.worker == worker)).all()
            return sum(self._crashed(connection, _job(row), now) for row in left)

    def cancel(self, project: Project) -> bool:
        """Ask what is running to stop; where nothing runs, drop what is due. Returns whether there was anything.

        What is due behind a running job is for labels that came since, and stays.
        """
        now = self.clock()
        with self.database.write() as connection:
            lock(connection, project.id)
            running = _one(connection, jobs.c.project_id == project.id, jobs.c.state == "running")
            if running is not None:
                _update(connection, running.id, cancel_requested=True)
                return True
            due = _one(connection, jobs.c.project_id == project.id, jobs.c.state == "due")
            if due is not None:
                _update(connection, due.id, state="cancelled", finished_at=now, error="cancelled before it started")
            return due is not None

    def cancelled(self, job: Job) -> bool:
        """Whether the running job should stop. Cheap. Raises ConflictError if it was given to another."""
        mine = sa.select(jobs.c.cancel_requested).where(
            jobs.c.id == job.id, jobs.c.state == "running", jobs.c.claims == job.claims
        )
        with self.database.read() as connection:
            requested: bool | None = connection.scalar(mine)
        if requested is None:
            raise _taken(job)
        return requested

    def stop(self, job: Job) -> Job:
        """The running job has stopped because it was cancelled."""
        now = self.clock()
        with self.database.write() as connection:
            return _cancelled(connection, self._own(connection, job), now)

    def others_wait(self, job: Job) -> bool:
        """Whether the job of another project is due."""
        now = self.clock()
        with self.database.read() as connection:
            other = jobs.c.project_id != job.project_id
            return _next(connection, now, self._latest(), other) is not None

    def waits(self) -> bool:
        """Whether a job is due that a worker could claim."""
        with self.database.read() as connection:
            return _next(connection, self.clock(), self._latest()) is not None

    def history(self, project: Project, *, limit: int = 50) -> list[Job]:
        """The project's jobs, newest first, the due and the running one included."""
        statement = sa.select(jobs).where(jobs.c.project_id == project.id).order_by(jobs.c.id.desc()).limit(limit)
        with self.database.read() as connection:
            return [_job(row) for row in connection.execute(statement)]

    def status(self, project: Project) -> JobStatus:
        mine = jobs.c.project_id == project.id
        with self.database.read() as connection:
            ended = (
                sa.select(jobs)
                .where(mine, jobs.c.finished_at.is_not(None))
                .order_by(jobs.c.finished_at.desc(), jobs.c.id.desc())
                .limit(1)
            )
            last = connection.execute(ended).one_or_none()
            others = (
                sa.select(jobs).where(sa.not_(mine), jobs.c.state == "running").order_by(jobs.c.started_at).limit(1)
            )
            other = connection.execute(others).one_or_none()
            return JobStatus(
                due=_one(connection, mine, jobs.c.state == "due"),
                running=_one(connection, mine, jobs.c.state == "running"),
                last=None if last is None else _job(last),
                elsewhere=None if other is None else _job(other),
            )

    def prune(self, project: Project, *, keep: int = 1000) -> int:
        """Forget all but the last `keep` ended jobs."""
        mine = (jobs.c.project_id == project.id, jobs.c.finished_at.is_not(None))
        with self.database.write() as connection:
            kept = sa.select(jobs.c.id).where(*mine).order_by(jobs.c.id.desc()).limit(keep)
            return connection.execute(jobs.delete().where(*mine, jobs.c.id.not_in(kept))).rowcount

    def _latest(self) -> timedelta:
        return max(self.debounce.quiet, self.debounce.fresh, self.retry_policy.longest, self.retry_policy.away)

    def _own(self, connection: Connection, job: Job) -> Job:
        """Return the job as it is now, if this claim of it still holds."""
        lock(connection, job.project_id)
        mine = _one(connection, jobs.c.id == job.id, jobs.c.state == "running", jobs.c.claims == job.claims)
        if mine is None:
            raise _taken(job)
        return mine

    def _silent(self, connection: Connection, now: datetime) -> list[Job]:
        rows = connection.execute(sa.select(jobs).where(jobs.c.state == "running"))
        running, policy = {row.id: _job(row) for row in rows}, self.retry_policy
        beats = {job.id: (job.claims, job.heartbeat_at) for job in running.values()}
        return [running[silent] for silent in self._watch.silent(beats, now, policy.lease, policy.observation)]

    def _crashed(self, connection: Connection, job: Job, now: datetime) -> bool:
        lock(connection, job.project_id)
        current = _one(connection, jobs.c.id == job.id, jobs.c.state == "running", jobs.c.claims == job.claims)
        if current is None:
            return False
        crashes = current.crashes + 1
        error = f"the worker {current.worker} died at {current.progress:.0%} ({current.message or 'just started'})"
        if current.cancel_requested:
            _cancelled(connection, current, now)
        elif crashes >= self.retry_policy.crashes:
            error += f", {crashes} times by now; usually it runs out of memory"
            _update(connection, job.id, state="failed", finished_at=now, crashes=crashes, error=error)
        else:
            self._again(connection, current, due_at=now, crashes=crashes, error=error)
        return True

    def _again(self, connection: Connection, job: Job, *, due_at: datetime, **values: Any) -> Job:
        """Make a running job due again; a successor that came up meanwhile is taken into it."""
        successor = _one(connection, jobs.c.project_id == job.project_id, jobs.c.state == "due")
        if successor is not None:
            connection.execute(jobs.delete().where(jobs.c.id == successor.id))
            values |= {"labels": job.labels + successor.labels, "immediate": job.immediate or successor.immediate}
        return _update(connection, job.id, state="due", due_at=due_at, worker=None, heartbeat_at=None, **values)


def _next(connection: Connection, now: datetime, latest: timedelta, *only: sa.ColumnElement[bool]) -> Job | None:
    """Find the due job of the project that was served longest ago, among projects with nothing running and not paused.

    A job made in the future, or due in more than `latest`, which is more than any job waits, was made before the clock
    was set back: nobody knows how long it has waited, so it is due. (Where a project's own quiet may be longer: in MOST_QUIET.)
    """
    other, before = jobs.alias(), jobs.alias()
    running = sa.exists().where(other.c.project_id == jobs.c.project_id, other.c.state == "running")
    last_turn = (
        sa.select(sa.func.max(before.c.started_at)).where(before.c.project_id == jobs.c.project_id).scalar_subquery()
    )
    usual = projects.c.settings[("chosen", "train_after_seconds")].as_string().is_(None)
    late = sa.or_(jobs.c.due_at > now + max(latest, MOST_QUIET), sa.and_(usual, jobs.c.due_at > now + latest))
    due = sa.or_(jobs.c.due_at <= now, jobs.c.created_at > now, late)
    paused = projects.c.settings["paused"].as_string().is_not(None)
    statement = (
        sa.select(jobs)
        .join(projects, projects.c.id == jobs.c.project_id)
        .where(jobs.c.state == "due", due, sa.not_(running), sa.not_(paused), *only)
        .order_by(last_turn.asc().nulls_first(), jobs.c.due_at, jobs.c.id)
        .limit(1)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else _job(row)


def _one(connection: Connection, *conditions: sa.ColumnElement[bool]) -> Job | None:
    row = connection.execute(sa.select(jobs).where(*conditions)).one_or_none()
    return None if row is None else _job(row)


def _insert(connection: Connection, project_id: int, now: datetime, **values: Any) -> Job:
    new = jobs.insert().values(project_id=project_id, created_at=now, **values)
    return _job(connection.execute(new.returning(jobs)).one())


def _taken(job: Job) -> ConflictError:
    return ConflictError(
        f"Job {job.id} now belongs to another worker, because this one was silent for too long. Its work is dropped."
    )


def _cancelled(connection: Connection, job: Job, now: datetime) -> Job:
    return _update(connection, job.id, state="cancelled", finished_at=now, error="cancelled while running")


def _update(connection: Connection, job_id: int, **values: Any) -> Job:
    return _job(connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values).returning(jobs)).one())


def _job(row: Any) -> Job:
    return Job(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
