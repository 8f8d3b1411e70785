"""Many images -> vectors: reading, decoding and computing at the same time, each distinct image encoded once.

On a CPU every core runs its own lane (decode a batch, then compute it with one thread): no core waits for another.
On a GPU the lanes decode side by side and take turns on the device; so they do with a class that is called by one at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.encoders import compute
from ml_backend.encoders.encoder import Encoder
from ml_backend.errors import BackendError, ConfigError, ImageError, TurnPausedError
from ml_backend.images.decoding import content_hash, decode

TICK_S = 0.5
"""Seconds between looks whether a run that waits for slow images is to be stopped."""

T = TypeVar("T", bound=Hashable)
Sink = Callable[[Sequence[str], NDArray[np.float32]], object]


@dataclass
class Encoded(Generic[T]):
    """hashes: content hash of every item that could be decoded, now or before. failed: why the others could not."""

    hashes: dict[T, str] = field(default_factory=dict)
    failed: dict[T, BackendError] = field(default_factory=dict)


def encode_all(
    items: Sequence[T],
    read: Callable[[T], bytes],
    encoder: Encoder,
    sink: Sink,
    *,
    known: Callable[[str], bool] = lambda _: False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    batch_size: int | None = None,
    lanes: int | None = None,
    readers: int = 8,
    into: Encoded[T] | None = None,
) -> Encoded[T]:
    """Encode `items`, whose bytes `read` gets, and hand (hashes, vectors) to `sink` batch by batch.

    read: called from many threads; a BackendError of it concerns its item alone, anything else ends the run.
    sink: called by one thread at a time. What it has stored survives: run again after a crash, with `known` telling
    which hashes are stored, and only the rest is computed. progress(done, total) follows each batch, and comes now and
    then while one takes long. It may raise to stop the run, which then waits for no image that is still being read; save
    for a TurnPausedError, after which those are taken in, so that even slow ones get on.
    into: filled as the run goes, so that what is done is known however it ends.
    batch_size: halved, and the batch tried again, whenever memory runs out.
    """
    on_gpu = getattr(encoder, "device", torch.device("cpu")).type != "cpu"
    count = lanes or compute.threads()
    in_turn = on_gpu or bool(getattr(encoder, "takes_turns", False))
    shared = -(-len(items) // count) or 1  # few images: by all lanes
    size = batch_size or (128 if on_gpu else min(128 if in_turn else 16, shared))
    run: _Run[T] = _Run(encoder, sink, known, progress, len(items), size, in_turn, into or Encoded())
    threads = torch.get_num_threads()
    encoding = _lanes(count, in_turn)
    reading = ThreadPoolExecutor(readers, "read")
    waiting: deque[Future[None]] = deque()
    try:
        for batch in _batches(iter(items), size):
            reads = [reading.submit(_read, read, item) for item in batch]
            waiting.append(encoding.submit(run.encode, batch, reads))
            if len(waiting) > 2 * count:  # bounded: files read ahead, but never the whole pool in memory
                run.wait(waiting[0])
                waiting.popleft()
        while waiting:
            run.wait(waiting[0])
            waiting.popleft()
    except BaseException as error:
        reading.shutdown(wait=False, cancel_futures=True)
        run.stop(waiting, patiently=isinstance(error, TurnPausedError))
        raise
    finally:
        reading.shutdown(wait=False)
        torch.set_num_threads(threads)  # the default of threads started later, which the lanes lowered
    return run.finish()


@cache
def _lanes(count: int, in_turn: bool) -> ThreadPoolExecutor:
    """Kept for the next call: a new thread would get its memory from the system page by page, a third of a request."""
    return ThreadPoolExecutor(count, "encode", initializer=_one_thread, initargs=(in_turn,))


def forward_within_memory(encoder: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`encoder.forward`, in halves where the whole does not fit into memory. Raises only if one image does not fit."""
    try:
        return encoder.forward(pixels)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if len(pixels) == 1 or not _is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(pixels) // 2
    return np.concatenate(
        [forward_within_memory(encoder, pixels[:half]), forward_within_memory(encoder, pixels[half:])]
    )


@dataclass
class _Run(Generic[T]):
    encoder: Encoder
    sink: Sink
    known: Callable[[str], bool]
    progress: Callable[[int, int], None]
    total: int
    size: int
    take_turns: bool
    result: Encoded[T]
    done: int = 0
    claimed: set[str] = field(default_factory=set)
    damaged: dict[str, BackendError] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    device_lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)

    def wait(self, batch: Future[None]) -> None:
        """Return when the batch is done, or raise what it or `progress` raised."""
        while batch not in wait([batch], TICK_S).done:
            with self.lock:
                self.progress(self.done, self.total)
        batch.result()

    def stop(self, batches: Collection[Future[None]], *, patiently: bool) -> None:
        """End the batches under way: with what has been read, or `patiently` with what is being read as well."""
        self.stopped.set()
        if not patiently:
            self.given_up.set()
            for batch in batches:
                batch.cancel()
        wait(batches)
        self.finish()

    def encode(self, batch: Sequence[T], reads: Sequence[Future[bytes | BackendError]]) -> None:
        hashes: list[str] = []
        pixels: list[NDArray[np.uint8]] = []
        claims: dict[T, str] = {}
        for item, pending in zip(batch, reads, strict=True):
            data = self._read(pending)
            if data is None:
                continue
            if isinstance(data, BackendError):
                self.result.failed[item] = data
                continue
            key = content_hash(data)
            claims[item] = key
            if not self._claim(key):
                continue
            try:
                pixels.append(self.encoder.prepare(decode(data, self.encoder.input_size)))
                hashes.append(key)
            except ImageError as error:
                self.damaged[key] = error
        vectors = self._forward(np.stack(pixels)) if pixels else None
        if vectors is not None:
            hashes, vectors = self._finite(hashes, vectors)
        with self.lock:
            if vectors is not None:
                self.sink(hashes, vectors)
            self.result.hashes.update(claims)
            self.done += len(batch)
            if not self.stopped.is_set():
                self.progress(self.done, self.total)

    def _read(self, pending: Future[bytes | BackendError]) -> bytes | BackendError | None:
        """What was read; None where the run was stopped before."""
        while not pending.done():
            if self.given_up.is_set():
                return None
            wait([pending], TICK_S)
        return None if pending.cancelled() else pending.result()

    def _forward(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not self.take_turns:
            return forward_within_memory(self.encoder, pixels)
        with self.device_lock:
            return forward_within_memory(self.encoder, pixels)

    def _finite(self, hashes: list[str], vectors: NDArray[np.float32]) -> tuple[list[str], NDArray[np.float32]]:
        """Without the images of which the encoder makes no numbers: they are as good as damaged. ConfigError where it makes none of any."""
        good: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        if good.all():
            return hashes, vectors
        name = self.encoder.name
        if len(good) > 1 and not good.any():
            raise ConfigError(
                f"The encoder {name} gives NaN or infinity for every image: its weights are damaged, or overflow. Provide "
                "them anew, or choose another encoder (ML_BACKEND_ENCODER)."
            )
        for at in np.flatnonzero(~good):
            self.damaged[hashes[at]] = ImageError(
                f"The encoder {name} gives NaN or infinity for this image: replace the image, or choose another encoder."
            )
        return [hashes[at] for at in np.flatnonzero(good)], vectors[good]

    def _claim(self, key: str) -> bool:
        """Whether the image of hash `key` is for the caller to encode: not stored, and nobody else's."""
        with self.lock:
            if key in self.claimed:
                return False
            self.claimed.add(key)
        return not self.known(key)

    def finish(self) -> Encoded[T]:
        """Every item behind a damaged file has failed, not only the first one seen."""
        for item, key in list(self.result.hashes.items()):
            if key in self.damaged:
                del self.result.hashes[item]
                self.result.failed[item] = self.damaged[key]
        return self.result


def _read(read: Callable[[T], bytes], item: T) -> bytes | BackendError:
    try:
        return read(item)
    except BackendError as error:
        return error


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch


def _is_out_of_memory(error: BaseException) -> bool:
    """The CPU allocator raises a plain RuntimeError, known by its text alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in ("out of memory", "can't allocate memory", "not enough memory"))


def _one_thread(in_turn: bool) -> None:
    if not in_turn:
        torch.set_num_threads(1)  # of this lane alone: OpenMP's number of threads belongs to the calling thread
