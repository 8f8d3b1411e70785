"""Small transactions of threads that wait at the same time, committed as one: one turn, one wait for the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

from ml_backend.store.database import Database

Result = TypeVar("Result")


class GroupCommit:
    """Runs pieces of work, each with a savepoint of its own, in as few transactions as their arrival allows.

    Whoever comes first waits for the write lock and takes along what has queued up behind it by then. So a burst of
    webhooks behind a busy worker costs one commit, not one each. PostgreSQL has no single write lock, and locking
    several projects in one transaction could deadlock there: each piece of work keeps its own transaction.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: deque[_Piece[Any]] = deque()
        self._changed = threading.Condition()
        self._has_leader = False

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Return what `work` returns, once it is committed; raise what it raises, with nothing of it kept."""
        if not self.database.is_sqlite:
            with self.database.write() as connection:
                return work(connection)
        mine = _Piece(work)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.done or not self._has_leader)
            if mine.done:
                return mine.outcome()
            self._has_leader = True
        try:
            self._commit(mine)
        finally:
            with self._changed:
                self._has_leader = False
                self._changed.notify_all()
        return mine.outcome()

    def _commit(self, mine: _Piece[Any]) -> None:
        batch = [mine]
        try:
            with self.database.write() as connection:
                while self._waiting:
                    piece = self._waiting.popleft()
                    if piece is not mine:
                        batch.append(piece)
                for piece in batch:
                    piece.attempt(connection, alone=len(batch) == 1)
        except Exception as error:  # noqa: BLE001 - handed to every thread whose work it was
            for piece in batch:
                piece.error = error
        for piece in batch:
            piece.done = True


class _Piece(Generic[Result]):
    """One thread's work, and what came of it."""

    def __init__(self, work: Callable[[Connection], Result]) -> None:
        self.work = work
        self.done = False
        self.result: list[Result] = []
        self.error: Exception | None = None

    def attempt(self, connection: Connection, *, alone: bool) -> None:
        """Do the work; what fails is undone by itself, or with the whole transaction where it is `alone` in that."""
        if alone:
            self.result.append(self.work(connection))
            return
        try:
            with connection.begin_nested():
                self.result.append(self.work(connection))
        except Exception as error:  # noqa: BLE001 - raised again in the thread whose work it was
            self.error = error

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.result[-1]
