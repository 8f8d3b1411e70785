"""The maps of this process: made beside the requests, kept until labels, versions or images make them others."""

from __future__ import annotations

import ctypes
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import BackendError, ConflictError
from ml_backend.services import Services
from ml_backend.store.map_points import Points
from ml_backend.store.map_rows import NONE
from ml_backend.store.projects import Project

logger = logging.getLogger(__name__)

KEPT = 3
"""Projects whose maps are in memory, about 45 bytes an image each."""
REST = 10.0
"""A map that took a second to make stays for so many at least, though labels have come in."""
INTERNAL = "The map could not be made for a reason that is not known: see the service's log."


@dataclass(frozen=True)
class Made:
    """key: names it to the page, which asks for its parts one by one. basis: what it is of. until: from then on another one may be made."""

    key: str
    basis: tuple[object, ...]
    points: Points
    until: float


@dataclass
class _Making:
    thread: threading.Thread
    error: str = ""


@dataclass
class MapWork:
    """Safe to share between threads."""

    services: Services
    clock: Callable[[], float] = time.monotonic
    _made: OrderedDict[int, Made] = field(default_factory=OrderedDict)
    _making: dict[int, _Making] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def look(self, project: Project) -> Made | None:
        """The map as it is, made anew meanwhile where it is of another time; None while the first is being made.

        Raises ConflictError, with what to do, where none can be made.
        """
        basis = self.services.atlas.basis(project)
        if project.id not in self._made:
            self._remember(project)
        with self._lock:
            made, making = self._made.get(project.id), self._making.get(project.id)
            at_it = making is not None and making.thread.is_alive()
            if made is not None and (made.basis == basis or at_it or self.clock() < made.until):
                return made
            if not at_it and making is not None and making.error:
                del self._making[project.id]
                if made is None:
                    raise ConflictError(making.error)
            elif not at_it:
                thread = threading.Thread(target=self._make, args=(project, basis), name="map", daemon=True)
                self._making[project.id] = _Making(thread)
                thread.start()
            return made

    def _remember(self, project: Project) -> None:
        """After a restart the last map is shown while a new one is made."""
        points = self.services.atlas.last(project)
        with self._lock:
            if points is not None and project.id not in self._made:
                self._made[project.id] = Made(secrets.token_hex(8), (), points, 0.0)

    def is_making(self, project: Project) -> bool:
        """Whether another map of the project is on its way."""
        making = self._making.get(project.id)
        return making is not None and making.thread.is_alive()

    def known(self, project: Project, key: str) -> Points:
        """The map of this key. Raises ConflictError where there is another one by now."""
        made = self._made.get(project.id)
        if made is None or made.key != key:
            raise ConflictError("The map was made anew meanwhile: it is loaded again.")
        return made.points

    def here(self, project: Project) -> Points:
        """The map as it is. Raises ConflictError while it is being made."""
        made = self.look(project)
        if made is None:
            raise ConflictError("The images are being put in order, which takes some seconds: try again in a moment.")
        return made.points

    def guesses(self, project: Project, points: Points) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """(n,) guess and doubt of each point, of what may be shown now. Raises ConflictError where nothing may."""
        if not self.services.atlas.shows_guesses(project):
            raise ConflictError(
                "Nobody is shown now what the model takes an image for: an audit is on, or several people label each image on "
                "their own, or ML_BACKEND_PRELABELS is never."
            )
        if points.share != project.reserved_share:
            raise ConflictError("Other images are held out by now: the map is made anew; try again in a moment.")
        guess, doubt = points.guess, points.doubt
        drawn = points.at(np.array(sorted(self.services.ledger.drawn_blind(project)), np.int64))
        drawn = drawn[drawn >= 0]
        if len(drawn):
            guess, doubt = guess.copy(), doubt.copy()
            guess[drawn], doubt[drawn] = NONE, 255
        return guess, doubt

    def _make(self, project: Project, basis: tuple[object, ...]) -> None:
        """One map at a time: a million images take some hundred megabytes on their way."""
        with self._turn:
            self._make_now(project, basis)

    def _make_now(self, project: Project, basis: tuple[object, ...]) -> None:
        began, making = self.clock(), self._making[project.id]
        try:
            self._sketch(project)
            points = self.services.atlas.points(project)
        except BackendError as error:
            making.error = str(error)
        except Exception:
            logger.exception("the map of %s could not be made", project.key)
            making.error = INTERNAL
        else:
            # What was written while it was made, such as where each image lies, makes no other map of it.
            after = self.services.atlas.basis(project)
            now = self.clock()
            made = Made(secrets.token_hex(8), (*basis[:-1], after[-1]), points, now + REST * (now - began))
            with self._lock:
                self._made[project.id] = made
                self._made.move_to_end(project.id)
                while len(self._made) > KEPT:
                    self._made.popitem(last=False)
        finally:
            _give_back()

    def _sketch(self, project: Project) -> None:
        """Where there is no map yet, have something to show at once."""
        if project.id not in self._made and (points := self.services.atlas.sketch(project)) is not None:
            with self._lock:
                self._made[project.id] = Made(secrets.token_hex(8), (), points, 0.0)


def _give_back() -> None:
    """Have what a million rows took on their way through be the system's again, where the C library keeps it: glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
