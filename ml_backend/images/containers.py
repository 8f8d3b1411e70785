"""What stands around the pixels of an image file, read by ourselves: a decoder believes it, and pays for it in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ml_backend.errors import ImageError

SCANS = 100
"""Of a JPEG: each goes over all of it again, and an empty one takes a hundred bytes. Programs write a dozen at most."""
SEGMENTS = 10_000
"""Of a JPEG's head; each may be of 64 KiB."""
PIECES = 200_000
"""Strips or tiles of a TIFF, chunks of a PNG, blocks of a GIF: each costs a reader time, and some hundred bytes. A strip for
each row of the largest TIFF makes 65,535, and 200 MB of a PNG as libraries write it 25,000."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_UNNEEDED = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""Every APPn but JFIF's and Adobe's, and comments."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_SCAN, _APP1 = 0xDA, 0xE1
_SEGMENT = re.compile(rb"\xff+([^\0\1\xd0-\xd8\xff])", re.DOTALL)
"""Where the next segment of a head begins, whatever stands before."""
_MARKER = re.compile(rb"\xff+([^\0\1\xd0-\xd7\xff])", re.DOTALL)
"""The end of a scan: in its bits, 0xFF is followed by 0 or a restart. A 1 begins nothing, either."""
_CONTROL = 0xF9
"""What a GIF says of its next picture: which colour is transparent."""
_EXIF = b"Exif\0\0"

_TIFFS = (b"II*\0", b"MM\0*", b"II+\0")
"""Pillow takes three more for one, each of which it or libtiff reads in another way."""
_ORIENTATION = 0x0112
_WIDTH, _LENGTH, _STRIP_OFFSETS, _ROWS, _STRIP_SIZES = 256, 257, 273, 278, 279
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_NUMBERS = {1: 1, 3: 2, 4: 4, 16: 8}
"""Bytes of each kind of whole number in a TIFF: BYTE, SHORT, LONG, LONG8."""


@dataclass(frozen=True)
class Bare:
    """A file without what does not matter to its pixels, so that no decoder unpacks it.

    orientation: as its EXIF has it, 1 is upright; None where that is not known from here.
    at_once: of a JPEG, that all of it is held before the first row comes out, however small it is decoded.
    block: pixels of a TIFF that are unpacked in one piece, which may be larger than the picture; unpacked: of all pieces.
    """

    data: bytes
    orientation: int | None = None
    at_once: bool = False
    block: int = 0
    unpacked: int = 0


def bare(data: bytes) -> Bare:
    """Look at a file as its first bytes ask for. Raises ImageError for what no honest program writes."""
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data)
    if data.startswith(_PNG):
        return _bare_png(data)
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) > 13:
        return _bare_gif(data)
    if is_tiff(data):
        return _checked_tiff(data)
    return Bare(data)


def is_tiff(data: bytes) -> bool:
    """Whether Pillow takes it for one."""
    return data[:2] in (b"II", b"MM") and 42 <= max(data[2:4], default=0) <= 43 and 0 in data[2:4]


def orientation(exif: bytes) -> int:
    """How a picture with this EXIF lies, 1 to 8; 1 where it does not say."""
    for tag, value, _ in _entries(exif.removeprefix(_EXIF)):
        if tag == _ORIENTATION and value is not None:
            return value
    return 1


def _bare_jpeg(data: bytes) -> Bare:
    """Put together anew, one segment after the other, so that no decoder finds others in it than we did."""
    kept, at, turn, frames = bytearray(b"\xff\xd8"), 2, 1, list[tuple[int, bytes]]()
    for _ in range(SEGMENTS):
        if not (found := _SEGMENT.search(data, at)) or found[1] == b"\xd9":
            return Bare(bytes(kept))
        start, marker = found.start(1) - 1, found[1][0]
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
        segment = data[start:at]
        if marker == _SCAN:
            if len(frames) == 1 and frames[0] in [(kind, segment[4:5]) for kind in _SEQUENTIAL]:
                return Bare(_joined(kept, data, start), turn)
            _require_few_scans(data, start)
            return Bare(_joined(kept, data, start), turn, at_once=True)
        if marker in _FRAMES:
            frames.append((marker, segment[9:10]))
        if marker == _APP1 and segment[4:].startswith(_EXIF) and turn == 1:
            turn = orientation(segment[4:])
        if marker not in _UNNEEDED:
            kept += segment
    raise _in_pieces("JPEG", SEGMENTS)


def _joined(head: bytes | bytearray, data: bytes, start: int, end: int | None = None) -> bytes:
    """A head and a part of the data, which may be large: copied once."""
    return b"".join((head, memoryview(data)[start:end]))


def _require_few_scans(data: bytes, at: int) -> None:
    """Raise ImageError for too many scans from `at` on, up to the end of the picture."""
    scans = 0
    for _ in range(SEGMENTS):
        if not (found := _MARKER.search(data, at)) or found[1] == b"\xd9":
            return
        scans += found[1][0] == _SCAN
        if scans > SCANS:
            raise ImageError(f"The JPEG has more than {SCANS} scans: save it again.")
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    raise _in_pieces("JPEG", SEGMENTS)


def _in_pieces(kind: str, most: int) -> ImageError:
    return ImageError(f"The {kind} is in more than {most:,} pieces: save it again.")


def _bare_png(data: bytes) -> Bare:
    """A text may unpack to a thousand times its size, an animation to as many pictures."""
    kept, at, turn, start = bytearray(), 8, 1, 0
    for _ in range(PIECES):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if kind not in _NEEDED:
            kept += data[start:at]
            start = end
        if kind == b"eXIf":
            turn = orientation(data[at + 8 : end - 4])
        at = end
        if kind == b"IEND" or at >= len(data):
            return Bare(_joined(kept, data, start, at) if start else data, turn)
    raise _in_pieces("PNG", PIECES)


def _bare_gif(data: bytes) -> Bare:
    """Up to the first picture: no comments and no applications, which a reader collects one by one."""

    def table(flags: int) -> int:
        return 3 * (2 << (flags & 7)) if flags & 0x80 else 0

    start = at = 13 + table(data[10])
    control = b""
    for _ in range(PIECES):
        if data[at : at + 1] == b",":
            return Bare(_joined(data[:start] + control, data, at), 1)
        begun, at = at, at + 1
        if data[begun : begun + 1] == b"!":
            at = _end_of_blocks(data, begun + 2)
            control = data[begun:at] if data[begun + 1] == _CONTROL else control
        if at >= len(data):
            return Bare(data[:start], 1)
    raise _in_pieces("GIF", PIECES)


def _end_of_blocks(data: bytes, at: int) -> int:
    for _ in range(PIECES):
        if at >= len(data) or not data[at]:
            return at + 1
        at += 1 + data[at]
    raise _in_pieces("GIF", PIECES)


def _checked_tiff(data: bytes) -> Bare:
    """Pillow and libtiff do not agree about a tag that is there twice, or is no number: it is refused."""
    if data[:4] not in _TIFFS:
        raise ImageError("The TIFF is damaged (its first bytes): replace the file with an intact one.")
    found = dict[int, int]()
    for tag, value, count in _entries(data):
        if tag in (_WIDTH, _LENGTH, _ROWS, _TILE_WIDTH, _TILE_LENGTH):
            if not value or count != 1 or tag in found:
                raise ImageError(f"The TIFF is damaged (tag {tag}): replace the file with an intact one.")
            found[tag] = value
        if tag in (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES) and count > PIECES:
            raise ImageError(f"The TIFF is in {count:,} pieces, more than {PIECES:,}: save it in larger ones.")
    width, length = found.get(_WIDTH, 0), found.get(_LENGTH, 0)
    strip = width * min(found.get(_ROWS, length), length)
    across, down = found.get(_TILE_WIDTH, width or 1), found.get(_TILE_LENGTH, length or 1)
    tile = across * down if _TILE_WIDTH in found or _TILE_LENGTH in found else 0
    return Bare(data, block=max(strip, tile), unpacked=-(-width // across) * -(-length // down) * tile)


def _entries(tiff: bytes) -> Iterator[tuple[int, int | None, int]]:
    """The first directory: of each entry the tag, the first number (None where it is none) and how many values it has."""
    order, big = ("little" if tiff[:1] == b"I" else "big"), 43 in tiff[2:4]

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    word, head = (8, 8) if big else (4, 2)
    at = number(8, 8) if big else number(4, 4)
    entries, at = number(at, head), at + head
    for place in range(at, min(at + entries * (4 + 2 * word), len(tiff)), 4 + 2 * word):
        tag, size, count = number(place, 2), _NUMBERS.get(number(place + 2, 2)), number(place + 4, word)
        where = place + 4 + word
        if size and size * count > word:
            where = number(where, word)
        yield tag, number(where, size) if size and count and where + size <= len(tiff) else None, count
