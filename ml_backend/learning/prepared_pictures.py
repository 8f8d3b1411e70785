"""The pictures that a network is trained on: read and prepared once, kept on disk, taken a batch at a time.

Memory holds the batches under way and no more, however many pictures there are. The file has no name: what becomes of the
process, the disk has its room back. Pictures that the room does not suffice for are read and prepared each time anew.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import ImageAwayError, ImageError

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Taken = tuple[NDArray[np.uint8], Rows]
Tick = Callable[[], None]
"""Called often while something is waited for; what it raises ends that."""

READERS = 8
TICK_S = 0.5
AHEAD = 2
"""Batches that are read while one is learned from."""
FREE_SHARE = 0.5
"""Of the disk's free room that may be taken: a checkpoint and a version are to be written, too."""
AWAY = 0.1
"""Where a larger share of the pictures cannot be fetched for the time being, training waits for them."""


class Pictures(Protocol):
    """n pictures, each (h, w, 3) uint8, as a network takes them. digest: by which they are known, all of them."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, rows: Rows, upcoming: Sequence[Rows] = (), tick: Tick = lambda: None) -> Taken:
        """Pictures (k, h, w, 3) of these rows, and the rows that they are of: those that went away are not among them.

        upcoming: rows that will be taken next, so that they are read meanwhile.
        """
        ...


class PicturesInMemory:
    """An array of them, for as many as fit into memory."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels

    @property
    def digest(self) -> str:
        sha = hashlib.sha256(str(self.pixels.shape).encode())
        sha.update(np.ascontiguousarray(self.pixels).data)
        return sha.hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Rows, upcoming: Sequence[Rows] = (), tick: Tick = lambda: None) -> Taken:  # noqa: ARG002
        return self.pixels[rows], rows


class PreparedPictures:
    """Pictures by their names, prepared when they are first asked for, and then on disk as far as there is room.

    prepare: place of a name -> picture of `shape`; called from several threads. An ImageError of it concerns this picture
    alone, anything else ends what is under way. folder: where the file without a name is. most: bytes it may take.
    """

    def __init__(
        self,
        names: Sequence[str],
        prepare: Callable[[int], NDArray[np.uint8]],
        shape: tuple[int, ...],
        folder: Path,
        *,
        most: int,
    ) -> None:
        self.names, self.prepare, self.shape = list(names), prepare, shape
        self.size = math.prod(shape)
        self.gone: dict[int, ImageError] = {}  # by place in `names`: why it cannot be had
        self.rows: Rows = np.arange(len(self.names), dtype=np.int64)  # places in `names` that there is a picture of
        self._file = _nameless(folder)
        room = 0 if self._file is None else min(most, int(FREE_SHARE * shutil.disk_usage(folder).free))
        self.room = min(len(self.names), room // self.size)
        self._kept = np.zeros(len(self.names), np.bool_)
        self._readers = ThreadPoolExecutor(READERS, "pictures")
        self._begun: dict[bytes, tuple[NDArray[np.uint8], list[Future[Rows]]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the room back at once; the file is closed when the last image that is still being fetched has come."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(0)
            threading.Thread(target=self._close, daemon=True).start()

    def _close(self) -> None:
        self._readers.shutdown(wait=True)
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.names[row] for row in self.rows).encode()).hexdigest()

    @property
    def cached(self) -> int:
        """Pictures that are on disk."""
        return int(self._kept.sum())

    def fill(self, progress: Callable[[int], None]) -> None:
        """Prepare as many as there is room for; those that cannot be had are no rows any more. progress: told how many.

        Raises ImageAwayError where too many cannot be fetched for the time being.
        """
        pending: deque[Future[NDArray[np.uint8] | None]] = deque()
        done = 0

        def finish(left: int) -> None:
            nonlocal done
            while len(pending) > left:
                progress(done)
                if wait([pending[0]], TICK_S).done:
                    pending.popleft().result()
                    done += 1

        for place in range(self.room):
            if place >= self.room:  # the disk is full
                break
            pending.append(self._readers.submit(self._picture, place))
            finish(4 * READERS)
        finish(0)
        self.rows = np.array([place for place in range(len(self.names)) if place not in self.gone], np.int64)
        self._complain(len(self.names))

    def take(self, rows: Rows, upcoming: Sequence[Rows] = (), tick: Tick = lambda: None) -> Taken:
        for each in (rows, *upcoming[:AHEAD]):
            self._begin(each)
        batch, parts = self._begun.pop(rows.tobytes())
        pending = set(parts)
        while pending:
            tick()
            pending = set(wait(pending, TICK_S).not_done)
        found = np.concatenate([part.result() for part in parts])
        self._complain(len(self.names))
        return (batch if len(found) == len(rows) else batch[found]), rows[found]

    def _begin(self, rows: Rows) -> None:
        key = rows.tobytes()
        if key in self._begun:
            return
        while len(self._begun) > AHEAD:  # of an epoch that was not gone on with
            self._begun.pop(next(iter(self._begun)))
        batch = np.empty((len(rows), *self.shape), np.uint8)
        parts = np.array_split(np.arange(len(rows)), min(READERS, max(1, len(rows))))
        self._begun[key] = batch, [self._readers.submit(self._read, batch, part, rows[part]) for part in parts]

    def _read(self, batch: NDArray[np.uint8], places: Rows, rows: Rows) -> Rows:
        """Fill in these places of a batch; returns those of pictures that are there."""
        found = []
        for place, row in zip(places, self.rows[rows].tolist(), strict=True):
            if self._kept[row] and self._file is not None:
                read = os.preadv(self._file.fileno(), [memoryview(batch[place]).cast("B")], row * self.size)
                if read == self.size:
                    found.append(place)
                    continue
            picture = self._picture(row)
            if picture is not None:
                batch[place] = picture
                found.append(place)
        return np.array(found, np.int64)

    def _picture(self, place: int) -> NDArray[np.uint8] | None:
        """Read and prepare one, and keep it where there is room; None where it cannot be had."""
        try:
            picture = self.prepare(place)
        except ImageError as error:
            self.gone.setdefault(place, error)
            return None
        self.gone.pop(place, None)
        if place < self.room and self._file is not None:
            try:
                written = os.pwrite(self._file.fileno(), np.ascontiguousarray(picture).data, place * self.size)
                self._kept[place] = written == self.size
            except OSError as error:
                if self.room:
                    logger.warning(
                        "No more pictures to train on are kept on disk (%s): the others are read anew.", error
                    )
                self.room = 0
        return picture

    def _complain(self, count: int) -> None:
        away = [error for error in list(self.gone.values()) if isinstance(error, ImageAwayError)]
        if len(away) > AWAY * count:
            raise away[0]


def _nameless(folder: Path) -> IO[bytes] | None:
    """An open file that is gone when it is closed, however that comes about; None where none can be had."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    logger.warning("No pictures to train on can be kept in %s: they are read anew each time.", folder)
    return None
