"""Vectors of an encoder that was set since, made while the worker has no turn: a turn that is due goes first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.steps.change_encoder import REASON
from ml_backend.store.projects import Project

LOOK_S = 2.0
"""Between two looks whether an encoder is to be changed."""
ASK_S = 0.2
"""Between two looks whether a turn is due."""
SLICE_S = 30.0
"""After which the worker looks at everything else, too."""
AGAIN_S, LONGEST_S = 30.0, 600.0
"""After one that could not go on; twice as long each time, up to this."""


@dataclass
class EncoderChanges:
    """What makes vectors in an idle worker, of one project at a time.

    waits: whether the worker has something else to do.
    """

    services: Services
    waits: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _looked: float = -LOOK_S
    _asked: float = -ASK_S
    _began: float = 0.0
    _resting: dict[int, float] = field(default_factory=dict)
    _pauses: dict[int, float] = field(default_factory=dict)
    _settled: set[tuple[int, str]] = field(default_factory=set)

    def go_on(self) -> None:
        """Call it when there is no job. Killed anywhere, what was made by then stays."""
        if self.clock() - self._looked < LOOK_S:
            return
        for project in self.services.ledger.projects():
            if project.state.paused or project.state.gone or self.clock() < self._resting.get(project.id, 0.0):
                continue
            if self._is_to_be_settled(project):
                self.services.jobs.mark_due(project, immediately=True, reason=REASON)
                return
            if project.state.next_encoder is not None:
                self._make(project)
                return
        self._looked = self.clock()

    def _make(self, project: Project) -> None:
        self._began = self.clock()
        try:
            reached = self.services.encoder_change.go_on(project, self._enough)
        except NotFoundError:  # forgotten, or replaced, since it was listed
            return
        if reached == "stuck":
            pause = self._pauses[project.id] = min(2 * self._pauses.get(project.id, AGAIN_S / 2), LONGEST_S)
            self._resting[project.id] = self.clock() + pause
        else:
            self._pauses.pop(project.id, None)
        if reached == "all there":
            self._resting[project.id] = self.clock() + AGAIN_S  # until that turn
            self.services.jobs.mark_due(project, immediately=True, reason=REASON)

    def _is_to_be_settled(self, project: Project) -> bool:
        """Whether another encoder was set, which one turn alone is made due for."""
        key = project.id, self.services.encoders.wanted.slug
        if key in self._settled or not self.services.encoder_change.is_outdated(project):
            return False
        self._settled.add(key)
        return True

    def _enough(self) -> bool:
        now = self.clock()
        if now - self._asked < ASK_S:
            return False
        self._asked = now
        return now - self._began > SLICE_S or self.waits()
