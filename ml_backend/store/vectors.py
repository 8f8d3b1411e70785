"""Vectors of images, each computed once: (encoder, content hash) -> float16 row.

Per encoder one folder with two append-only files: `vectors.f16`, the rows, and `hashes.bin`, 32 bytes a row. A row
exists when its hash is there in full; vectors are written and synced first, so a crash at any point leaves at most
a tail that no hash speaks of, which the next writer cuts off. Readers map the files and need no lock.

It is a cache: files that do not fit together are named in the log and set aside, and the images are encoded again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.store.faults import translated

logger = logging.getLogger(__name__)

READ_BLOCK = 4_096
"""Rows read at a time."""
_HASH_BYTES = 32
_DAMAGED = ".damaged"
"""Folder of what was set aside, the last of each encoder."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class FeatureStore:
    """Safe for many threads and processes of one machine (an advisory lock on the folder serialises writers)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tables: dict[str, _Table] = {}
        self._lock = threading.Lock()

    def append(self, encoder_id: str, hashes: Sequence[str], vectors: NDArray[np.floating[Any]]) -> int:
        """Add rows (n, d) for hex SHA-256 `hashes`; those already stored are left as they are. Returns rows added.

        On return the rows are on disk. Raises InvalidInputError for wrong shapes, hashes or values, ConflictError
        for a dimension other than what the encoder's rows have.
        """
        keys = _keys(hashes)
        if vectors.ndim != 2 or len(vectors) != len(keys):
            raise InvalidInputError(f"{len(keys)} hashes need as many vectors, not an array of shape {vectors.shape}.")
        with np.errstate(over="ignore"):
            rows = vectors.astype(np.float16)
        if not np.isfinite(rows).all():
            raise InvalidInputError("Vectors must be finite numbers in the range of float16.")
        if len(keys) == 0:
            return 0
        table = self._table(encoder_id)
        with self._lock, translated(str(self.root)):
            return table.append(keys, rows)

    def rows(self, encoder_id: str, hashes: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers (n,) in `matrix`, -1 for hashes that are not stored."""
        table = self._table(encoder_id)
        with self._lock:
            table.refresh()
            return table.find(_keys(hashes))

    def matrix(self, encoder_id: str) -> NDArray[np.float16]:
        """All rows (n, d), memory-mapped, read-only. Rows appended later need a new call; row numbers never change."""
        table = self._table(encoder_id)
        with self._lock:
            table.refresh()
            return table.matrix()

    def encoder_ids(self) -> set[str]:
        """Of all encoders that there are rows of."""
        return {path.parent.name for path in self.root.glob("*/hashes.bin") if _NAME.fullmatch(path.parent.name)}

    def encoder_of(self, hashes: Sequence[str]) -> str | None:
        """The encoder that most of these hashes have vectors of; None where none has any."""
        names = sorted(self.encoder_ids())
        counts = {name: int((self.rows(name, hashes) >= 0).sum()) for name in names}
        best = max(names, key=counts.__getitem__, default=None)
        return best if best is not None and counts[best] else None

    def drop(self, encoder_id: str) -> None:
        """Remove all rows of an encoder that is no longer used. Maps that are still open stay readable."""
        table = self._table(encoder_id)
        with self._lock:
            self._tables.pop(encoder_id, None)
            shutil.rmtree(table.folder, ignore_errors=True)

    def _table(self, encoder_id: str) -> _Table:
        if not _NAME.fullmatch(encoder_id):
            raise InvalidInputError(f"{encoder_id!r} is not an encoder id: use only letters, digits, '.', '_' and '-'.")
        with self._lock:
            return self._tables.setdefault(encoder_id, _Table(self.root / encoder_id))


def read_rows(
    matrix: NDArray[np.float16], at: NDArray[np.integer[Any]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Go through the rows `at` (n,) of a matrix in the order of the file: (k,) places in `at`, (k, d) their rows.

    Of a memory map, what was read is let go of again, so that a large one never counts as memory of this process.
    """
    order = np.argsort(at, kind="stable")
    # A few rows from all over a file bring in most of it: fewer at a time, then.
    block = min(max(READ_BLOCK * len(at) // max(len(matrix), 1), READ_BLOCK // 64), READ_BLOCK)
    opened = getattr(matrix, "_mmap", None)
    for start in range(0, len(order), block):
        places = order[start : start + block]
        yield places, np.asarray(matrix[at[places]])
        if opened is not None and hasattr(mmap, "MADV_DONTNEED"):
            opened.madvise(mmap.MADV_DONTNEED)


@dataclass
class _Table:
    """One encoder's files, and a sorted index of the first 8 bytes of each hash; new rows wait in a dict."""

    folder: Path
    dim: int = 0
    count: int = 0
    inode: int = 0
    sorted_keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    sorted_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    recent: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hashes_path, self.vectors_path = self.folder / "hashes.bin", self.folder / "vectors.f16"
        self.table_path = self.folder / "table.json"

    def append(self, keys: NDArray[np.uint8], rows: NDArray[np.float16]) -> int:
        with self._locked():
            self._ensure_dim(rows.shape[1])
            self._read()
            first: dict[bytes, int] = {}
            for number, key in enumerate(_split(keys)):
                first.setdefault(key, number)
            distinct = np.fromiter(first.values(), np.int64)
            new = distinct[self.find(keys[distinct]) < 0]
            if len(new) == 0:
                return 0
            self._tell_of_tail()
            # Cut off what a writer before us left unfinished, then vectors, then the hashes that make them count.
            _write_at(self.vectors_path, self.count * self.dim * 2, np.ascontiguousarray(rows[new]))
            _write_at(self.hashes_path, self.count * _HASH_BYTES, np.ascontiguousarray(keys[new]))
            self._read()
            return len(new)

    def refresh(self) -> None:
        """Take notice of rows added since, by this process or another. What is damaged is set aside, and has no rows."""
        if self._damage() is not None:
            self._set_aside()
        self._read()

    def _read(self) -> None:
        try:
            status = self.hashes_path.stat()
        except FileNotFoundError:
            self._forget()
            return
        if status.st_ino != self.inode or status.st_size // _HASH_BYTES < self.count:
            self._forget()
            self.inode = status.st_ino
            self.dim = self._stored_dim()
        count = status.st_size // _HASH_BYTES
        if count == self.count:
            return
        fresh = self._hashes(count)[self.count :]
        if len(fresh) + len(self.recent) > 50_000:
            self._index(self._hashes(count))
        else:
            self.recent.update(zip(_split(fresh), range(self.count, count), strict=True))
        self.count = count

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        found = np.full(len(keys), -1, np.int64)
        if len(self.sorted_keys) and len(keys):
            prefixes, stored = _prefixes(keys), self._hashes(self.count)
            place = np.searchsorted(self.sorted_keys, prefixes)
            open_ = np.arange(len(keys))
            # Each turn looks at one place a key; a second turn is needed only where two hashes share eight bytes.
            while len(open_ := open_[place[open_] < len(self.sorted_keys)]):
                open_ = open_[self.sorted_keys[place[open_]] == prefixes[open_]]
                rows = self.sorted_rows[place[open_]]
                same = (stored[rows] == keys[open_]).all(axis=1)
                found[open_[same]] = rows[same]
                open_ = open_[~same]
                place[open_] += 1
        if self.recent:
            unknown = np.flatnonzero(found < 0)
            found[unknown] = [self.recent.get(key, -1) for key in _split(keys[unknown])]
        return found

    def matrix(self) -> NDArray[np.float16]:
        if self.count == 0:
            return np.zeros((0, self.dim), np.float16)
        return np.memmap(self.vectors_path, np.float16, "r", shape=(self.count, self.dim))

    def _hashes(self, count: int) -> NDArray[np.uint8]:
        return np.asarray(np.memmap(self.hashes_path, np.uint8, "r", shape=(count, _HASH_BYTES)))

    def _index(self, hashes: NDArray[np.uint8]) -> None:
        prefixes = _prefixes(hashes)
        self.sorted_rows = np.argsort(prefixes, kind="stable")
        self.sorted_keys = prefixes[self.sorted_rows]
        self.recent = {}

    def _forget(self) -> None:
        self.count, self.inode, self.recent = 0, 0, {}
        self.sorted_keys, self.sorted_rows = np.zeros(0, np.uint64), np.zeros(0, np.int64)

    def _damage(self) -> str | None:
        """What is wrong with the files, if anything. A tail of vectors without hashes is not: a writer was killed."""
        rows, held = _size(self.hashes_path) // _HASH_BYTES, _size(self.vectors_path)
        try:
            dim = json.loads(self.table_path.read_bytes())["dim"]
        except FileNotFoundError:
            return f"{self.table_path.name} is missing" if rows else None
        except (ValueError, KeyError, TypeError):
            return f"{self.table_path.name} cannot be read"
        if not isinstance(dim, int) or dim < 1:
            return f"{self.table_path.name} names no dimension"
        if held < rows * dim * 2:
            return f"{self.vectors_path.name} has {held} bytes; {rows} vectors of {dim} numbers have {rows * dim * 2}"
        return None

    def _set_aside(self) -> None:
        """Move damaged files away, unless somebody else has done so meanwhile."""
        with self._locked_once():
            if (damage := self._damage()) is None:
                return
            aside = self.folder.parent / _DAMAGED / self.folder.name
            logger.error(
                "%s is damaged (%s): it was moved to %s, and its images are encoded again.", self.folder, damage, aside
            )
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            self.folder.rename(aside)
            self._forget()

    def _tell_of_tail(self) -> None:
        """Say so where vectors are about to be cut off: hashes.bin may have lost its end."""
        if (lost := _size(self.vectors_path) // (self.dim * 2) - self.count) > 0:
            logger.warning(
                "%s: %d vectors have no entry in %s, so a write was cut short there; their images are encoded again.",
                self.folder, lost, self.hashes_path.name,
            )  # fmt: skip

    def _ensure_dim(self, dim: int) -> None:
        if not self.table_path.exists():
            temporary = self.table_path.with_suffix(".tmp")
            with temporary.open("w") as file:
                file.write(json.dumps({"dim": dim, "dtype": "float16"}) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a name of an empty file is what a power cut would leave else
            temporary.replace(self.table_path)
            self.hashes_path.touch()
        self.dim = self._stored_dim()
        if self.dim != dim:
            raise ConflictError(
                f"{self.folder.name} has vectors of {self.dim} numbers, not {dim}: use another encoder id."
            )

    def _stored_dim(self) -> int:
        return int(json.loads(self.table_path.read_bytes())["dim"])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only writer of a folder that is whole."""
        if self._damage() is not None:
            self._set_aside()
        with self._locked_once():
            yield

    @contextmanager
    def _locked_once(self) -> Iterator[None]:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _same(handle, self.folder / "lock"):  # else the folder was set aside while we waited
                    yield
                    return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _same(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _keys(hashes: Sequence[str]) -> NDArray[np.uint8]:
    try:
        raw = b"".join(map(bytes.fromhex, hashes))
    except ValueError as error:
        raise InvalidInputError(f"Content hashes must be hex SHA-256 digests ({error}).") from error
    if len(raw) != _HASH_BYTES * len(hashes):
        raise InvalidInputError("Content hashes must be SHA-256 digests of 64 hex digits.")
    return np.frombuffer(raw, np.uint8).reshape(-1, _HASH_BYTES)


def _split(keys: NDArray[np.uint8]) -> list[bytes]:
    """One bytes object a row; slicing one buffer is several times faster than converting row by row."""
    raw = keys.tobytes()
    return [raw[start : start + _HASH_BYTES] for start in range(0, len(raw), _HASH_BYTES)]


def _prefixes(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _write_at(path: Path, offset: int, data: NDArray[Any]) -> None:
    """Write at `offset`, dropping anything behind it, and wait until it is on disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+b") as handle:
        handle.truncate(offset)
        handle.seek(offset)
        handle.write(data.data)
        handle.flush()
        os.fsync(handle.fileno())
