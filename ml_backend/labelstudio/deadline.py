"""A total time for what goes on in one thread over any number of connections: connecting, redirects, head and body.

A time limit on each read is not enough: a server that sends 20 bytes every 5 s keeps every one of them, for hours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from types import TracebackType
from typing import Self

from ml_backend.errors import ImageAwayError

_current = threading.local()


class Deadline:
    """Ends the connections that this thread uses inside `with`, once `seconds` have passed.

    Whoever waits on one then finds it closed, which looks like the end of the answer or like any fault of the network:
    so `check` afterwards, whatever came of it. Raises ImageAwayError where a further connection would be made.
    """

    def __init__(self, seconds: float, what: str) -> None:
        self.passed = False
        self._sentence = (
            f"{what} is not complete after {seconds:g} s: check that its server is fast enough, or raise "
            "ML_BACKEND_IMAGE_SECONDS."
        )
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        _current.deadline = self
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.deadline = None
        self._timer.cancel()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()

    def check(self) -> None:
        """Raise ImageAwayError if the time has run out."""
        if self.passed:
            raise ImageAwayError(self._sentence)

    def watch(self, connection: socket.socket) -> None:
        """Have this connection end with the deadline."""
        self.check()
        # A copy of the descriptor: the one given is taken over by the TLS socket that is put around it.
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._sockets.append(copy)
            if self.passed:
                _end(copy)

    def _expire(self) -> None:
        with self._lock:
            self.passed = True
            for connection in self._sockets:
                _end(connection)


def watch(connection: socket.socket) -> None:
    """Have a connection of this thread end with the deadline that is set for it, if any."""
    deadline: Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.watch(connection)


def _end(connection: socket.socket) -> None:
    """Wake who reads from it or writes to it; closing it would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
