"""One worker, many projects: a turn that encodes a million images makes room for the turns of others in between."""

from __future__ import annotations

import time
from collections.abc import Callable

from ml_backend.errors import TurnPausedError
from ml_backend.services import Services
from ml_backend.store.job import Job

SLICE_S = 10.0
"""What a turn may encode for in any case, before it makes room."""
OVERHEAD = 3.0
"""And so many times what it took to get there: a large project reads its tasks anew each time."""
LOOK_S = 1.0


class Share:
    """What a turn asks between two images: whether to make room. poll: makes due what is to be looked at by the clock."""

    def __init__(
        self,
        services: Services,
        job: Job,
        poll: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services, self._job, self._poll, self._clock = services, job, poll, clock
        self._began = self._looked = clock()
        self._until: float | None = None

    def check_paused(self) -> None:
        """Raise TurnPausedError where the turn had its share and another project waits."""
        now = self._clock()
        if self._until is None:
            self._until = now + max(SLICE_S, OVERHEAD * (now - self._began))
        if now < self._until or now - self._looked < LOOK_S:
            return
        self._looked = now
        self._poll()
        if self._services.jobs.others_wait(self._job):
            raise TurnPausedError
