"""What the grid has shown of a project, and what came of it: remembered by this process alone, a few bytes a task.

Label Studio is asked which tasks are open before a page is shown, so that nothing depends on this memory but comfort.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ml_backend.errors import ConflictError
from ml_backend.records import Annotation

PATIENCE_S = 30.0
"""The longest that a page waits for another one of the same person to be written."""
HELD_S = 900.0
"""How long the tasks of one person's page are shown to nobody else."""


@dataclass(frozen=True)
class Given:
    """The answers of one page: the label, None where each has its own, and by task the annotation that was made."""

    label: str | None
    answers: Mapping[int, Annotation]


@dataclass
class ShownPages:
    """Of one project. Safe to share between threads."""

    clock: Callable[[], float] = time.monotonic
    patience: float = PATIENCE_S
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _writing: dict[int, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: dict[int, tuple[float, frozenset[int]]] = field(default_factory=dict)
    _done: set[int] = field(default_factory=set)
    _refused: dict[str, set[int]] = field(default_factory=dict)
    _last: dict[int, Given] = field(default_factory=dict)
    _passed: dict[int, set[int]] = field(default_factory=dict)

    @contextmanager
    def alone(self, user: int) -> Iterator[None]:
        """Be the only one who writes for this user, so that two tabs do not mix up what they have under way.

        Other users' pages are waited for as well, for a while: Label Studio on SQLite takes far longer for two at once than
        for one after the other. Raises ConflictError where one's own takes too long.
        """
        with self._lock:
            writing = self._writing.setdefault(user, threading.Lock())
        if not writing.acquire(timeout=self.patience):
            raise ConflictError(
                "Labels of yours are still being written, and Label Studio is slow: try again in a while. Nothing was written."
            )
        first = self._turn.acquire(timeout=self.patience / 3)
        try:
            yield
        finally:
            if first:
                self._turn.release()
            writing.release()

    def elsewhere(self, user: int, waiting: Collection[int]) -> set[int]:
        """What is not to be shown to the user, whatever the class: answered, or on somebody else's page.

        waiting: all tasks that may be shown as far as the ledger knows; of others nothing is remembered.
        """
        now = self.clock()
        with self._lock:
            self._done.intersection_update(waiting)
            for refused in self._refused.values():
                refused.intersection_update(waiting)
            self._held = {who: held for who, held in self._held.items() if held[0] > now}
            return self._done.union(*(tasks for who, (_, tasks) in self._held.items() if who != user))

    def refused(self) -> dict[str, set[int]]:
        """By class, the tasks that somebody said are not of it."""
        with self._lock:
            return {label: set(tasks) for label, tasks in self._refused.items()}

    def answered(self, tasks: Iterable[int]) -> None:
        """These tasks have an answer, though the ledger may not know of it yet."""
        with self._lock:
            self._done.update(tasks)

    def hold(self, user: int, tasks: Iterable[int]) -> None:
        """The user has these tasks on their page, in place of those before."""
        with self._lock:
            self._held[user] = self.clock() + HELD_S, frozenset(tasks)

    def refuse(self, label: str, tasks: Iterable[int]) -> None:
        """Somebody said that these are not of this class."""
        with self._lock:
            self._refused.setdefault(label, set()).update(tasks)

    def pass_by(self, user: int, tasks: Iterable[int]) -> None:
        """The user had these tasks of an audit before them, and gave them no class."""
        with self._lock:
            self._passed.setdefault(user, set()).update(tasks)

    def passed(self, user: int, asked: Collection[int]) -> set[int]:
        """Those of the tasks that are asked for which the user passed by; of others nothing is remembered."""
        with self._lock:
            mine = self._passed.setdefault(user, set())
            mine.intersection_update(asked)
            return set(mine)

    def give(self, user: int, given: Given) -> None:
        """Remember the answers of a user's page, in place of those of the page before."""
        with self._lock:
            self._last[user] = given

    def last(self, user: int) -> Given | None:
        with self._lock:
            return self._last.get(user)

    def taken_back(self, user: int, tasks: Iterable[int]) -> None:
        """These tasks are open again, and the user's last page is settled."""
        with self._lock:
            self._done.difference_update(tasks)
            self._last.pop(user, None)
