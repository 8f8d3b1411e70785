"""The worker: claim a due job, run the cycle, finish it. Safe to kill at any line: another claims the job again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import FrameType

from ml_backend import cycle
from ml_backend.errors import (
    AnotherStoreError,
    BackendError,
    ConflictError,
    LabelStudioUnavailableError,
    NothingToAskError,
    ProjectGoneError,
)
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.status import turn_sentence
from ml_backend.store.job import Job
from ml_backend.store.projects import Project
from ml_backend.takeover import bury_dead, worker_name

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.1
BEAT_SECONDS = 10.0
NICENESS = 5
"""The worker yields to the web process: annotators wait for that one, not for this."""


class JobCancelledError(Exception):
    """Somebody asked the running job to stop."""


class Worker:
    """Takes jobs, one at a time. Nothing is kept in memory that is not in the store."""

    def __init__(self, services: Services, name: str | None = None) -> None:
        self.services = services
        self.name = name or worker_name()
        self.stopping = threading.Event()
        self.told: cycle.Progress = lambda _share, _message: None  # whoever watches, beside the job's own record
        self._polled = 0.0

    def run(self) -> None:
        """Work until `stopping` is set."""
        self.services.versions.sweep()
        self._take_over()
        while not self.stopping.is_set():
            self._poll()
            if not self.work():
                self.stopping.wait(IDLE_SECONDS)

    def _take_over(self) -> None:
        """Free the jobs of workers that were killed on this machine: in a container, a restart has the same name."""
        self.services.jobs.abandon(self.name)
        for project in self.services.ledger.projects():
            bury_dead(self.services, project)

    def work(self) -> bool:
        """Do one due job; False where there is none."""
        job = self.services.jobs.claim(self.name)
        if job is None:
            return False
        project = self._project(job)
        if project is not None:
            self.attempt(job, project)
        return True

    def attempt(self, job: Job, project: Project) -> None:
        """Do a claimed job; how it ended is kept with it."""
        jobs = self.services.jobs
        beat = Heartbeat(self.services, job, self.told)
        try:
            with beat:
                outcome = cycle.run(project, self.services, beat.progress)
            summary = outcome.summary()
            jobs.finish(job, summary)
            logger.info("%s: %s", project.key, turn_sentence(summary))
        except JobCancelledError:
            jobs.stop(job)
        except (NothingToAskError, ProjectGoneError) as error:
            logger.info("%s", error)
            jobs.finish(job, {"note": str(error)})
        except AnotherStoreError as error:
            logger.warning("%s", error)
            jobs.finish(job, {"refused": str(error)})  # trying again changes nothing; the next poll looks again
        except ConflictError as error:
            logger.warning("%s: %s", project.key, error)
            self._fail(job, str(error))
        except LabelStudioUnavailableError as error:
            logger.warning("%s: %s Will try again.", project.key, error)
            jobs.postpone(job, str(error))
        except BackendError as error:
            logger.error("%s: %s", project.key, error)  # noqa: TRY400 - the message says it all
            self._fail(job, str(error))
        except Exception as error:
            logger.exception("%s: the turn failed", project.key)
            self._fail(job, f"{type(error).__name__}: {error}")

    def _fail(self, job: Job, error: str) -> None:
        try:
            self.services.jobs.fail(job, error)
        except ConflictError:
            logger.warning("job %d was taken over by another worker", job.id)

    def _project(self, job: Job) -> Project | None:
        return next((p for p in self.services.ledger.projects() if p.id == job.project_id), None)

    def _poll(self) -> None:
        """Now and then look at each project even though no webhook came: events can be lost."""
        now = time.monotonic()
        if now - self._polled < self.services.settings.poll_seconds:
            return
        self._polled = now
        limit = datetime.now(UTC) - timedelta(seconds=self.services.settings.poll_seconds)
        for project in self.services.ledger.projects():
            self.services.jobs.prune(project)
            status = self.services.jobs.status(project)
            seen = project.reconciled_at
            if (
                status.stopped is None
                and status.due is None
                and status.running is None
                and (seen is None or seen < limit)
            ):
                self.services.jobs.mark_due(project, immediately=True, reason="poll")


class Heartbeat:
    """Keeps the claim alive from a thread, so that a long step is not taken for a dead worker; passes cancels on."""

    def __init__(self, services: Services, job: Job, told: cycle.Progress | None = None) -> None:
        self.services = services
        self.job = job
        self.told = told
        self.state = (0.0, "started")
        self.written = 0.0
        self.lost: ConflictError | None = None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def progress(self, share: float, message: str) -> None:
        """Note how far the job is. Raises JobCancelledError, or ConflictError where the job was given to another."""
        if self.lost is not None:
            raise self.lost
        if self.told is not None:
            self.told(share, message)
        self.state = (share, message)
        if time.monotonic() - self.written > 1.0:
            if self.services.jobs.cancelled(self.job):
                raise JobCancelledError
            self._write()

    def _beat(self) -> None:
        while not self.done.wait(BEAT_SECONDS):
            try:
                self._write()
            except ConflictError as error:
                self.lost = error
                return

    def _write(self) -> None:
        self.written = time.monotonic()
        self.services.jobs.heartbeat(self.job, *self.state)


def main() -> int:
    settings = Settings.from_environ(os.environ)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # an outage is told in one sentence of ours, not in forty lines
    os.nice(NICENESS)
    worker = Worker(Services.open(settings))

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    logger.info("worker %s is ready", worker.name)
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
