"""Small pictures of tasks' images, made once each while they are remembered."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

from ml_backend.learning.images import decode

SIDE = 240
"""Pixels of the longer side: a tile of 120, on screens that show two for one."""
QUALITY = 82
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
    """A JPEG of at most SIDE pixels a side, of an image file; smaller images stay as large as they are."""
    image = decode(data, SIDE)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    made = io.BytesIO()
    image.save(made, "JPEG", quality=QUALITY, optimize=True)
    return made.getvalue()


def etag(digest: str) -> str:
    """Names what the thumbnail of an image with this content hash looks like."""
    return f'"{digest[:32]}-{SIDE}"'
