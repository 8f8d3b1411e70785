"""A host of images that trickles, stays silent or waits for a word, on a socket of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

TRICKLE_S = 0.02
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


@dataclass
class SlowHost:
    """`quick` is sent at once, `slow` byte by byte with a pause before each, again and again until the reader gives up."""

    quick: bytes
    slow: bytes
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    calls: int = 0

    def answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(self.quick)
            while not self.over.wait(TRICKLE_S):
                connection.sendall(self.slow)


@contextmanager
def slow_host(quick: bytes = HEAD, slow: bytes = b"x") -> Iterator[SlowHost]:
    host = SlowHost(quick, slow)
    listening = socket.create_server(("127.0.0.1", 0))
    host.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def accept() -> None:
        while not host.over.is_set():
            with suppress(OSError):
                connection, _ = listening.accept()
                host.calls += 1
                threading.Thread(target=host.answer, args=(connection,), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield host
    finally:
        host.over.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
