"""Files of the Hugging Face Hub, or of a mirror that speaks its protocol (HF_ENDPOINT), in the cache that its own tools use.

Its library downloads such a file, too, but does not go on with a part, compares no checksum, and waits for minutes where a firewall
drops what is sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests

from ml_backend.encoders import checked_download
from ml_backend.encoders.weight_sources import HubFile
from ml_backend.errors import NoWeightsError

Tick = Callable[[], None]

SHA256 = re.compile(r"[0-9a-f]{64}")
SHA1 = re.compile(r"[0-9a-f]{40}")
REDIRECTS = 5


@dataclass(frozen=True)
class Listed:
    """A file as the hub has it just now. commit: of the repository; etag: what the file is called in the cache."""

    file: str
    commit: str
    etag: str
    size: int | None

    @property
    def expected(self) -> checked_download.Expected:
        """Of a large file the tag is its SHA-256, of a small one git's SHA-1."""
        sha256, sha1 = SHA256.fullmatch(self.etag), SHA1.fullmatch(self.etag)
        return checked_download.Expected(self.size, self.etag if sha256 else "", self.etag if sha1 else "")


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the hub's own variable forbids to ask it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def folder(repository: str) -> Path:
    """Where the cache keeps what is of this repository."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub").expanduser()
    return cache / f"models--{repository.replace('/', '--')}"


def _home() -> Path:
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{general}/huggingface").expanduser()


def cached(source: HubFile) -> Path | None:
    """The first of the source's files that is in the cache, as of when the hub was asked last."""
    root = folder(source.repository)
    try:
        commit = (root / "refs" / source.revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = source.revision
    places = (root / "snapshots" / commit / file for file in source.files)
    return next((place for place in places if place.is_file()), None)


def expected_of(path: Path) -> checked_download.Expected:
    """What a file of the cache should be, as far as its name says so."""
    etag = path.resolve().name
    return checked_download.Expected(sha256=etag if SHA256.fullmatch(etag) else "")


def fetch(source: HubFile, tick: Tick, announce: Callable[[str, int | None], checked_download.Tell]) -> Path:
    """The first of the source's files that the hub has, downloaded into the cache.

    announce: told the address and the size before the bytes come; gives who is told how many did.
    Raises NoWeightsError where none can be had, in half a sentence that begins with whose fault it is.
    """
    listed = next((found for file in source.files if (found := _listed(source, file, tick))), None)
    if listed is None:
        raise NoWeightsError(f"{source.repository} at {endpoint()} has no file {' or '.join(source.files)}")
    root = folder(source.repository)
    blob, snapshot = root / "blobs" / listed.etag, root / "snapshots" / listed.commit / listed.file
    if not snapshot.is_file():
        url = _address(source, listed.file)
        checked_download.download(url, blob, listed.expected, announce(url, listed.size), _headers())
    try:
        _link(blob, snapshot)
        _refer(root / "refs" / source.revision, listed.commit)
    except OSError as error:
        raise checked_download.of_the_disk(error, blob) from error
    return snapshot


def licence(repository: str, tick: Tick) -> str:
    """What its card says; "" where there is none, or nobody answers."""
    try:
        url = f"{endpoint()}/api/models/{repository}"
        reply = checked_download.answer(
            lambda: requests.get(url, headers=_headers(), timeout=checked_download.PATIENCE_S), tick
        )
        told = reply.json()["cardData"]["license"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return ""
    return told if isinstance(told, str) else ""


def _listed(source: HubFile, file: str, tick: Tick) -> Listed | None:
    """What the hub says of a file; None where it has the repository and no such file."""
    url = _address(source, file)
    try:
        head = checked_download.answer(lambda: _head(url), tick)
    except requests.RequestException as error:
        raise NoWeightsError(checked_download.why(url, error)) from error
    code = head.headers.get("X-Error-Code", "")
    if head.status_code == requests.codes.not_found and code in {"", "EntryNotFound"}:
        return None
    if head.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
        raise NoWeightsError(
            f"{endpoint()}/{source.repository} is open only to those who agreed to its licence there, or does not exist (set HF_TOKEN "
            "to the token of one who did)"
        )
    if head.status_code >= requests.codes.bad_request:
        raise NoWeightsError(f"{checked_download.host_of(url)} answers {head.status_code}")
    return _read(file, head.headers, checked_download.host_of(url))


def _read(file: str, headers: Mapping[str, str], host: str) -> Listed:
    commit = headers.get("X-Repo-Commit", "")
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag", "")).removeprefix("W/").strip('"')
    if not SHA1.fullmatch(commit) or not re.fullmatch(r"[\w-]{1,128}", etag):  # both become names of files
        raise NoWeightsError(f"{host} does not answer as the Hugging Face Hub does")
    size = headers.get("X-Linked-Size") or ("" if "Location" in headers else headers.get("Content-Length", ""))
    return Listed(file, commit, etag, int(size) if size.isdigit() else None)


def _head(url: str) -> requests.Response:
    """The hub's own answer: a redirect within it is followed, one to where the bytes of a large file are is not."""
    host = checked_download.host_of(url)
    for _ in range(REDIRECTS):
        head = requests.head(url, headers=_headers(), timeout=checked_download.PATIENCE_S, allow_redirects=False)
        further = urljoin(url, head.headers.get("Location", ""))
        if not head.is_redirect or "X-Linked-Etag" in head.headers or checked_download.host_of(further) != host:
            return head
        url = further
    raise requests.TooManyRedirects


def _address(source: HubFile, file: str) -> str:
    return f"{endpoint()}/{source.repository}/resolve/{source.revision}/{file}"


def _headers() -> dict[str, str]:
    """With the token of whoever signed in at the hub, if somebody did."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        try:
            token = (_home() / "token").read_text(encoding="utf-8").strip()
        except OSError:
            token = ""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _link(blob: Path, snapshot: Path) -> None:
    """As the hub's tools do it, so that they find it, too."""
    if snapshot.is_file():
        return
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    snapshot.unlink(missing_ok=True)
    try:
        snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))
    except FileExistsError:
        return  # the other process was first
    except OSError:  # a file system without links
        blob.replace(snapshot)


def _refer(reference: Path, commit: str) -> None:
    """Note which commit the branch is at."""
    if reference.name == commit:
        return
    reference.parent.mkdir(parents=True, exist_ok=True)
    new = reference.with_name(f".{reference.name}.{os.getpid()}")
    new.write_text(commit, encoding="utf-8")
    new.replace(reference)
