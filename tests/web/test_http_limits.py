"""Connections that send what never ends: a server as gunicorn's worker runs it, and bytes by hand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from ml_backend.web import http_limits

pytestmark = pytest.mark.slow


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server as gunicorn's worker runs it, with an application that answers at once."""
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(http_limits, "TAKING_SECONDS", 0.5)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while scope["path"] != "/early" and (await receive()).get("more_body"):
            pass
        body = bytes(2**25) if scope["path"] in {"/large", "/pieces"} else b""
        size = 2**16 if scope["path"] == "/pieces" else 2**25
        headers = [(b"content-length", b"%d" % len(body))] if body else []
        await send({"type": "http.response.start", "status": 200 if body else 204, "headers": headers})
        for _ in range(size, len(body), size):
            await send({"type": "http.response.body", "body": body[:size], "more_body": True})
        await send({"type": "http.response.body", "body": body[:size]})

    config = uvicorn.Config(app, http=http_limits.BoundedProtocol, ws="none", lifespan="off", log_level="critical")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(20)


def answered(port: int, *parts: bytes) -> bytes:
    """What comes back until the server closes the connection, or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            return connection.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            return b""


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


def test_a_head_that_never_ends_is_closed(served: int) -> None:
    assert answered(served, HEAD + b"Content-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 204")
    endless = [b"X: ", *[b"a" * 2**16] * 32]
    trailer = [b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", *endless]
    for parts in (endless, trailer):
        assert answered(served, HEAD, *parts)[:12] in {b"HTTP/1.1 400", b""}


def test_a_head_that_does_not_come_is_not_waited_for(served: int) -> None:
    for part in (b"", b"POST", HEAD):
        assert answered(served, part) == b""


def test_a_long_body_in_pieces_is_no_long_head(served: int) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (2**16, b" " * 2**16) for _ in range(8)) + b"0\r\n\r\n"
    assert answered(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", body).startswith(b"HTTP/1.1 204")


def stays_open(port: int, request: bytes, drip: bytes) -> bool:
    """Whether a connection that got an answer is open as long as more comes in."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        assert connection.recv(100).startswith(b"HTTP/1.1 204")
        connection.settimeout(0.02)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                connection.sendall(drip)
                if connection.recv(100) == b"":
                    return False
            except TimeoutError:
                continue
            except OSError:
                return False
        return True


def test_an_answered_connection_is_not_held_open_with_empty_lines(served: int) -> None:
    assert not stays_open(served, HEAD + b"Content-Length: 0\r\n\r\n", b"\r\n")


def test_an_answered_connection_is_not_held_open_with_the_rest_of_its_body(served: int) -> None:
    early = HEAD.replace(b" / ", b" /early ")
    assert not stays_open(served, early + b"Content-Length: 100000\r\n\r\n", b"x")
    assert not stays_open(served, early + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")


def test_a_connection_that_goes_on_asking_is_answered(served: int) -> None:
    """Longer than a head may take, in all."""
    request = HEAD + b"Content-Length: 3\r\n\r\nabc"
    with socket.create_connection(("127.0.0.1", served), timeout=20) as connection:
        until = time.monotonic() + 3 * http_limits.HEAD_SECONDS
        while time.monotonic() < until:
            connection.sendall(request + request)
            answers = b""
            while answers.count(b"HTTP/1.1 204") < 2:
                answers += connection.recv(1000)


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side goes away, though nothing is read."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        time.sleep(0.02)
        try:
            connection.send(b"\r\n")
        except (ConnectionResetError, BrokenPipeError):
            return True
    return False


@pytest.mark.parametrize("further", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("path", [b" /large ", b" /pieces "])
def test_an_answer_that_nobody_takes_is_not_kept_for_ever(served: int, path: bytes, further: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served), timeout=20) as connection:
        connection.sendall(HEAD.replace(b" / ", path) + further + b"Content-Length: 0\r\n\r\n")
        assert is_cut(connection)


@pytest.mark.slow
@pytest.mark.parametrize("path", [b" /large ", b" /pieces "])
def test_an_answer_that_is_taken_slowly_is_whole(served: int, path: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served), timeout=20) as connection:
        connection.sendall(HEAD.replace(b" / ", path) + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        began, taken = time.monotonic(), 0
        while piece := connection.recv(2**19):
            taken += len(piece)
            time.sleep(0.02)
        assert time.monotonic() - began > 2 * http_limits.TAKING_SECONDS
        assert taken > 2**25
