"""HTTP connections whose heads end: uvicorn takes headers of any length, and waits for them for ever."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.workers import UvicornWorker

LONGEST = 64 * 1024
"""Bytes that may come in without completing a head or a piece of a body."""
HEAD_SECONDS = 20.0
"""From the begin of a connection or a head to its end; after an answer, for what is left of that body and the next head."""
TAKING_SECONDS = 60.0
"""The longest that a caller may take nothing of an answer that waits for it."""


ENDLESS = "ml_backend.endless"
"""Set in the scope of a request whose answer goes on until the caller leaves."""


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose head, or what stands between the pieces of its body, does not end."""

    _pending = 0
    _waiting: asyncio.TimerHandle | None = None
    _watching: asyncio.TimerHandle | None = None
    _left = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self._pending > LONGEST and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._pending = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch()
        elif self.cycle.response_complete:
            self._wait()  # whatever comes in now puts off the end that uvicorn has for connections without a request

    def shutdown(self) -> None:
        """End an answer that has no end of its own, as to a caller who went away: others are given the time to end."""
        super().shutdown()
        if self.cycle is not None and not self.cycle.response_complete and ENDLESS in self.cycle.scope:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._left = math.inf  # something was taken, whatever has come after it

    def _watch(self) -> None:
        """See that what waits to be taken becomes less: a connection does not close, either, as long as it waits."""
        if self._watching is None:
            self._left = self.transport.get_write_buffer_size()
            self._watching = self.loop.call_later(TAKING_SECONDS, self._look)

    def _look(self) -> None:
        left, self._watching = self.transport.get_write_buffer_size(), None
        if 0 < self._left <= left:
            self.transport.abort()
        elif left:
            self._watch()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class BoundedWorker(UvicornWorker):
    """What gunicorn runs. There is nothing here for WebSockets."""

    CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"http": BoundedProtocol, "ws": "none"}
