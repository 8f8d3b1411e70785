"""t-SNE for the maps that people look at: in a process of its own that yields to everything, and stands still while a turn runs.

Killed anywhere, it leaves the layout that was there.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from ml_backend.errors import BackendError
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.worker.supervisor import PRCTL

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks whether a map is to be laid out."""
AGAIN_S = 900.0
"""After one that failed, or could not be had yet."""
NOTHING = 3
"""Exit status where too few images have been read."""
NICENESS = 10
"""On top of the worker's own."""


def _die_with_parent() -> None:
    """For a process that may stand still, which no other signal reaches."""
    if PRCTL is not None:
        pr_set_pdeathsig = 1
        PRCTL(pr_set_pdeathsig, signal.SIGKILL)


def _start(project: Project) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ml_backend.worker.mapping", str(project.id)]
    environment: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, preexec_fn=_die_with_parent, env=environment)  # noqa: PLW1509 - nothing else runs in an idle worker


@dataclass
class MapLayouts:
    """What lays maps out beside an idle worker, one at a time."""

    services: Services
    start: Callable[[Project], subprocess.Popen[bytes]] = _start
    clock: Callable[[], float] = time.monotonic
    _process: subprocess.Popen[bytes] | None = None
    _project: int = 0
    _looked: float = -LOOK_S
    _failed: dict[int, float] = field(default_factory=dict)

    def go_on(self) -> None:
        """Call it when there is no job: what stood still goes on, or what somebody waits for begins."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            if (code := self._process.poll()) is not None:
                self._process = None
                if code:
                    self._failed[self._project] = self.clock()
                if code not in {0, NOTHING}:
                    logger.warning("the map of project %d could not be laid out (exit status %d)", self._project, code)
            return
        if self.clock() - self._looked < LOOK_S:
            return
        self._looked = self.clock()
        if (project := self._next()) is not None:
            self._project, self._process = project.id, self.start(project)

    def stand_still(self) -> None:
        """Call it when there is a job."""
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _next(self) -> Project | None:
        for project in self.services.ledger.projects():
            failed = self._failed.get(project.id)
            resting = failed is not None and self.clock() - failed < AGAIN_S
            wanted = project.state.map and not project.state.gone and not resting
            if wanted and self.services.atlas.outdated(project):
                return project
        return None

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def main(number: int) -> int:
    settings = Settings.from_environ(os.environ)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(NICENESS)
    services = Services.open(settings)
    try:
        project = next((known for known in services.ledger.projects() if known.id == number), None)
        if project is not None:
            return 0 if services.atlas.lay_out(project) else NOTHING
    except BackendError as error:
        logger.warning("the map of project %d could not be laid out: %s", number, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
