"""HTTP connections whose heads end: uvicorn takes headers of any length, and waits for them for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.workers import UvicornWorker

LONGEST = 64 * 1024
"""Bytes that may come in without completing a head or a piece of a body."""
HEAD_SECONDS = 20.0
"""From the begin of a connection or a head to its end; after an answer, for what is left of that body and the next head."""


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose head, or what stands between the pieces of its body, does not end."""

    _pending = 0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
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
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait()  # whatever comes in now puts off the end that uvicorn has for connections without a request

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class BoundedWorker(UvicornWorker):
    """What gunicorn runs. There is nothing here for WebSockets."""

    CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"http": BoundedProtocol, "ws": "none"}
