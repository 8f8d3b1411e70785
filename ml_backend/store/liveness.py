"""Which workers gave no sign of life for too long, whatever the clocks of their machines say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from ml_backend.store.scheduling import Job, RetryPolicy

Beat = tuple[int, datetime | None]


class Watch:
    """Looks on for one process; what it has seen is kept in memory.

    The clocks of two machines may differ, and one may jump: so what looks old is believed only where it was not renewed
    while this process looked on, and what looks young no longer than the lease.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Beat, float]] = {}  # job -> its last sign of life, and since when that is known

    def silent(self, running: Sequence[Job], now: datetime, retry_policy: RetryPolicy) -> list[Job]:
        """Those of the jobs that run whose worker is to be taken for dead."""
        moment, seen = time.monotonic(), self._seen
        self._seen = {
            job.id: seen[job.id] if job.id in seen and seen[job.id][0] == _beat(job) else (_beat(job), moment)
            for job in running
        }
        return [job for job in running if _is_silent(job, now, moment - self._seen[job.id][1], retry_policy)]


def _is_silent(job: Job, now: datetime, watched: float, retry_policy: RetryPolicy) -> bool:
    old = job.heartbeat_at is None or job.heartbeat_at < now - retry_policy.lease
    return watched >= (retry_policy.glance if old else retry_policy.lease).total_seconds()


def _beat(job: Job) -> Beat:
    return job.claims, job.heartbeat_at
