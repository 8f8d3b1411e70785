"""What takes a look at every label: found out beside the request that asks for it, and kept until there is something new."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
PATIENCE_S = 0.1
"""A request waits so long for something new, and is told what was found before."""
MOST = 500
"""Findings kept: those of the last projects looked at."""


@dataclass(frozen=True)
class Found(Generic[Value]):
    """value: None where nothing was found yet. is_current: it is not of something that has changed since."""

    value: Value | None
    is_current: bool


class Findings:
    """Of all projects of this process, one looked into at a time. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[object, tuple[object, Any]] = {}
        self._sought: dict[object, tuple[object, Future[Any]]] = {}
        self._notes: dict[object, dict[int, Any]] = {}
        self._aside = ThreadPoolExecutor(1, "findings")

    def of(self, what: object, basis: object, find: Callable[[], Value]) -> Found[Value]:
        """What `find` finds, which decides nothing but `basis`. what: names it. Raises what `find` does."""
        with self._lock:
            known = self._known.get(what)
            if known is not None and known[0] == basis:
                return Found(known[1], is_current=True)
            sought = self._sought.get(what)
            if sought is None:
                sought = self._sought[what] = basis, self._aside.submit(find)
        try:
            value = sought[1].result(PATIENCE_S)
        except NotYetError:
            return Found(known[1] if known else None, is_current=False)
        except BaseException:
            self._end(what, sought)
            raise
        self._end(what, sought, value)
        return Found(value, is_current=sought[0] == basis)

    def notes(self, what: object) -> dict[int, Any]:
        """What somebody keeps by number, of what never changes; the same each time."""
        with self._lock:
            return self._notes.setdefault(what, {})

    def _end(self, what: object, sought: tuple[object, Future[Any]], *value: Any) -> None:
        with self._lock:
            if self._sought.get(what) is sought:
                del self._sought[what]
            for each in value:
                self._known.pop(what, None)
                self._known[what] = sought[0], each
            while len(self._known) > MOST:
                del self._known[next(iter(self._known))]
