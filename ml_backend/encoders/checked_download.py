"""One file downloaded whole and checked, or not at all. A part goes on where it ended, a cancel is heard, nothing waits for ever."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import requests

from ml_backend.errors import DiskFullError, NoWeightsError

PATIENCE_S = 10.0
"""Longest wait for an answer, and for the next bytes: the firewall of a closed network may drop what is sent without a word."""
TICK_S = 0.5
TRIES = 3
"""Connections in a row that may break off without a byte, once there were some."""
BLOCK = 16 * 1024
SPARE = 2**20
"""Bytes to be left on the disk."""

Result = TypeVar("Result")
Tell = Callable[[int, int | None], None]
"""Told about twice a second how many bytes are there, and of how many, if that is known. What it raises ends the download."""


@dataclass(frozen=True)
class Expected:
    """What is known of the file beforehand. sha256: of the content, or the beginning of it; sha1: git's, of a small file."""

    size: int | None = None
    sha256: str = ""
    sha1: str = ""

    def fault(self, path: Path) -> str | None:
        """Why the file there is not the one that is expected; None where it is, for all that is known."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes instead of {self.size:,}"
        if self.sha256 and not (found := sha256_of(path)).startswith(self.sha256):
            return f"its SHA-256 begins with {found[: len(self.sha256)][:12]} instead of {self.sha256[:12]}"
        if self.sha1 and _git_sha1(path) != self.sha1:
            return f"its checksum is not {self.sha1[:12]}"
        return None


def download(url: str, path: Path, expected: Expected, tell: Tell, headers: Mapping[str, str] | None = None) -> None:
    """Bring the file at `url` to `path`, unless it is there. What came before a kill is gone on from.

    Two processes at once: one downloads, the other waits for it. Raises NoWeightsError where it cannot be had in full and
    as expected, DiskFullError where there is no room; nothing is at `path` then.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part, lambda: tell(0, expected.size)) as file:
            if path.is_file() and not expected.fault(path):  # the other process has brought it
                part.unlink(missing_ok=True)
                return
            begun = _size(file) > 0
            if not (begun and expected.sha256) or expected.fault(part):  # else a kill left but the name to be changed
                _transfer(url, file, expected, tell, headers or {})
            if expected.fault(part) and begun:  # what was there before may be a part of another file
                file.truncate(0)
                _transfer(url, file, expected, tell, headers or {})
            if fault := expected.fault(part):
                part.unlink()
                raise NoWeightsError(f"{host_of(url)} gave a broken file ({fault}), which was thrown away")
            os.fsync(file.fileno())
            part.replace(path)
    except requests.RequestException as error:
        raise NoWeightsError(why(url, error)) from error
    except OSError as error:
        raise of_the_disk(error, path) from error


def answer(ask: Callable[[], Result], tick: Callable[[], None]) -> Result:
    """What `ask` returns or raises; TimeoutError where that takes longer than PATIENCE_S, whatever it waits for.

    A time-out of requests counts anew for each address of a name, and not at all for the look-up of the name.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            future.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    until = time.monotonic() + PATIENCE_S
    while not future.done() and time.monotonic() < until:
        with suppress(TimeoutError):
            future.exception(TICK_S)
        tick()
    if not future.done():
        raise requests.Timeout
    return future.result()


def why(url: str, error: requests.RequestException) -> str:
    """Why there is no answer, in half a sentence that begins with the host."""
    host = host_of(url)
    if isinstance(error, requests.Timeout):
        return f"{host} does not answer within {PATIENCE_S:.0f} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} is not accepted (REQUESTS_CA_BUNDLE names a file with others)"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"{host} cannot be reached through the proxy"
    if error.response is not None:
        return f"{host} answers {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"{host} breaks off in the middle, again and again"
    return f"{host} cannot be reached"


def host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def sha256_of(path: Path) -> str:
    """Read once while the file stays as it is."""
    state = path.stat()
    return _sha256(path, state.st_ino, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=32)
def _sha256(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_sha1(path: Path) -> str:
    sha = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def _transfer(url: str, file: BinaryIO, expected: Expected, tell: Tell, headers: Mapping[str, str]) -> None:
    """Bring `file` to its end, over as many connections as it takes while bytes come."""
    came = failures = 0
    while True:
        before = _size(file)
        try:
            _connection(url, file, expected, tell, headers)
        except requests.RequestException as error:
            grown = _size(file) - before
            came, failures = came + grown, 0 if grown > 0 else failures + 1
            if error.response is not None or not came or failures >= TRIES:
                raise
            time.sleep(TICK_S)
        else:
            return


def _connection(url: str, file: BinaryIO, expected: Expected, tell: Tell, headers: Mapping[str, str]) -> None:
    have = _size(file)
    if have and have == expected.size:
        return
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    response = answer(
        lambda: requests.get(url, headers=asked, stream=True, timeout=PATIENCE_S), lambda: tell(have, expected.size)
    )
    with response:
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            file.truncate(0)
            _connection(url, file, expected, tell, headers)
            return
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content or not begins:
            file.truncate(0)
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else expected.size
        _make_sure_of_room(file, (total or have) - have)
        told = time.monotonic()
        for block in response.iter_content(BLOCK):
            file.write(block)
            have += len(block)
            if have > (expected.size or have):
                break  # it is not that file, and may have no end
            if time.monotonic() - told >= TICK_S:
                told = time.monotonic()
                tell(have, total)
        file.flush()
        tell(have, total)


def _size(file: BinaryIO) -> int:
    file.flush()
    return file.seek(0, os.SEEK_END)


def _make_sure_of_room(file: BinaryIO, needed: int) -> None:
    if shutil.disk_usage(Path(file.name).parent).free < needed + SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _alone(part: Path, tick: Callable[[], None]) -> Iterator[BinaryIO]:
    """The part of the file, open to be gone on with, and no other process at it. Waits for one that is."""
    while True:
        with part.open("a+b") as file:
            while not _locked(file):
                tick()
                time.sleep(TICK_S)
            if _is_still(part, file):
                yield file
                return


def _is_still(part: Path, file: BinaryIO) -> bool:
    """Not where who held it before has finished it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), part.stat())
    except FileNotFoundError:
        return False


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in {
            errno.ENOLCK,
            errno.ENOSYS,
            errno.ENOTSUP,
        }:  # a file system without locks: the checksum is left
            raise
    return True


def of_the_disk(error: OSError, path: Path) -> Exception:
    """What to raise where the disk refuses to write it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(
            f"No space is left for {path.name} in {path.parent}: free some, or set {_variable(path)} to a folder on another disk; "
            "the download goes on by itself where it ended."
        )
    return NoWeightsError(
        f"{path.parent} cannot be written to ({error.strerror}): set {_variable(path)} to another folder"
    )


def _variable(path: Path) -> str:
    return "HF_HOME" if path.parent.name == "blobs" else "TORCH_HOME"
