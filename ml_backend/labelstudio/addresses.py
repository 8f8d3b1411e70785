"""Which hosts images may come from, and where their names may lead.

A host has to be listed (ML_BACKEND_IMAGE_HOSTS), and a name must lead to public addresses, or to addresses that are
listed, too. The address that was checked is the one that is connected to: a name that answers differently the second
time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from ml_backend.errors import ImageError
from ml_backend.host_lists import PORTS, HostList, address_of, plain
from ml_backend.labelstudio.transport import PromptAdapter, PromptConnection, WatchedTLS, pooled_session

SETTING = "ML_BACKEND_IMAGE_HOSTS"
ADDRESSES_TRIED = 4


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port, in one form. Raises ImageError for an address that has none of them."""
    try:
        parts = urlsplit(url)
        return parts.scheme, plain(parts.hostname or ""), parts.port or PORTS.get(parts.scheme)
    except ValueError:  # a port that is no number, a bracket too many
        raise ImageError(f"{url[:120]!r} is not a valid address: correct the task data.") from None


class _Nobody(AuthBase):
    """No credentials but those in the address itself; without it, requests would look for some in ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        user, password = get_auth_from_url(request.url or "")
        return HTTPBasicAuth(user, password)(request) if user else request


NOBODY = _Nobody()


def outside_session(retries: int, hosts: HostList, *, led: bool) -> requests.Session:
    """A session without our token, for hosts other than Label Studio. What is refused raises ImageError.

    led: the addresses are given by Label Studio, which presigned them, so that the host need not be listed; a private
    address still has to be.
    """
    session = pooled_session(retries, make_adapter=functools.partial(_CheckedAdapter, hosts, led=led))
    session.auth = NOBODY
    return session


class _CheckedAdapter(PromptAdapter):
    """Refuses hosts that are not listed, and connects to checked addresses alone.

    Behind a proxy (HTTPS_PROXY) the proxy looks names up, so only the name and literal addresses can be checked here.
    """

    def __init__(self, hosts: HostList, *, led: bool, **options: Any) -> None:
        self._hosts, self._redirected = hosts, led
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": functools.partial(_CheckedPool, hosts=self._hosts),
            "https": functools.partial(_CheckedTLSPool, hosts=self._hosts),
        }

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        scheme, host, port = origin(request.url or "")
        literal = address_of(host) is not None
        if not (self._redirected or self._hosts.lists(scheme, host, port)):
            raise not_listed(scheme, host, port)
        if literal and not self._hosts.permits(host):
            raise private(host)
        return super().send(request, *args, **kwargs)


class _Checked(HTTPConnection):
    """Looks its host up once, and connects to an address that was looked at. `host` stays the name, also for TLS."""

    def __init__(self, *args: Any, hosts: HostList, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hosts = hosts

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        *first, last = self._addresses(name)
        try:
            for self._dns_host in first:
                with contextlib.suppress(NewConnectionError, ConnectTimeoutError):
                    return super()._new_conn()
            self._dns_host = last
            return super()._new_conn()
        finally:
            self._dns_host = name

    def _addresses(self, name: str) -> list[str]:
        """Every address of the name, checked. One that is not permitted spoils all: the name is not to be trusted."""
        try:
            found = socket.getaddrinfo(name.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failed = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(name, self, failed) from error
        addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
        if not all(map(self._hosts.permits, addresses)):
            raise private(name)
        return addresses[:ADDRESSES_TRIED]


class _CheckedConnection(_Checked, PromptConnection):
    """Over http."""


class _CheckedTLS(_Checked, WatchedTLS):
    """Over https."""


class _CheckedPool(HTTPConnectionPool):
    def __init__(self, *args: Any, hosts: HostList, **kwargs: Any) -> None:
        self.ConnectionCls = functools.partial(_CheckedConnection, hosts=hosts)  # type: ignore[assignment]
        super().__init__(*args, **kwargs)


class _CheckedTLSPool(HTTPSConnectionPool):
    def __init__(self, *args: Any, hosts: HostList, **kwargs: Any) -> None:
        self.ConnectionCls = functools.partial(_CheckedTLS, hosts=hosts)  # type: ignore[assignment]
        super().__init__(*args, **kwargs)


def unlisted(references: Iterable[str | None], studio: str, hosts: HostList) -> dict[str, int]:
    """The hosts that images would not be fetched from, as the setting would name them, each with how many images."""
    found: Counter[str] = Counter()
    for reference in references:
        if not (reference or "").startswith(tuple(f"{scheme}:" for scheme in PORTS)):
            continue
        with contextlib.suppress(ImageError):  # damaged addresses are told with their images
            scheme, host, port = origin(str(reference))
            if (scheme, host, port) != origin(studio) and not hosts.lists(scheme, host, port):
                found[_place(scheme, host, port)] += 1
    return dict(found)


def _place(scheme: str, host: str, port: int | None) -> str:
    return (host if port in {None, PORTS[scheme]} else f"{host}:{port}")[:120]


def not_listed(scheme: str, host: str, port: int | None) -> ImageError:
    place = _place(scheme, host, port)
    return ImageError(
        f"Images are not fetched from {place}, because it is not listed: if it is to be trusted, add it to {SETTING} "
        f"({SETTING}={place}), or serve the images through Label Studio."
    )


def private(host: str) -> ImageError:
    return ImageError(
        f"Images are not fetched from {host[:120]}, because it leads to this machine or into a private network: if that "
        f"is meant, add its address or network to {SETTING} as well."
    )
