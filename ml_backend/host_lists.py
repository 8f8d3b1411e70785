"""Lists of hosts, as settings name them, and which addresses are public."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

PORTS = {"http": 80, "https": 443}
EXAMPLES = "images.example.org, *.example.org, minio:9000 or 10.0.0.0/8"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = {0x0000_5EFE, 0x0200_5EFE}
"""What stands before the IPv4 address, in the second half of an address of such a tunnel."""
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's machine agent and metadata
        "192.0.0.0/24",  # Oracle's metadata is among them
        "192.88.99.0/24",  # relays into 6to4
        "64:ff9b:1::/48",  # translated by whatever the operator's network agreed upon
        "3fff::/20",
        "5f00::/16",
    )
]
"""What Python's `is_global` takes for public, in some of its versions."""


@dataclass(frozen=True)
class _Entry:
    """One item of the list: a name (`*` and `*.suffix` are patterns) or a network; `port` None: that of the scheme."""

    name: str
    network: Network | None
    port: int | None

    def covers(self, host: str, port: int, usual: int) -> bool:
        if self.name == "*":
            return True
        if port != (self.port or usual):
            return False
        if self.network is not None:
            return self.network.num_addresses == 1 and address_of(host) == self.network.network_address
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name


def split(address: str) -> SplitResult:
    """`urlsplit` of whatever may stand in a task or a table: what cannot be an address (`http://[`) is all path."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", address, "", "")


class HostList:
    """Hosts, as a setting lists them.

    `images.example.org` is that host at the scheme's own port, `minio:9000` at that port alone, `*.example.org` every
    host below it, `*` every public host. `10.0.0.5:9000` is that address, and `10.0.0.0/8` no host, but where listed names
    may lead: both may be private.
    """

    def __init__(self, entries: Sequence[str] = ()) -> None:
        """Raises ValueError, with the item, where one is none."""
        self._entries = [_entry(text) for text in entries]

    def lists(self, scheme: str, host: str, port: int | None) -> bool:
        usual = PORTS[scheme]
        return any(entry.covers(plain(host), port or usual, usual) for entry in self._entries)

    def permits(self, address: str) -> bool:
        """Whether to connect to this address: it is public, or listed."""
        found = address_of(address)
        if found is None:
            return False
        listed = any(entry.network is not None and found in entry.network for entry in self._entries)
        return listed or all(map(_is_public, _meanings(found)))


def _entry(text: str) -> _Entry:
    """Read one item. Raises ValueError where it is none."""
    if network := _network(text):
        return _Entry("", network, None)
    try:
        parts = urlsplit(f"//{text}")
        if text.endswith(":") or set(text) & set("/?#@\\"):
            raise ValueError  # noqa: TRY301 - told below
        host, port = plain(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    if address := _network(host):
        return _Entry("", address, port)
    if host != "*" and not _NAME.fullmatch(host):
        raise ValueError(f"has {text!r}; write hosts as {EXAMPLES}")
    return _Entry(host, None, port)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def address_of(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def plain(host: str) -> str:
    """A host's name in one form: lower case, ASCII, no dot at its end."""
    name = host.lower().strip("[]").rstrip(".")
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 address that a translator would take it for."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour:
            yield address.sixtofour
        if address.teredo:
            yield from address.teredo
        if address in _NAT64 or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _is_public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    site = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not special and not site and not any(address in network for network in _NOT_PUBLIC)
