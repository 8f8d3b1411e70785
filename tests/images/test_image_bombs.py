"""Small image files that ask a decoder for much memory: each is refused, or is charged for what it takes."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import ImageError
from ml_backend.images import decoding as images
from ml_backend.images import recipe
from ml_backend.images.containers import SCANS
from ml_backend.images.decoding import PixelBudget, decode
from tests.images.test_images import encoded, gradient

SIDE = 64
TURNED = 6


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each image is charged for."""
    charges: list[int] = []

    class Counting(PixelBudget):
        @contextmanager
        def hold(self, pixels: int) -> Iterator[None]:
            charges.append(pixels)
            yield

    monkeypatch.setattr(images, "_budget", Counting(images.MAX_PIXELS))
    return charges


def tiff(*more: tuple[int, int, int, int], order: str = "<") -> bytes:
    """A grey picture of SIDE pixels in one compressed tile of 64, with these tags (tag, kind, count, value) more."""
    body = zlib.compress(bytes(SIDE * SIDE))
    tags = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(324, 4, 1, 0), (325, 4, 1, len(body)), *more]
    start = 8 + 2 + 12 * len(tags) + 4

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        head = struct.pack(f"{order}HHL", tag, kind, count)
        return head + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}L", value))

    entries = b"".join(entry(t, k, c, start if t == 324 else v) for t, k, c, v in sorted(tags, key=lambda tag: tag[0]))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}LH", 8, len(tags)) + entries + bytes(4) + body


def tiles(width: int, length: int) -> list[tuple[int, int, int, int]]:
    return [(322, 4, 1, width), (323, 4, 1, length)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_is_charged_for_its_tiles_though_the_picture_is_smaller(charged: list[int], order: str) -> None:
    assert decode(tiff(*tiles(64, 64), order=order)).size == (SIDE, SIDE)
    with pytest.raises(ImageError, match="truncated or damaged"):  # there is not as much in it
        decode(tiff(*tiles(4096, 2048), order=order))
    assert charged == [2 * 64 * 64, 64 * 64 + 4096 * 2048]
    with pytest.raises(ImageError, match="save it in smaller tiles"):
        decode(tiff(*tiles(16384, 16384), order=order))


@pytest.mark.parametrize(
    "tags",
    [
        [*tiles(64, 64), *tiles(16384, 16384)],
        [*tiles(16384, 16384), *tiles(64, 64)],
        [(322, 16, 1, 16384), (323, 4, 1, 16384)],
        [(322, 4, 2, 16384), (323, 4, 1, 16384)],
        [(322, 9, 1, 16384), (323, 4, 1, 16384)],
    ],
    ids=["twice", "twice, small last", "a number elsewhere", "two numbers", "signed"],
)
def test_a_tile_size_that_two_readers_read_in_two_ways_is_refused(charged: list[int], tags: Any) -> None:
    with pytest.raises(ImageError, match="The TIFF"):
        decode(tiff(*tags))
    assert charged == []


def test_a_tiff_is_charged_for_its_strips(charged: list[int]) -> None:
    for rows, strip in ((16, 16), (64, 64), (2**31 - 1, 64)):
        decode(encoded(gradient(64, 64), "TIFF", compression="tiff_lzw", tiffinfo={278: rows}))
        assert charged.pop() == 64 * (64 + strip)


def test_tiles_that_stand_out_of_the_picture_by_far_are_not_all_unpacked() -> None:
    """32 kB were unpacked for half a minute: 128 tiles, all but a few pixels of each below the picture."""
    within = tiff((322, 4, 1, 16), (323, 4, 1, 4096))
    beyond = tiff((322, 4, 1, 1), (323, 4, 1, 50_000_000))
    for data, told in ((within, "truncated or damaged"), (beyond, "stand out of its picture by far")):
        with pytest.raises(ImageError, match=told):
            decode(data)


def test_a_tiff_of_millions_of_pieces_is_refused() -> None:
    with pytest.raises(ImageError, match="in 50,000,000 pieces"):
        decode(tiff(*tiles(64, 64), (273, 4, 50_000_000, 8)))


def in_scans(width: int, height: int, layers: int = 3) -> bytes:
    """A baseline JPEG, all grey, that has its layers one after the other."""
    table = b"\xff\xdb" + (67).to_bytes(2) + b"\0" + b"\x01" * 64
    codes = b"".join(
        b"\xff\xc4" + (20).to_bytes(2) + bytes([kind, 1]) + bytes(15) + b"\0" for kind in (0x00, 0x10)
    )  # one code of one bit: no difference, and the end of the block
    parts = b"".join(bytes([number, 0x11, 0]) for number in range(1, layers + 1))
    frame = b"\xff\xc0" + (8 + 3 * layers).to_bytes(2) + b"\x08" + height.to_bytes(2) + width.to_bytes(2)
    blocks = -(-width // 8) * -(-height // 8)
    bits = bytes(-(-2 * blocks // 8))
    scans = b"".join(b"\xff\xda\0\x08\x01" + bytes([number, 0, 0, 63, 0]) + bits for number in range(1, layers + 1))
    return b"\xff\xd8" + table + codes + frame + bytes([layers]) + parts + scans + b"\xff\xd9"


def test_a_jpeg_in_several_scans_is_charged_for_all_of_it_however_small_it_comes_out(charged: list[int]) -> None:
    """The decoder holds two bytes for each pixel and layer, before a row comes out."""
    side, photo = 512, gradient(512, 512)
    for data, layers in (
        (in_scans(side, side), 3),
        (in_scans(side, side, layers=4), 4),
        (encoded(photo, "JPEG", progressive=True), 3),
        (encoded(photo.convert("CMYK"), "JPEG", progressive=True), 4),
        (in_scans(side, side).replace(b"\xff\xc4", b"xx\xff\xff\xc4", 1), 3),
    ):
        assert decode(data, 32).size == (64, 64)
        assert charged.pop() >= side * side * layers // 2


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    """Each goes over the whole picture again; a hundred bytes are one."""
    photo = encoded(gradient(64, 64), "JPEG", progressive=True)
    last = photo.rindex(b"\xff\xda")
    for added, hidden in ((SCANS, b""), (SCANS, b"\xff\xfe\0\x04\xff\xd9"), (SCANS, b"\xff\1\xf0\0")):
        with pytest.raises(ImageError, match="more than 100 scans"):
            decode(photo[:last] + hidden + photo[last:-2] * added + b"\xff\xd9")
    assert decode(photo + photo[last:] * SCANS).size == (64, 64), "what comes after the picture is none of it"


def test_a_usual_photo_is_charged_for_what_comes_out(charged: list[int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    for mode in ("RGB", "L", "CMYK"):
        decode(encoded(gradient(800, 512).convert(mode), "JPEG", exif=exif, comment="by me"), 32)
        assert charged.pop() == 100 * 64


def test_a_picture_that_is_all_width_is_refused() -> None:
    """Where a side is longer than any camera's, a row of one pixel, or a pixel of one row, costs as much as a hundred."""
    for size in ((70_000, 1), (1, 70_000)):
        with pytest.raises(ImageError, match="a side may have 65,535"):
            decode(encoded(Image.new("1", size)))


@pytest.mark.parametrize("size", [(8000, 3), (3, 8000), (300, 200), (2000, 40)])
def test_a_large_picture_is_reduced_whatever_its_shape(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(images, "BAND", 20_000)
    monkeypatch.setattr(recipe, "MOST", 4000)
    small = decode(encoded(gradient(*size)), 2)
    assert small.width * small.height <= 4100
    assert min(small.size) >= 2
    assert abs(np.asarray(small, float).mean() - np.asarray(gradient(*size), float).mean()) < 10


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = encoded(gradient(40, 30))
    added = b"".join(len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4) for kind, body in chunks)
    return whole[:33] + added + whole[33:]


def test_what_is_written_beside_a_picture_is_not_unpacked() -> None:
    """A letter of four bytes makes each of the others four bytes long."""
    text = zlib.compress(("\U0001f600" + "a" * 1_000_000).encode(), 9)
    bomb = with_chunks(*[(b"iTXt", b"key%d\0\1\0\0\0" % i + text) for i in range(8)], (b"iCCP", b"p\0\0" + text))
    tracemalloc.start()
    try:
        picture = decode(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert np.array_equal(np.asarray(picture), np.asarray(gradient(40, 30)))


def test_a_file_in_very_many_pieces_is_refused() -> None:
    """A reader takes half a minute for a few megabytes of them, or thirty times their size."""
    photo, frame = encoded(gradient(), "JPEG"), encoded(gradient(), "GIF")
    picture = frame.index(b",", 13 + 768)
    for data in (
        photo[:2] + b"\xff\xee\0\x0eAdobe\0\0\0\0\0\0\0" * 10_000 + photo[2:],
        with_chunks(*[(b"tRNS", bytes(6))] * 200_000),
        frame[:picture] + b"!\xf9\4\0\0\0\0\0" * 200_000 + frame[picture:],
        frame[:picture] + b"!\xff" + b"\1a" * 200_000 + b"\0" + frame[picture:],
    ):
        with pytest.raises(ImageError, match="pieces: save it again"):
            decode(data)


@pytest.mark.slow
def test_comments_are_not_collected() -> None:
    photo, frame = encoded(gradient(), "JPEG"), encoded(gradient(), "GIF")
    picture = frame.index(b",", 13 + 768)
    comments = b"!\xfe\1a\0" * 100_000
    for whole, added in (
        (frame, frame[:picture] + comments + frame[picture:]),
        (
            photo,
            photo[:2] + b"junk\xff\xff\1\xff\xd8" + (b"\xff\xe1\x10\0Exif\0\0" + bytes(0x1000 - 8)) * 1000 + photo[2:],
        ),
    ):
        tracemalloc.start()
        try:
            picture_with = decode(added)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000
        assert np.array_equal(np.asarray(picture_with), np.asarray(decode(whole)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_upright_whatever_its_format(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    exif[0x010F] = "a camera"
    assert decode(encoded(gradient(40, 30), kind, exif=exif)).size == (30, 40)


def test_several_pictures_in_one_file_are_their_first() -> None:
    frames = [gradient(40, 30), Image.new("RGB", (40, 30), "red")]
    for kind in ("PNG", "GIF", "WEBP", "TIFF", "MPO"):
        many = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        first = np.asarray(decode(many, 16).convert("RGB").resize((4, 3)), float)
        assert np.abs(first - np.asarray(frames[0].resize((4, 3)), float)).max() < 40, kind
