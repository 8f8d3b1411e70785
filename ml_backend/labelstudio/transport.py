"""One HTTP session to one Label Studio: tokens, bounded retries, and refusals told as sentences.

Plain `requests`, whose retries never repeat a POST that may have been done (docs/decisions/requests-not-the-sdk.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import socket
import threading
import time
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse
from urllib3.util.retry import Retry

from ml_backend.errors import ConfigError, LabelStudioError, LabelStudioUnavailableError, NotFoundError
from ml_backend.labelstudio import deadline
from ml_backend.wording import shortened

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
TRY_AGAIN = (429, 502, 503, 504)
POOL_SIZE = 32  # images are fetched from several decode threads at once
CONNECT_TIMEOUT_S = 3.05
EARLY_S = 30.0  # an access token is renewed this long before its end


class TokenAuth(AuthBase):
    """Adds the credentials of either kind of Label Studio token to a request. Safe to share between threads.

    A legacy token (40 hex digits) is sent as it is. A personal access token is a JWT of type `refresh`: it is exchanged
    for an access token, which Label Studio lets live 300 s, and exchanged again before that has passed.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._refresh_url = f"{url}/api/token/refresh/"
        self.api_key = api_key  # never to be shown
        self._claims = jwt_claims(api_key)
        self._lock = threading.Lock()
        self._access = ""
        self._good_until = 0.0

    @property
    def renewable(self) -> bool:
        return self._claims.get("token_type") == "refresh"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.header()
        return request

    def header(self) -> str:
        if not self._claims:
            return f"Token {self.api_key}"
        return f"Bearer {self._current_access() if self.renewable else self.api_key}"

    def forget_access(self) -> None:
        """Make the next request fetch a new access token (the old one was refused)."""
        with self._lock:
            self._good_until = 0.0

    def _current_access(self) -> str:
        with self._lock:
            if time.monotonic() >= self._good_until:
                self._access = self._exchange()
                claims = jwt_claims(self._access)
                # Lifetime by the issuer's clock, counted on ours: the two hosts' clocks need not agree.
                lifetime = float(claims.get("exp", 300)) - float(claims.get("iat", 0)) if "iat" in claims else 300.0
                self._good_until = time.monotonic() + max(lifetime - EARLY_S, 1.0)
            return self._access

    def _exchange(self) -> str:
        try:
            answer = requests.post(
                self._refresh_url,
                json={"refresh": self.api_key},
                timeout=(CONNECT_TIMEOUT_S, 30),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise unavailable(self._refresh_url, error) from error
        if answer.status_code >= 500:
            raise LabelStudioUnavailableError(f"Label Studio answered {answer.status_code} to {self._refresh_url}.")
        try:
            return str(answer.json()["access"])
        except (ValueError, KeyError, TypeError):
            raise LabelStudioError(
                f"Label Studio refused the personal access token ({detail_of(answer)}): it was revoked, has "
                "expired, or belongs to another Label Studio. Create a new one under Account & Settings, Personal "
                "Access Token."
            ) from None


def jwt_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified (only Label Studio can verify it); empty for any other string."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def pooled_session(
    retries: int, statuses: tuple[int, ...] = TRY_AGAIN, make_adapter: Callable[..., HTTPAdapter] | None = None
) -> requests.Session:
    """A session whose idempotent requests are repeated with jittered back-off (0.25, 0.5, 1, ... at most 8 s apart).

    urllib3 repeats a POST only where the connection was never made, so nothing is ever written twice.
    """
    policy = Retry(
        total=retries,
        status=retries,
        backoff_factor=0.25,
        backoff_max=8,
        backoff_jitter=0.25,
        status_forcelist=statuses,
        allowed_methods=IDEMPOTENT,
        raise_on_status=False,
        respect_retry_after_header=False,  # an hour in that header must not hold a worker for an hour
    )
    session = requests.Session()
    adapter = (make_adapter or PromptAdapter)(pool_connections=8, pool_maxsize=POOL_SIZE, max_retries=policy)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # A session cookie would switch Label Studio to cookie auth with CSRF, and a shared jar is not thread-safe.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


class _Watched(HTTPConnection):
    """Ends with the deadline of the thread that uses it, while it is being made as well."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        deadline.watch(connection)
        return connection

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3 itself
        if self.sock is not None:
            deadline.watch(self.sock)
        return super().getresponse()


class WatchedTLS(_Watched, HTTPSConnection):
    """The same with TLS."""


class PromptConnection(_Watched):
    """Acknowledges the first part of an answer at once.

    Label Studio's own server sends head and body apart, and holds the body back until the head is acknowledged. The
    system puts that off for 40 ms, hoping for something to send along: four fifths of a small request.
    """

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3 itself
        if self.sock is not None and hasattr(socket, "TCP_QUICKACK"):  # Linux; must be said again each time
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return super().getresponse()


class _PromptPool(HTTPConnectionPool):
    ConnectionCls = PromptConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = WatchedTLS


class PromptAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PromptPool, "https": _TLSPool}


class Transport:
    """Requests to one Label Studio. `url` may hold a path prefix; `path` starts with a slash below it."""

    def __init__(self, url: str, api_key: str, *, timeout: float = 60.0, retries: int = 4) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ConfigError(f"{url!r} is not a valid Label Studio address: use the form http://host:port.")
        if not api_key.strip():
            raise ConfigError("The Label Studio token is empty: copy one from Account & Settings in Label Studio.")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.auth = TokenAuth(self.url, api_key.strip())
        self.session = pooled_session(retries, (500, *TRY_AGAIN))  # on SQLite, a locked database answers 500
        self.session.auth = self.auth

    def close(self) -> None:
        self.session.close()

    def send(self, method: str, path: str, *, timeout: float | None = None, **kwargs: Any) -> requests.Response:
        """One request, whatever its status; raises only where Label Studio cannot be reached or refuses the token."""
        answer = self._once(method, path, timeout, kwargs)
        if answer.status_code == 401 and self.auth.renewable:
            self.auth.forget_access()
            answer = self._once(method, path, timeout, kwargs)
        if answer.status_code == 401:
            raise LabelStudioError(unauthorized(answer, renewable=self.auth.renewable))
        return answer

    def call(self, method: str, path: str, *, timeout: float | None = None, **kwargs: Any) -> Any:
        """One request that must succeed: its JSON (None for an empty body).

        Raises NotFoundError for a 404, LabelStudioUnavailableError for no answer or a 5xx, LabelStudioError otherwise.
        """
        answer = self.send(method, path, timeout=timeout, **kwargs)
        if answer.ok:
            return parsed(answer) if answer.content else None
        what = f"{method} {path}"
        if answer.status_code == 404:
            raise NotFoundError(f"Label Studio does not know {what} ({detail_of(answer)}).")
        if answer.status_code >= 500 or answer.status_code == 429:
            raise LabelStudioUnavailableError(
                f"Label Studio failed at {what} ({answer.status_code}): {detail_of(answer)}"
            )
        if answer.status_code == 403:
            raise LabelStudioError(
                f"Label Studio does not allow this user to {what} ({detail_of(answer)}): use the token of a user "
                "who can manage the project."
            )
        raise LabelStudioError(f"Label Studio refused {what} ({answer.status_code}): {detail_of(answer)}")

    def _once(self, method: str, path: str, timeout: float | None, kwargs: dict[str, Any]) -> requests.Response:
        try:
            return self.session.request(
                method, self.url + path, timeout=(CONNECT_TIMEOUT_S, timeout or self.timeout), **kwargs
            )
        except requests.RequestException as error:
            raise unavailable(self.url, error) from error


def parsed(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise LabelStudioError(
            f"{answer.url} did not answer with JSON: check that this is the address of a Label Studio (and not of a "
            "login page)."
        ) from None


def unavailable(url: str, error: Exception) -> LabelStudioUnavailableError:
    kind = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
    return LabelStudioUnavailableError(
        f"Label Studio at {url} {kind}: check that it is running and that the address is right."
    )


def unauthorized(answer: requests.Response, *, renewable: bool) -> str:
    detail = detail_of(answer)
    if "legacy" in detail.lower():
        return (
            f"Label Studio refuses legacy tokens ({detail}). Use a personal access token, or allow legacy tokens: "
            "in Label Studio under Organization, API Tokens Settings, or with "
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true before its first start."
        )
    kind = "personal access token" if renewable else "token"
    return (
        f"Label Studio refused the {kind} ({detail}): it is wrong, was revoked, or belongs to another Label Studio. "
        "Copy it again from Account & Settings; a personal access token is long and has two dots, a legacy token "
        "has 40 digits."
        + (
            " Personal access tokens may also be switched off under Organization, API Tokens Settings."
            if renewable
            else ""
        )
    )


def detail_of(answer: requests.Response) -> str:
    """What Label Studio says about a refusal, in one line of at most 500 characters."""
    try:
        body = answer.json()
    except ValueError:
        return f"status {answer.status_code}"
    return detail_of_body(body)


def detail_of_body(body: Any) -> str:
    """The same of the answer's JSON; each error of a field with the field's name."""
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    return shortened(_flat(body))


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{'' if key == 'non_field_errors' else f'{key}: '}{_flat(v)}" for key, v in value.items())
    return ", ".join(_flat(v) for v in value) if isinstance(value, list) else str(value)
