"""Who gets in: what is looked at before a request reaches the service. Plain ASGI: it costs microseconds a request.

A page in somebody's browser can call a service on the same machine: under a name of its own that it lets lead there (DNS
rebinding; the `Host` header gives it away), or with a form or a script (`Origin` and `Sec-Fetch-Site` do).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_backend.errors import ConfigError
from ml_backend.host_lists import HostList, address_of, plain
from ml_backend.settings import Settings
from ml_backend.wording import amount

READING = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_SECONDS = 60.0
"""The longest that a body may take to come in."""
BODIES = 4
"""As many bodies of the largest size may be held at a time, of all requests together."""
BY_PASSWORD = "ml_backend.by_password"  # noqa: S105 - the name of a mark
"""Set in the scope of a request: whether it brought the service's own user and password, and these are asked for."""
TOKEN = b"x-label-studio-token"
_NUMBERED = r"/projects/[0-9]+"
_SHELLS = re.compile(rf"/(?:overview|static/.*|{_NUMBERED[1:]}/(?:page|grid|accept|map|search|files/once/[^/]+))?")
"""What is read without the password, as it tells nothing of a project: pages before somebody has signed in, their files, and
downloads by an address that is made for one time. `/` leads a browser to the pages."""
_CALLS = re.compile(
    rf"/overview/.*|{_NUMBERED}/(?:live|would|acts|tasks/[0-9]+/thumbnail|(?:page|grid|accept|map|search|files)(?:/.*)?)"
)
"""What the pages call: each of these looks for itself whose token it is."""
_MIB = 2**20
_HOST = r"(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
"""A name or an address, and a port. User, path and whatever else makes an address read in two ways have no place in it."""


@dataclass(frozen=True)
class _Refusal:
    status: int
    sentence: str
    headers: dict[str, str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"error": self.sentence}, self.status, self.headers)(scope, receive, send)


def require_closed(settings: Settings) -> None:
    """Raise ConfigError where others can reach the service, and it would let everybody in."""
    if settings.user or settings.authentication == "proxy" or _is_loopback(settings.host):
        return
    raise ConfigError(
        f"ML_BACKEND_HOST is {settings.host}, an address that others can reach, and there is no password: set "
        "ML_BACKEND_USER and ML_BACKEND_PASSWORD. (To listen on this machine alone, set ML_BACKEND_HOST=127.0.0.1; where a "
        "proxy in front asks for a password, set ML_BACKEND_AUTHENTICATION=proxy.)"
    )


def _is_loopback(host: str) -> bool:
    """Whether every address of the name is one that only this machine reaches."""
    try:
        found = {place[4][0] for place in socket.getaddrinfo(host.strip("[]"), None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(address)).is_loopback for address in found)


class Gate:
    """Lets through what is called by a name of ours, by nobody else's page, with the password, and not too large."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        own = urlsplit(settings.url)
        self._own = own.netloc.lower()
        self._names = {"localhost", plain(socket.gethostname()), plain(own.hostname or ""), plain(settings.host)}
        self._further = HostList(settings.names)
        self._expected = _basic(settings.user, settings.password) if settings.user else None
        self._largest = settings.body_mb * _MIB
        self._held = 0  # bytes of bodies, of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if refusal := self._refusal(scope):
            await refusal(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            self._held -= body.size

    def _refusal(self, scope: Scope) -> _Refusal | None:
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value.strip().lower() for name, value in headers if name == b"host"]
        if len(hosts) > 1 or not all(re.fullmatch(_HOST, host) for host in hosts):
            return _Refusal(400, "The Host header is not a name or an address, with or without a port.")
        if not all(map(self._is_ours, hosts)):
            return _Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "This service is not known by the name that it was called by: set ML_BACKEND_URL to its address, or add the "
                "name to ML_BACKEND_NAMES.",
            )
        known = self._is_known(headers)
        scope[BY_PASSWORD] = known and self._expected is not None
        if not known and scope["path"] != "/health" and not self._is_for_pages(scope, headers):
            return _unknown(headers)
        if self._is_anothers_page(scope.get("method", "GET"), headers, hosts):
            return _Refusal(403, "A page of another site may not call this service: use its own pages, or a script.")
        return self._too_long(next((value for name, value in headers if name == b"content-length"), "0"))

    def _is_ours(self, host: str) -> bool:
        """An address is no name that somebody could let lead elsewhere."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # brackets around what is no address
            return False
        return address_of(name) is not None or plain(name) in self._names or self._further.lists("http", name, None)

    def _is_known(self, headers: list[tuple[bytes, str]]) -> bool:
        if self._expected is None:
            return True
        sent = [value for name, value in headers if name == b"authorization"]
        return len(sent) == 1 and secrets.compare_digest(sent[0].encode("latin-1"), self._expected)

    def _is_for_pages(self, scope: Scope, headers: list[tuple[bytes, str]]) -> bool:
        """Whether somebody may send it who has a token of Label Studio in place of the password."""
        path, names = scope["path"], {name for name, _ in headers}
        if b"authorization" in names:  # a wrong password is one, whatever else is sent
            return False
        if scope.get("method") in READING and _SHELLS.fullmatch(path):
            return path != "/" or _wants_page(headers)
        return TOKEN in names and _CALLS.fullmatch(path) is not None

    def _is_anothers_page(self, method: str, headers: list[tuple[bytes, str]], hosts: list[str]) -> bool:
        """Label Studio and scripts send none of these headers; every browser sends at least `Origin` with a POST."""
        said = {name: value for name, value in headers if name.startswith(b"sec-fetch-")}
        elsewhere = said.get(b"sec-fetch-site", "none") not in {"none", "same-origin"}
        if method in READING:
            leads = said.get(b"sec-fetch-mode") == "navigate" and said.get(b"sec-fetch-dest", "document") == "document"
            return elsewhere and not leads  # a link may lead here, a frame shows nothing of ours
        own = {self._own, *hosts}
        origins = [value for name, value in headers if name == b"origin"]
        return elsewhere or any(_place(origin) not in own for origin in origins)

    def _too_long(self, length: str) -> _Refusal | None:
        if length.isdecimal() and (len(length) > 15 or int(length) > self._largest):
            return _Refusal(413, self.too_large)
        return None

    @property
    def too_large(self) -> str:
        return (
            f"The body is larger than {amount(self._largest // _MIB, 'MiB', 'MiB')}: send fewer tasks at a time, or raise "
            "ML_BACKEND_BODY_MB."
        )

    def take(self, body: _Body, size: int) -> None:
        """Count bytes that have come in. Raises HTTPException where these are too many."""
        body.size += size
        self._held += size
        if body.size > self._largest:
            raise HTTPException(413, self.too_large)
        if self._held > BODIES * self._largest:
            raise HTTPException(503, "The service is busy with other large requests: try again in a while.")


class _Body:
    """The body of one request, as it comes in: counted, and within a time."""

    def __init__(self, gate: Gate, receive: Receive) -> None:
        self.size = 0
        self._gate, self._receive = gate, receive
        self._until: float | None = None
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()  # waits for the caller to go away
        self._until = self._until or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"The body did not come in within {BODY_SECONDS:.0f} s: send it again.") from None
        self._complete = not message.get("more_body", False)
        self._gate.take(self, len(message.get("body", b"")))
        return message


def _unknown(headers: list[tuple[bytes, str]]) -> _Refusal:
    """A script of a page asks for user and password itself: the browser is not told to."""
    asked = {} if (b"sec-fetch-dest", "empty") in headers else {"WWW-Authenticate": "Basic"}
    sentence = "Send the user and password of ML_BACKEND_USER and ML_BACKEND_PASSWORD (HTTP basic authentication)."
    return _Refusal(401, sentence, asked)


def _wants_page(headers: list[tuple[bytes, str]]) -> bool:
    return any(name == b"accept" and "text/html" in value for name, value in headers)


def _place(origin: str) -> str:
    """Host and port of an `Origin`; empty for `null` and whatever else no browser sends for a page of ours."""
    found = re.fullmatch(f"https?://({_HOST})", origin.strip().lower())
    return found[1] if found else ""


def _basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())
