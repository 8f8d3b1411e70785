"""While a job runs: its sign of life, how far it is, and whether it is to stop."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from ml_backend.cycle import Progress
from ml_backend.errors import BackendError, ConflictError, NotFoundError, StoreError
from ml_backend.services import Services
from ml_backend.store.job import Job

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0
"""Between two looks whether the job was cancelled; and how often it is noted how far it is."""
LONGEST_PAUSE = 8.0
HOLD = 0.75
"""Share of the lease after which a worker that could not renew it stops by itself, before another one starts the same."""


class JobCancelledError(Exception):
    """Somebody asked the running job to stop."""


class JobLostError(Exception):
    """The job is another worker's now, or may soon be."""


class WorkerStoppingError(Exception):
    """The process was asked to end; the job is handed back."""


class Heartbeat:
    """Keeps the claim alive from a thread, so that a long step is not taken for a dead worker; passes cancels on.

    The thread outlives a database that is away. `progress` may be called from any thread and touches the store only where
    a step begins: so before anything is published, a cancel that was answered is known.
    """

    def __init__(
        self, services: Services, job: Job, on_progress: Progress | None = None, stopping: threading.Event | None = None
    ) -> None:
        self.services = services
        self.job = job
        self.on_progress = on_progress
        self.stopping = stopping or threading.Event()
        self.state = (0.0, "started")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._ended: type[Exception] | None = None
        self._renewed = self._looked = time.monotonic()
        self._written = self.state

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def progress(self, share: float, message: str) -> None:
        """Note how far the job is. Raises JobCancelledError, JobLostError or WorkerStoppingError where it is to end."""
        self._raise_if_ended()
        if self.on_progress is not None:
            self.on_progress(share, message)
        begins = message != self.state[1]
        self.state = (share, message)
        if begins or time.monotonic() - self._looked > LOOK_SECONDS:
            with suppress(StoreError):  # the thread tells; what the job itself does with the store decides
                self._look()
            self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if self.stopping.is_set():
            raise WorkerStoppingError
        if self._ended is not None:
            raise self._ended

    def _run(self) -> None:
        pause, away = LOOK_SECONDS, False
        while not self.done.wait(pause) and self._ended is not JobLostError:
            try:
                self._look()
                self._renew()
            except (ConflictError, NotFoundError):
                self._ended = JobLostError
            except BackendError as error:
                if not away:
                    logger.warning("job %d: no sign of life can be given: %s", self.job.id, error)
                pause, away = min(pause * 2, LONGEST_PAUSE), True
                if time.monotonic() - self._renewed > HOLD * self.services.jobs.retry_policy.lease.total_seconds():
                    self._ended = JobLostError
            else:
                pause, away = LOOK_SECONDS, False

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            if self.services.jobs.cancelled(self.job):
                self._ended = self._ended or JobCancelledError
        except ConflictError:
            self._ended = JobLostError

    def _renew(self) -> None:
        """Write the heartbeat where it is due, or where there is progress to tell."""
        state, now = self.state, time.monotonic()
        if state != self._written or now - self._renewed >= BEAT_SECONDS:
            self.services.jobs.heartbeat(self.job, *state)
            self._renewed, self._written = now, state
