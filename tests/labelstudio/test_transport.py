"""Tokens, retries and refusals, against a small HTTP server that does as it is told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ml_backend.errors import ConfigError, LabelStudioError, LabelStudioUnavailableError, NotFoundError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.storage import sdk
from ml_backend.labelstudio.transport import Transport

Answer = tuple[int, Any]


@dataclass
class Host:
    """Answers each request with `reply`, and remembers (method, path, authorization)."""

    reply: Callable[[str, str, str | None], Answer] = lambda *_: (200, {})
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def running(host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen = (self.command, self.path, self.headers.get("Authorization"))
            host.requests.append(seen)
            status, answer = host.reply(*seen)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", str(answer))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    host.url = f"http://127.0.0.1:{server.server_port}"
    yield host
    server.shutdown()
    server.server_close()


PICTURE = b"\x89PNG picture"


def picture_host() -> AbstractContextManager[Host]:
    """A host that answers each request with a picture."""
    return running(Host(reply=lambda *_: (200, PICTURE)))


@pytest.fixture
def host() -> Iterator[Host]:
    with running(Host()) as host:
        yield host


def jwt(**claims: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{part}.c2ln"


def answers(*statuses: int) -> Callable[[str, str, str | None], Answer]:
    """Each of these statuses once, then 200."""
    left = list(statuses)
    return lambda *_: (left.pop(0), {"detail": "database is locked"}) if left else (200, {"done": True})


def test_a_legacy_token_is_sent_as_it_is(host: Host) -> None:
    Transport(host.url + "/", " abc123 ").call("GET", "/api/version")
    assert host.requests == [("GET", "/api/version", "Token abc123")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_idempotent_request_is_repeated(host: Host, method: str) -> None:
    host.reply = answers(500, 503)
    assert Transport(host.url, "t").call(method, "/x") == {"done": True}
    assert len(host.requests) == 3


def test_a_post_is_sent_once_whatever_happens(host: Host) -> None:
    host.reply = answers(503)
    with pytest.raises(LabelStudioUnavailableError, match="database is locked"):
        Transport(host.url, "t").call("POST", "/x", json={})
    assert len(host.requests) == 1


def test_retries_are_bounded(host: Host) -> None:
    host.reply = lambda *_: (502, b"<html>bad gateway</html>")
    with pytest.raises(LabelStudioUnavailableError, match="502"):
        Transport(host.url, "t", retries=2).call("GET", "/x")
    assert len(host.requests) == 3


@pytest.mark.parametrize(
    ("status", "body", "error", "told"),
    [
        (404, {"detail": "No Project matches"}, NotFoundError, "No Project matches"),
        (403, {"detail": "No permission"}, LabelStudioError, "can manage the project"),
        (400, {"title": ["Too short."], "data": {"image": ["Missing."]}}, LabelStudioError, "title: Too short.; data: image: Missing."),
        (400, {"validation_errors": {"title": ["Too short."], "non_field_errors": ["No."]}}, LabelStudioError, "title: Too short.; No."),
        (401, {"detail": "Invalid token."}, LabelStudioError, "Copy it again"),
        (401, {"detail": "legacy token authentication has been disabled"}, LabelStudioError, "personal access token, or allow"),
        (200, b"<html>Log in</html>", LabelStudioError, "not of a login page"),
    ],
)  # fmt: skip
def test_a_refusal_becomes_a_sentence(host: Host, status: int, body: Any, error: type[Exception], told: str) -> None:
    host.reply = lambda *_: (status, body)
    with pytest.raises(error, match=told):
        Transport(host.url, "t").call("POST", "/x")


@pytest.mark.parametrize("ask", [LabelStudio.existing, LabelStudio.predictions_of])
def test_a_list_of_tasks_that_is_not_found_says_of_no_task_that_it_is_gone(host: Host, ask: Any) -> None:
    """As a proxy may answer for a moment, or a project that was deleted: labels are not to go by it."""
    host.reply = lambda *_: (404, {"detail": "404 page not found"})
    with LabelStudio(host.url, "k" * 40) as client, pytest.raises(NotFoundError):
        ask(client, 1, [1, 2, 3])


def test_a_personal_access_token_is_exchanged_once_for_many_requests(host: Host) -> None:
    access = jwt(token_type="access", iat=1000, exp=1300)
    host.reply = lambda _, path, __: (200, {"access": access} if "refresh" in path else {})
    transport = Transport(host.url, jwt(token_type="refresh"))
    threads = [threading.Thread(target=transport.call, args=("GET", "/x")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen for seen in host.requests if seen[1] == "/x"] == [("GET", "/x", f"Bearer {access}")] * 8
    assert len(host.requests) == 9


def test_an_access_token_that_is_over_is_renewed_before_it_is_used(host: Host) -> None:
    short = jwt(token_type="access", iat=1000, exp=1001)
    host.reply = lambda _, path, __: (200, {"access": short} if "refresh" in path else {})
    transport = Transport(host.url, jwt(token_type="refresh"))
    transport.call("GET", "/x")
    transport.auth.forget_access()
    transport.call("GET", "/x")
    assert [path for _, path, _ in host.requests] == ["/api/token/refresh/", "/x"] * 2


def test_an_access_token_refused_early_is_renewed_and_the_request_repeated(host: Host) -> None:
    tokens = iter([jwt(n=1, iat=0, exp=300), jwt(n=2, iat=0, exp=300)])
    good = jwt(n=2, iat=0, exp=300)

    def reply(_: str, path: str, authorization: str | None) -> Answer:
        if "refresh" in path:
            return 200, {"access": next(tokens)}
        return (200, {"done": True}) if authorization == f"Bearer {good}" else (401, {"detail": "expired"})

    host.reply = reply
    assert Transport(host.url, jwt(token_type="refresh")).call("GET", "/x") == {"done": True}


def test_a_revoked_personal_access_token_is_told(host: Host) -> None:
    host.reply = lambda *_: (401, {"detail": "Token is blacklisted"})
    with pytest.raises(LabelStudioError, match=r"Token is blacklisted.*Create a new one"):
        Transport(host.url, jwt(token_type="refresh")).call("GET", "/x")


def test_no_error_ever_shows_the_token(host: Host) -> None:
    host.reply = lambda *_: (401, {"detail": "Invalid token."})
    with pytest.raises(LabelStudioError) as told:
        Transport(host.url, "very-secret").call("GET", "/x")
    assert "very-secret" not in str(told.value)
    assert "very-secret" not in repr(told.value.__cause__)


@pytest.mark.parametrize(("url", "key"), [("localhost:8080", "t"), ("", "t"), ("ftp://x", "t"), ("http://x", " ")])
def test_an_address_or_token_that_is_none_is_refused_at_once(url: str, key: str) -> None:
    with pytest.raises(ConfigError):
        Transport(url, key)


def test_an_address_below_a_path_is_kept(host: Host) -> None:
    Transport(f"{host.url}/label-studio/", "t").call("GET", "/api/version")
    assert host.requests[0][1] == "/label-studio/api/version"


@pytest.mark.slow
def test_a_refusal_that_comes_through_the_sdk_names_the_field_too(host: Host) -> None:
    host.reply = lambda *_: (400, {"detail": "Validation error", "validation_errors": {"title": ["Too short."]}})
    with (
        LabelStudio(host.url, "k" * 40) as client,
        pytest.raises(LabelStudioError, match="title: Too short"),
        sdk(client) as api,
    ):
        api.projects.create(title="ab", label_config="<View/>")
