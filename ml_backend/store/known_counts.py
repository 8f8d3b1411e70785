"""How far each project is, for pages: counting a million tasks takes most of a second, which nobody is to wait for twice."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ml_backend.errors import BackendError
from ml_backend.store.projects import Project
from ml_backend.store.rows import Counts

logger = logging.getLogger(__name__)

REST = 20
"""Counting rests for so many times as long as it took: a twentieth of one core is spent on it, however many look."""
AT_ONCE_S = 0.05
"""What takes no longer is counted while the page waits."""


@dataclass
class _Known:
    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counts | None = None
    counted_at: float = 0.0
    took: float = 0.0
    is_counting: bool = False


class KnownCounts:
    """The counts of all projects, as of a moment ago. Safe to share between threads."""

    def __init__(self, count: Callable[[Project], Counts], clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self._known: dict[int, _Known] = {}
        self._lock = threading.Lock()

    def of(self, project: Project) -> Counts:
        """Those of this moment where counting is quick; else the last ones, and newer ones are on their way.

        The first to ask waits for them. Raises what counting does.
        """
        with self._lock:
            known = self._known.setdefault(project.id, _Known())
        with known.lock:
            if known.counts is None:
                return self._renew(project, known)
            if self._clock() - known.counted_at > REST * known.took and not known.is_counting:
                if known.took <= AT_ONCE_S:
                    return self._renew(project, known)
                known.is_counting = True
                threading.Thread(target=self._aside, args=(project, known), name="counts", daemon=True).start()
            return known.counts

    def _renew(self, project: Project, known: _Known) -> Counts:
        began = self._clock()
        counts = self._count(project)
        self._keep(known, counts, began)
        return counts

    def _aside(self, project: Project, known: _Known) -> None:
        began = self._clock()
        try:
            counts = self._count(project)
        except BackendError as error:
            logger.warning("%s cannot be counted: %s", project.key, error)
        else:
            with known.lock:
                self._keep(known, counts, began)
        finally:
            known.is_counting = False

    def _keep(self, known: _Known, counts: Counts, began: float) -> None:
        known.counts, known.counted_at = counts, self._clock()
        known.took = known.counted_at - began
