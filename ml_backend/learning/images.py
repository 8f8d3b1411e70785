"""Bytes of an image file -> upright pixels, at no more than the size that is needed."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from ml_backend.errors import ImageError

MAX_PIXELS = 80_000_000
"""Images of more pixels are refused before they are decoded, unless `limit_pixels` says otherwise."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""No other decoder sees a file, whatever it says it is."""
BAND = 4_000_000
"""Pixels converted at a time, of images that have more; these are made smaller on the way, where less is needed."""
FINENESS = 4
"""Such an image keeps so many times the size that is needed: the encoder scales it the rest of the way."""

_COPIES = {"WEBP": 3, "AVIF": 2}
"""Decoders that hold a picture several times over: 15 bytes a pixel and 8, where others need 4 to 8."""
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PixelBudget:
    """So many pixels are decoded at a time, by all threads together; who waits is served in turn.

    A small file may hold many pixels, and each costs up to twelve bytes while it is decoded.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._used = 0
        self._turns: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait for room for `pixels`, at most all there is, and keep it while inside."""
        turn, wanted = object(), min(pixels, self.pixels)
        with self._changed:
            self._turns.append(turn)
            self._changed.wait_for(lambda: self._turns[0] is turn and self._used + wanted <= self.pixels)
            self._turns.popleft()
            self._used += wanted
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= wanted
                self._changed.notify_all()


_budget = PixelBudget(MAX_PIXELS)


def limit_pixels(pixels: int) -> None:
    """Set the largest image of this process, which is also what all its threads decode at a time."""
    _budget.pixels = Image.MAX_IMAGE_PIXELS = pixels


def content_hash(data: bytes) -> str:
    """Hex SHA-256 of the file's bytes: the identity of an image, whatever it is called."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, size: int | None = None) -> Image.Image:
    """Decode one image file into mode RGB, or L where the file is grey, upright by its EXIF orientation.

    size: the shorter side that is needed, in pixels. A JPEG is then decoded at the smallest DCT scale (1, 1/2, 1/4,
    1/8) whose sides are not below it, which makes large photos several times faster; of other files, only those of
    more than BAND pixels are made smaller, to no less than FINENESS times the size. None: full resolution.
    Raises ImageError for anything that is not a whole image, in one of FORMATS, within the limit of pixels.
    """
    if not data:
        raise ImageError("The image file is empty: upload or export it again.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _refuse_oversize(image)
        if size is not None and image.format == "JPEG":
            image.draft(None, (size, size))
        with _budget.hold(_cost(image)):
            image.load()
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            small = _flatten(image, 1 if size is None else max(1, min(image.size) // (size * FINENESS)))
            return small.transpose(turn) if turn is not None else small
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            "The file is not an image in a supported format: convert it to JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_oversize_message("too many")) from error
    except Exception as error:  # whatever a decoder makes of damaged bytes concerns this image alone
        raise ImageError(
            f"The image is truncated or damaged ({error}): replace the file with an intact one."
        ) from error


def _cost(image: Image.Image) -> int:
    """Pixels that are in memory while an image is decoded; those of a progressive JPEG however small it comes out."""
    if image.info.get("progressive") or image.info.get("progression"):
        return _budget.pixels
    return image.size[0] * image.size[1] * _COPIES.get(image.format or "", 1)


def _refuse_oversize(image: Image.Image) -> None:
    width, height = image.size
    if width * height > _budget.pixels:
        raise ImageError(_oversize_message(f"{width} x {height}"))


def _oversize_message(pixels: str) -> str:
    return (
        f"The image has {pixels} pixels, more than the limit of {_budget.pixels:,}: scale it down before importing it, or "
        "raise ML_BACKEND_IMAGE_MEGAPIXELS."
    )


def _flatten(image: Image.Image, factor: int) -> Image.Image:
    """Return RGB or L without alpha; where it is large, `factor` times smaller, converted a band of rows at a time."""
    stretch = _grey_range(image) if image.mode.startswith("I") or image.mode == "F" else None
    width, height = image.size
    if width * height <= BAND:
        return _converted(image, stretch)
    if factor == 1 and image.mode in ("RGB", "L"):
        return image
    factor = max(1, min(factor, BAND // width))
    rows = max(1, BAND // width // factor) * factor
    whole: Image.Image | None = None
    for top in range(0, height, rows):
        band = _converted(image.crop((0, top, width, min(top + rows, height))), stretch).reduce(factor)
        whole = whole or Image.new(band.mode, (-(-width // factor), -(-height // factor)))
        whole.paste(band, (0, top // factor))
    return whole or image


def _converted(image: Image.Image, stretch: tuple[float, float] | None) -> Image.Image:
    """The same picture in RGB or L; transparent pixels become white, as a browser shows them."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    if stretch is not None:
        return _stretched(image, *stretch)
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


def _grey_range(image: Image.Image) -> tuple[float, float]:
    low, high = image.getextrema()
    return (float(low), float(high)) if isinstance(low, int | float) and isinstance(high, int | float) else (0.0, 0.0)


def _stretched(image: Image.Image, low: float, high: float) -> Image.Image:
    """Map 16-bit, 32-bit and float grey levels to 0..255 by the image's own range; Pillow alone would clip them."""
    if not high - low > 0:
        return Image.new("L", image.size)
    scale = 255.0 / (high - low)
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")
