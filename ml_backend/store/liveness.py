"""Which workers gave no sign of life for too long, whatever the clocks of their machines say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta

Beat = tuple[int, datetime | None]
"""The claim of a job, and when its worker last gave a sign of life by its own clock."""


class Watch:
    """Looks on for one process; what it has seen is kept in memory.

    The clocks of two machines may differ, and one may jump: so what looks old is believed only where it was not renewed
    while this process looked on, and what looks young no longer than the lease.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Beat, float]] = {}  # job -> its last sign of life, and since when that is known

    def silent(self, running: Mapping[int, Beat], now: datetime, lease: timedelta, observation: timedelta) -> list[int]:
        """Those of the jobs that run whose worker is to be taken for dead; see `jobs.RetryPolicy`."""
        moment, seen = time.monotonic(), self._seen
        self._seen = {
            job: seen[job] if job in seen and seen[job][0] == beat else (beat, moment) for job, beat in running.items()
        }

        def is_silent(job: int, heartbeat_at: datetime | None) -> bool:
            old = heartbeat_at is None or heartbeat_at < now - lease
            return moment - self._seen[job][1] >= (observation if old else lease).total_seconds()

        return [job for job, (_, heartbeat_at) in running.items() if is_silent(job, heartbeat_at)]
