"""Work asked for from the command line: beside a running service, or without one. One job a project at a time, always.

Both go through the job table. A turn is marked due; a worker that is awake takes it within a tenth of a second, and its
progress is followed. Where none does, it is claimed and run in this process, by the same code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ml_backend.cycle import Progress
from ml_backend.errors import AnotherStoreError, BackendError, ConflictError
from ml_backend.project_settings import refuse_paused
from ml_backend.services import Services
from ml_backend.steps.change_encoder import REASON
from ml_backend.store.job import Job
from ml_backend.store.projects import Project
from ml_backend.wording import job_reason
from ml_backend.worker.heartbeat import Heartbeat
from ml_backend.worker.loop import Worker
from ml_backend.worker.requeue import requeue_job_of_dead_process, worker_name

WORKER_SECONDS = 1.5
"""A worker of the service asks for jobs ten times a second; one that has not taken it by now is busy or not there."""
LOOK_SECONDS = 0.1
TOLD_SECONDS = 1.0
"""Waited by then, a person is told for what."""


def run_turn(
    project: Project, services: Services, reason: str, on_progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Run one turn of the cycle to its end; returns its summary. Raises BackendError with the reason where it failed.

    Raises ConflictError where the project is paused, or is while this waits: the turn is due then, and comes once it goes on.
    """
    refuse_paused(services.ledger.project(project.key))
    requeue_job_of_dead_process(project, services)
    job = services.jobs.mark_due(project, immediately=True, reason=reason)
    asked, before = time.monotonic(), _ended(project, services)
    while True:
        status = services.jobs.status(project)
        if status.running is not None:
            on_progress(status.running.progress, status.running.message)
            requeue_job_of_dead_process(project, services)
        elif status.due is None:
            return _outcome(project, services, job, before)
        elif status.due.error and status.due.failures + status.due.delays > job.failures + job.delays:
            raise BackendError(f"{status.due.error} The service will try again by itself while it is running.")
        elif time.monotonic() - asked > WORKER_SECONDS:
            refuse_paused(services.ledger.project(project.key))
            _run_here(project, services, on_progress)
            continue
        time.sleep(LOOK_SECONDS)


@contextmanager
def alone(
    project: Project, services: Services, reason: str, on_progress: Progress | None = None, wait: float = 900.0
) -> Iterator[Callable[[], object]]:
    """Do something while no turn of this project runs, here or in the service; waits for the one that does.

    Who has to wait is told for what: by `on_progress`, or else on standard error.
    Gives what raises ConflictError once this is alone no more: it was stopped for so long that it was taken for dead.
    Raises ConflictError where another one runs for longer than `wait` seconds.
    """
    began, told = time.monotonic(), False
    while (job := services.jobs.begin(project, worker_name(), reason)) is None:
        running = services.jobs.status(project).running
        waited = time.monotonic() - began
        if waited > wait:
            raise ConflictError(f"A turn of {project.key} has been running for {wait:.0f} s: try again later.")
        if running is not None and on_progress:
            on_progress(0.0, f"waiting: {job_reason(running.reason)}, {running.progress:.0%} {running.message}")
        elif running is not None and waited > TOLD_SECONDS and not told:
            told = True
            print(_waiting(project, running), file=sys.stderr, flush=True)
        requeue_job_of_dead_process(project, services)
        time.sleep(LOOK_SECONDS)
    try:
        with Heartbeat(services, job):
            yield partial(services.jobs.cancelled, job)
    except BaseException:
        with suppress(BackendError):  # what went wrong in the block is what the person is to read
            services.jobs.stop(job)
        raise
    with suppress(ConflictError):  # taken for dead meanwhile, by a clock that jumped: what was done is done
        services.jobs.finish(job)


def _waiting(project: Project, running: Job) -> str:
    doing = f", {running.message}" if running.message else ""
    return (
        f"Waiting: something else is being done in {project.title!r} ({job_reason(running.reason)}{doing}). This goes on when "
        "that has ended; Ctrl-C gives up waiting."
    )


def _run_here(project: Project, services: Services, on_progress: Progress) -> None:
    """Claim the due job, if nobody has meanwhile, and do it in this process."""
    worker = Worker(services, worker_name())
    worker.on_progress = on_progress
    job = services.jobs.claim(worker.name, project=project)
    if job is None:
        return
    worker.attempt(job, project)
    _change_encoder(project, services, on_progress)


def _change_encoder(project: Project, services: Services, on_progress: Progress) -> None:
    """Make the vectors of an encoder that was set since, all of them: there may be no service that would.

    Where the project is due meanwhile, that goes first.
    """

    def is_due() -> bool:
        due = services.jobs.status(project).due
        return due is not None and due.due_at <= services.jobs.clock()

    def tell(done: int, total: int) -> None:
        on_progress(done / max(total, 1), f"{done} of {total} vectors of the next encoder")

    while (reached := services.encoder_change.go_on(project, is_due, tell)) == "part" and not is_due():
        pass
    if reached == "all there":
        services.jobs.mark_due(project, immediately=True, reason=REASON)


def _ended(project: Project, services: Services) -> int:
    last = services.jobs.status(project).last
    return last.id if last else 0


def _outcome(project: Project, services: Services, job: Job, before: int) -> dict[str, Any]:
    """How the job ended; should a failed one have taken it in, how that one did."""
    history = services.jobs.history(project)
    mine = next((known for known in history if known.id == job.id), None)
    mine = mine or next((known for known in history if known.id > before), None) or services.jobs.status(project).last
    if mine is None or mine.state == "cancelled":
        raise ConflictError("The turn was cancelled: run the command again.")
    if mine.state == "failed":
        raise BackendError(mine.error or "The turn failed: see the service's log.")
    summary = mine.summary or {}
    if refused := summary.get("refused"):
        raise AnotherStoreError(refused)
    return summary
