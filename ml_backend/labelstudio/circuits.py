"""Which hosts of images do not answer at present, so that a million images are not asked of one that is down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ml_backend.errors import ImageAwayError

FAILURES = 8
"""Failures in a row, of whatever images, after which a host is left alone for a while."""
SHORTEST_S, LONGEST_S = 5.0, 300.0


@dataclass
class _Circuit:
    """failures: in a row. until: nothing is asked before. trying: one image is being tried now."""

    failures: int = 0
    pause: float = SHORTEST_S
    until: float | None = None
    trying: bool = False
    why: str = ""


class Circuits:
    """One circuit breaker a host. Safe to share between threads.

    After FAILURES failures in a row nothing is asked of it for SHORTEST_S, then one image is tried: should that fail,
    too, the pause doubles, up to LONGEST_S; should it be answered, everything goes on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._circuits: dict[str, _Circuit] = {}

    def check(self, host: str) -> None:
        """Raise ImageAwayError, not `tried`, where the host is to be left alone; else one may go and ask it."""
        with self._lock:
            circuit = self._circuits.get(host)
            if circuit is None or circuit.until is None:
                return
            if self._clock() < circuit.until:
                raise ImageAwayError(
                    f"{host} is left alone for a while, as it failed again and again: {circuit.why}", tried=False
                )
            # This one tries, and the others wait for what comes of it; but should nothing ever come, not for ever.
            circuit.trying, circuit.until = True, self._clock() + circuit.pause

    def failed(self, host: str, why: str) -> None:
        with self._lock:
            circuit = self._circuits.setdefault(host, _Circuit())
            circuit.failures, circuit.why = circuit.failures + 1, why
            if circuit.failures < FAILURES or (circuit.until is not None and not circuit.trying):
                return  # not yet, or one of those that were under way when it was given up
            circuit.pause = min(2 * circuit.pause, LONGEST_S) if circuit.trying else SHORTEST_S
            circuit.trying, circuit.until = False, self._clock() + circuit.pause

    def answered(self, host: str) -> None:
        """The host answers, if only to say that the image is not there."""
        if host in self._circuits:
            with self._lock:
                self._circuits.pop(host, None)
