"""Pictures of every awkward kind, as files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

Draw = Callable[[int, int], Image.Image]
"""A picture in RGB of this width and height."""
SIZE = (90, 60)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def deep(picture: Image.Image, dtype: str = "uint16", hot: int = 0) -> Image.Image:
    """Its grey levels from 1000 to 3550, and so many pixels as bright as can be."""
    levels = np.asarray(picture.convert("L"), np.float64) * 10 + 1000
    levels.ravel()[:hot] = 65_535
    return Image.fromarray(levels.astype(dtype))


def clear(picture: Image.Image) -> Image.Image:
    """Its left half transparent, in between by and by."""
    alpha = np.linspace(-200, 400, picture.width).clip(0, 255).astype(np.uint8)
    picture = picture.convert("RGBA")
    picture.putalpha(Image.fromarray(np.tile(alpha, (picture.height, 1))))
    return picture


def keyed(picture: Image.Image) -> bytes:
    """A PNG in RGB with a colour, that of its first pixel, that stands for transparent."""
    return encoded(picture, transparency=picture.getpixel((0, 0)))


def turned_by_xmp(picture: Image.Image) -> bytes:
    """A JPEG whose XMP alone says that it lies: browsers do not look there."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'
    whole = encoded(picture, "JPEG")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + whole[2:]


def deep_and_keyed(picture: Image.Image) -> bytes:
    """A 16-bit PNG with a level that stands for transparent."""
    whole = encoded(deep(picture))
    body = b"tRNS" + struct.pack(">H", int(np.asarray(deep(picture))[0, 0]))
    return whole[:33] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + whole[33:]


def awkward(draw: Draw, size: tuple[int, int] = SIZE) -> Iterator[tuple[str, bytes]]:
    """Name and file of each; the same few pictures, so that a class can be told."""
    one, two = draw(*size), draw(*size[::-1])
    for value in range(1, 9):
        yield f"orientation {value}", encoded(one, "JPEG", quality=95, exif=turned(value))
    yield "a PNG that lies", encoded(one, exif=turned(6))
    yield "a WebP that lies", encoded(one, "WEBP", lossless=True, exif=turned(5))
    yield "two photos in one", encoded(one, "MPO", save_all=True, append_images=[two], exif=turned(7))
    yield "a TIFF that lies", encoded(one, "TIFF", exif=turned(8))
    yield "XMP that says it lies", turned_by_xmp(one)
    yield "a large photo", encoded(one.resize((2400, 1600)), "JPEG", quality=85, exif=turned(3))
    yield "a large PNG", encoded(one.resize((3000, 2000)), compress_level=1)
    yield "progressive", encoded(two.resize((900, 1350)), "JPEG", progressive=True)
    yield "alpha", encoded(clear(one))
    yield "a transparent colour", keyed(two)
    yield "alpha in WebP", encoded(clear(two), "WEBP", lossless=True)
    yield "palette", encoded(one.quantize(16))
    yield "palette with transparency", encoded(one.quantize(16), transparency=3)
    yield "GIF with transparency", encoded(two.quantize(16), "GIF", transparency=3)
    yield "CMYK JPEG", encoded(one.convert("CMYK"), "JPEG", quality=95)
    yield "CMYK TIFF", encoded(two.convert("CMYK"), "TIFF")
    yield "16 bits", encoded(deep(one))
    yield "16 bits with a hot pixel", encoded(deep(one, hot=1))
    yield "16 bits with a transparent level", deep_and_keyed(two)
    yield "32 bits", encoded(deep(one, "int32"), "TIFF")
    yield "floats", encoded(deep(two, "float32", hot=2), "TIFF")
    yield "16 bits, the other way round", encoded(Image.fromarray(np.asarray(deep(one)).astype(">u2")), "TIFF")
    yield "grey", encoded(one.convert("L"), "JPEG", quality=95)
    yield "grey with alpha", encoded(clear(one).convert("LA"))
    yield "black and white", encoded(one.convert("1"))
    yield from _moving([one, two.resize(size)])


def _moving(frames: Sequence[Image.Image]) -> Iterator[tuple[str, bytes]]:
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        yield f"several in a {kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
