"""The worker: claim a due job, run the cycle, finish it. Safe to kill at any line: another claims the job again."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from ml_backend import cycle
from ml_backend.errors import (
    AnotherStoreError,
    BackendError,
    ConfigError,
    ConflictError,
    ImageAwayError,
    LabelStudioUnavailableError,
    NotFoundError,
    NothingToAskError,
    ProjectGoneError,
    ReadOnlyError,
    StoreError,
    TurnPausedError,
)
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.status import turn_sentence
from ml_backend.store.faults import retry_until_available, translated
from ml_backend.store.job import Job
from ml_backend.store.projects import Project
from ml_backend.worker.encoder_changes import EncoderChanges
from ml_backend.worker.heartbeat import Heartbeat, JobCancelledError, JobLostError, WorkerStoppingError
from ml_backend.worker.mapping import MapLayouts
from ml_backend.worker.requeue import requeue_job_of_dead_process, worker_name
from ml_backend.worker.supervisor import CANNOT_HEAL, on_termination
from ml_backend.worker.time_slice import Share

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.1
STOP_SECONDS = 3.0
"""What a step that cannot be interrupted may still take after SIGTERM."""
LOOKS, EARLY = 0.1, 0.75
"""Shares of the time between two polls of a project: how often it is looked whether one is due, and when it is; so that
what a person changed is put right before that time has passed, the turn included."""
RARELY = timedelta(days=1)
NICENESS = 5
"""The worker yields to the web process: annotators wait for that one, not for this."""


class Worker:
    """Takes jobs, one at a time. Nothing is kept in memory that is not in the store."""

    def __init__(self, services: Services, name: str | None = None) -> None:
        self.services = services
        self.name = name or worker_name()
        self.stopping = threading.Event()
        self.on_progress: cycle.Progress = lambda _share, _message: None  # whoever watches, beside the job's own record
        self.job: Job | None = None  # under way
        self.layouts = MapLayouts(services)
        self.changes = EncoderChanges(services, self._is_wanted)
        self._polled, self._unsure = 0.0, False

    def run(self) -> None:
        """Work until `stopping` is set, whatever becomes of the store meanwhile. Raises ReadOnlyError."""
        started = self.retry_until_available(self._take_over)
        while started and not self.stopping.is_set():
            self.retry_until_available(self._poll)
            if not self.retry_until_available(self.work):
                self.retry_until_available(self.layouts.go_on)
                self.retry_until_available(self.changes.go_on)
                self.stopping.wait(IDLE_SECONDS)
        self.layouts.end()

    def retry_until_available(self, do: Callable[[], Result]) -> Result | None:
        """Do it as soon as the store can be used; None where `stopping` was set first."""
        with suppress(StoreError):
            return retry_until_available(do, self.stopping.wait, pause=IDLE_SECONDS)
        return None

    def _take_over(self) -> bool:
        """Free the jobs of workers that were killed on this machine: in a container, a restart has the same name."""
        self.services.versions.sweep()
        self.services.jobs.abandon(self.name)
        projects = self.services.ledger.projects()
        services = self.services
        for files in (
            services.checkpoints,
            services.graph_files,
            services.map_files,
            services.point_files,
            services.name_files,
        ):
            files.sweep({project.id for project in projects if not project.state.gone})
        for project in projects:
            requeue_job_of_dead_process(project, self.services)
        return True

    def work(self) -> bool:
        """Do one due job; False where there is none."""
        if self._unsure:
            self.services.jobs.abandon(self.name)  # the store may have gone away with its answer to a claim
        self._unsure = True
        job = self.services.jobs.claim(self.name)
        self._unsure = False
        if job is None:
            return False
        self.job = job
        self.layouts.stand_still()
        try:
            project = self.retry_until_available(lambda: self._project(job))
            if project is not None:
                self.attempt(job, project, Share(self.services, job, self._poll).check_paused)
            elif not self.stopping.is_set():  # replaced after it was claimed
                self._end(job, partial(self.services.jobs.finish, job, {"note": "The project is no longer there."}))
        finally:
            self.job = None
        return True

    def attempt(self, job: Job, project: Project, check_paused: Callable[[], None] = lambda: None) -> None:
        """Do a claimed job; how it ended is kept with it, as soon as that can be written.

        check_paused: called while images are encoded; raises TurnPausedError where other projects are to have their turn.
        """
        jobs = self.services.jobs
        beat = Heartbeat(self.services, job, self.on_progress, self.stopping)
        end: Callable[[], object]
        try:
            with beat, translated(str(self.services.settings.data_dir)):
                summary = cycle.run(project, self.services, beat.progress, check_paused=check_paused).summary()
            end = partial(jobs.finish, job, summary)
            logger.info("%s: %s", project.key, turn_sentence(summary))
        except JobCancelledError:
            logger.info("%s: cancelled", project.key)
            self.services.checkpoints.discard(project.id)
            end = partial(jobs.stop, job)
        except (TurnPausedError, WorkerStoppingError, JobLostError):
            end = partial(jobs.hand_back, job)
        except ReadOnlyError:
            raise
        except Exception as error:  # noqa: BLE001 - told and kept, whatever it was
            end = self._failed(job, project, error)
        self._end(job, end)

    def _failed(self, job: Job, project: Project, error: Exception) -> Callable[[], object]:
        """Tell what went wrong; returns what is to be kept of it."""
        jobs, sentence = self.services.jobs, str(error)
        if isinstance(error, NothingToAskError | ProjectGoneError):
            logger.info("%s", error)
            return partial(jobs.finish, job, {"note": sentence})
        if isinstance(error, AnotherStoreError):
            logger.warning("%s", error)
            return partial(jobs.finish, job, {"refused": sentence})  # the next poll looks again
        if isinstance(error, LabelStudioUnavailableError | StoreError | ImageAwayError):
            if job.error != sentence:
                logger.warning("%s: %s Will try again.", project.key, error)
            return partial(jobs.postpone, job, sentence)
        if isinstance(error, BackendError):
            logger.error("%s: %s", project.key, error)
            return partial(jobs.fail, job, sentence)
        logger.error("%s: the turn failed", project.key, exc_info=error)
        for files in (self.services.checkpoints, self.services.graph_files):
            files.discard(project.id)  # it may be what it fails of
        return partial(jobs.fail, job, f"{type(error).__name__}: {error}")

    def _end(self, job: Job, end: Callable[[], object]) -> None:
        try:
            self.retry_until_available(end)
        except (ConflictError, NotFoundError) as error:
            logger.warning("job %d: %s", job.id, error)  # another worker has it by now, or its project was forgotten

    def stop(self) -> None:
        """End within STOP_SECONDS, whatever runs; call it from a signal handler. A job under way is handed back."""
        self.stopping.set()
        threading.Thread(target=self._end_soon, daemon=True).start()

    def _end_soon(self) -> None:
        """End the process where it does not by itself: a step inside a library, or a server that does not answer.

        Whatever it was doing may be cut off anywhere, as by a kill.
        """
        time.sleep(STOP_SECONDS)
        handing = threading.Thread(target=self._hand_back, daemon=True)
        handing.start()
        handing.join(1.0)  # where that takes longer, the next worker finds the job of a dead one
        os._exit(0)

    def _hand_back(self) -> None:
        if (job := self.job) is not None:
            with suppress(BackendError):
                self.services.jobs.hand_back(job)

    def _project(self, job: Job) -> Project | None:
        return next((p for p in self.services.ledger.projects() if p.id == job.project_id), None)

    def _is_wanted(self) -> bool:
        """Asked by what is done while there is no turn: whether one is due, or the worker is to end."""
        if self.stopping.is_set():
            return True
        self._poll()
        return self.services.jobs.waits()

    def _poll(self) -> None:
        """Now and then look at each project even though no webhook came: events can be lost."""
        now = time.monotonic()
        if now - self._polled < LOOKS * self.services.settings.poll_seconds:
            return
        for project in self.services.ledger.projects():
            if self._is_to_be_polled(project):
                self.services.jobs.prune(project)
                self.services.jobs.mark_due(project, immediately=True, reason="poll")
        self._polled = now

    def _is_to_be_polled(self, project: Project) -> bool:
        """One that is gone is asked for again after pauses that double, a day at most: it will hardly come back.

        A paused one is left alone: who resumes it has it looked at.
        """
        if project.state.paused:
            return False
        status = self.services.jobs.status(project)
        if status.stopped is not None or status.due is not None or status.running is not None:
            return False
        now, every = datetime.now(UTC), timedelta(seconds=self.services.settings.poll_seconds)
        if since := project.state.gone:
            asked = status.last.finished_at if status.last and status.last.finished_at else now
            pause = asked - datetime.fromisoformat(since) if isinstance(since, str) else RARELY
            return now - asked >= min(max(pause, every), RARELY)
        seen = project.reconciled_at
        return seen is None or not now - EARLY * every <= seen <= now  # later than now: Label Studio's clock is ahead


def main() -> int:
    try:
        settings = Settings.from_environ(os.environ)
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        # An outage is told in one sentence of ours, not in forty lines.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        os.nice(NICENESS)
        services = retry_until_available(partial(Services.open, settings))
        worker = Worker(services)
        on_termination(worker.stop)
        logger.info("worker %s is ready", worker.name)
        worker.run()
    except ConfigError as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        return CANNOT_HEAL
    return 0


if __name__ == "__main__":
    sys.exit(main())
