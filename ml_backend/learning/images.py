"""Bytes of an image file -> upright pixels, at no more than the size that is needed."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from ml_backend.errors import ImageError
from ml_backend.learning.containers import Bare, bare, orientation

MAX_PIXELS = 80_000_000
"""Images of more pixels are refused before they are decoded, unless `limit_pixels` says otherwise."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""No other decoder sees a file, whatever it says it is. AVIF is none of them: its stream may be larger than its head says."""
LONGEST = 65_535
"""Pixels of a side, as in a JPEG: each row of a picture costs memory, however short it is."""
BAND = 4_000_000
"""Pixels converted at a time, of images that have more; these are made smaller on the way, where less is needed."""
FINENESS = 4
"""Such an image keeps so many times the size that is needed: the encoder scales it the rest of the way."""

WASTE = 4
"""A TIFF's tiles may have so many times the limit of pixels in all; each is unpacked, however much of it is in the picture."""
MOST = 4 * BAND
"""Pixels that are left of an image that is longer than it need be; beyond, its longer side is squeezed."""

_COPIES = {"WEBP": 3}
"""Decoders that hold a picture several times over: 15 bytes a pixel, where others need 4 to 8."""
_BLOCK = 32
"""A JPEG is held in whole blocks, of at most so many pixels a side."""
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")
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
    more than BAND pixels are made smaller, to no less than FINENESS times the size where that leaves no more than MOST
    pixels. None: full resolution.
    Raises ImageError for anything that is not a whole image, in one of FORMATS, within the limit of pixels.
    """
    if not data:
        raise ImageError("The image file is empty: upload or export it again.")
    try:
        file = bare(data)
        image = Image.open(io.BytesIO(file.data), formats=FORMATS)
        _refuse_oversize(image, file)
        whole = image.size
        if size is not None and image.format == "JPEG":
            image.draft(None, (size, size))
        with _budget.hold(_cost(image, whole, file)):
            image.load()
            turn = _TURNS.get(file.orientation or orientation(image.info.get("exif", b"")))
            small = _flatten(image, _factors(image.size, size))
            return small.transpose(turn) if turn is not None else small
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            "The file is not an image in a supported format: convert it to JPEG, PNG, WebP, GIF, BMP or TIFF."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_oversize_message("too many")) from error
    except Exception as error:  # whatever a decoder makes of damaged bytes concerns this image alone
        raise ImageError(
            f"The image is truncated or damaged ({error}): replace the file with an intact one."
        ) from error


def _cost(image: Image.Image, whole: tuple[int, int], file: Bare) -> int:
    """Pixels, of four bytes, that are in memory while an image is decoded.

    whole: its size in the file. Of a JPEG `at_once`, each layer is held at that size, in two bytes.
    """
    cost = math.prod(image.size) * _COPIES.get(image.format or "", 1) + file.block
    if file.at_once:
        layers = getattr(image, "layers", 4)
        cost += math.prod(-(-side // _BLOCK) * _BLOCK for side in whole) * layers // 2
    return cost


def _refuse_oversize(image: Image.Image, file: Bare) -> None:
    width, height = image.size
    if width * height > _budget.pixels:
        raise ImageError(_oversize_message(f"{width} x {height}"))
    if max(width, height) > LONGEST:
        raise ImageError(
            f"The image is {width} x {height} pixels; a side may have {LONGEST:,}: scale it down before importing it."
        )
    if file.block > _budget.pixels:
        raise ImageError(f"The TIFF has tiles of {file.block:,} pixels, more than the limit: save it in smaller tiles.")
    if file.unpacked > WASTE * _budget.pixels:
        raise ImageError("The tiles of the TIFF stand out of its picture by far: save it in smaller tiles.")


def _oversize_message(pixels: str) -> str:
    return (
        f"The image has {pixels} pixels, more than the limit of {_budget.pixels:,}: scale it down before importing it, or "
        "raise ML_BACKEND_IMAGE_MEGAPIXELS."
    )


def _factors(whole: tuple[int, int], needed: int | None) -> tuple[int, int]:
    """By how much width and height are reduced: evenly, unless the picture is so long that much would be left of it."""
    if needed is None:
        return 1, 1
    (shorter, longer), pixels = sorted(whole), math.prod(whole)
    even = max(1, shorter // (needed * FINENESS))
    if pixels > even * even * MOST:
        even = max(1, shorter // needed)
    more = max(even, min(even * (longer // shorter), -(-pixels // (even * MOST))))
    return (more, even) if whole[0] > whole[1] else (even, more)


def _flatten(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """Return RGB or L without alpha; where it is large, smaller by `factors`, converted a band of rows at a time."""
    stretch = _grey_range(image) if image.mode.startswith("I") or image.mode == "F" else None
    width, height = image.size
    if width * height <= BAND:
        return _converted(image, stretch)
    if factors == (1, 1) and image.mode in ("RGB", "L"):
        return image
    across, down = factors[0], max(1, min(factors[1], BAND // width))
    rows = max(1, BAND // width // down) * down
    whole: Image.Image | None = None
    for top in range(0, height, rows):
        band = _converted(image.crop((0, top, width, min(top + rows, height))), stretch).reduce((across, down))
        whole = whole or Image.new(band.mode, (-(-width // across), -(-height // down)))
        whole.paste(band, (0, top // down))
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
