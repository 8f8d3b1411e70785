"""What `ml-backend doctor` says of a project, looked at beside the requests when somebody asks for it, and kept for a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ml_backend.errors import BackendError, TooManyError
from ml_backend.labelstudio.checks import Finding
from ml_backend.services import Services
from ml_backend.store.projects import Project

logger = logging.getLogger(__name__)

KEPT_S = 60.0
MOST = 2
"""Projects that are looked at at a time."""


@dataclass
class Examination:
    """findings: so far, while it is on. error: what ended it. ended: when, by the clock; None while it is on."""

    began: float
    findings: list[Finding] = field(default_factory=list)
    error: str = ""
    ended: float | None = None


class Examinations:
    """The last one of each project. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[str, int], Examination] = {}
        self._lock = threading.Lock()

    def of(self, project: Project, services: Services) -> Examination | None:
        """The one that is on, or that ended within KEPT_S."""
        found = self._known.get(_key(project, services))
        return found if found and (found.ended is None or self._clock() - found.ended < KEPT_S) else None

    def begin(self, project: Project, services: Services) -> Examination:
        """The one that is on, or else a new one: who asks again has put something right. Raises TooManyError where others are on."""
        with self._lock:
            found = self.of(project, services)
            if found and found.ended is None:
                return found
            if sum(each.ended is None for each in self._known.values()) >= MOST:
                raise TooManyError("Other projects are being looked at just now: ask again in a while.")
            new = self._known[_key(project, services)] = Examination(self._clock())
        threading.Thread(target=self._examine, args=(project, services, new), name="examining", daemon=True).start()
        return new

    def _examine(self, project: Project, services: Services, examination: Examination) -> None:
        try:
            for finding in services.diagnosis.examine(project.key.host, lambda: [project]):
                examination.findings.append(finding)
        except BackendError as error:
            examination.error = str(error)
        except Exception as error:
            logger.exception("%s cannot be looked at", project.key)
            examination.error = f"It could not be looked at ({type(error).__name__}): see the service's log."
        examination.ended = self._clock()


def _key(project: Project, services: Services) -> tuple[str, int]:
    return services.database.store_id, project.id


EXAMINATIONS = Examinations()
"""Those of this process."""
