"""Small pictures of tasks' images, made once each while they are remembered."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

from ml_backend.images.decoding import decode

SIDE = 240
"""Pixels of the longer side: a tile of 120, on screens that show two for one."""
QUALITIES = (82, 65, 45, 25, 10)
"""Of the JPEG: the first that gives no more than LARGEST. Photographs take 7 to 12 kB at the first, pure noise 16 at the third."""
LARGEST = 20_000
"""Bytes of a thumbnail."""
KEPT_BYTES = 32 * 2**20


class Thumbnails:
    """Thumbnails by the content hash of their image, those used last in memory. Safe to share between threads."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, digest: str | None, read: Callable[[], bytes]) -> bytes:
        """A JPEG of the image with this content hash; one of None is made anew. Raises what `read` and `decode` do."""
        if digest is None:
            return thumbnail(read())
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest]
        made = thumbnail(read())
        self._keep(digest, made)
        return made

    def _keep(self, digest: str, made: bytes) -> None:
        with self._lock:
            self._size += len(made) - len(self._kept.pop(digest, b""))
            self._kept[digest] = made
            while self._size > self._kept_bytes:
                self._size -= len(self._kept.popitem(last=False)[1])


def thumbnail(data: bytes) -> bytes:
    """A JPEG of at most SIDE pixels a side and LARGEST bytes, of an image file; smaller images stay as large as they are."""
    image = decode(data, SIDE)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    found = b""
    for quality in QUALITIES:
        made = io.BytesIO()
        image.save(made, "JPEG", quality=quality, optimize=True)
        found = made.getvalue()
        if len(found) <= LARGEST:
            break
    return found


def etag(digest: str) -> str:
    """Names what the thumbnail of an image with this content hash looks like."""
    return f'"{digest[:32]}-{SIDE}"'
