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
from ml_backend.images import recipe
from ml_backend.images.containers import Bare, bare, orientation
from ml_backend.images.further_formats import HEIF, Dicom, is_dicom, is_heif, know_heif, shown_by_browsers

MAX_PIXELS = 80_000_000
"""Images of more pixels are refused before they are decoded, unless `limit_pixels` says otherwise."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""No other decoder sees a file, whatever it says it is. AVIF is none of them: its stream may be larger than its head says."""
LONGEST = 65_535
"""Pixels of a side, as in a JPEG: each row of a picture costs memory, however short it is."""
BAND = recipe.LARGE
"""Pixels converted at a time, of images that have more; these are made smaller on the way, where less is needed."""
WASTE = 4
"""A TIFF's tiles may have so many times the limit of pixels in all; each is unpacked, however much of it is in the picture."""
DICOM_COPIES = 6
_COPIES = {"WEBP": 3, HEIF: 3}
"""Decoders that hold a picture several times over: 15 bytes a pixel, where others need 4 to 8."""
_BLOCK = 32
"""A JPEG is held in whole blocks, of at most so many pixels a side."""


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
    more than BAND pixels are made smaller, as `recipe.factors` says. None: full resolution.
    HEIC and DICOM are decoded where their extras are installed.
    Raises ImageError for anything that is not a whole image, in one of FORMATS, within the limit of pixels.
    """
    if not data:
        raise ImageError("The image file is empty: upload or export it again.")
    try:
        if is_dicom(data):
            return _dicom(data, size)
        if is_heif(data):
            know_heif()
        file = bare(data)
        image = Image.open(io.BytesIO(file.data), formats=(HEIF,) if is_heif(data) else FORMATS)
        _refuse_oversize(*image.size, file)
        whole = image.size
        if size is not None and image.format == "JPEG":
            image.draft(None, (size, size))
        with _budget.hold(_cost(image, whole, file)):
            image.load()
            turn = recipe.TURNS.get(file.orientation or orientation(image.info.get("exif") or b""))
            small = _flatten(image, recipe.factors(image.size, size))
            return small.transpose(turn) if turn is not None else small
    except ImageError:
        raise
    except recipe.NoNumberError as error:
        raise ImageError(str(error)) from None
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


def copy_suffix(data: bytes) -> str:
    """What the name of a copy that browsers show ends in; empty where they show the image itself."""
    if shown_by_browsers(data):
        return ""
    return ".jpg" if is_heif(data) else ".png"  # photos would be ten times larger as PNG


def shown_copy(data: bytes) -> bytes:
    """A copy, as `copy_suffix` says, upright and in full size, as it is seen by encoders. Raises ImageError."""
    picture, buffer = decode(data), io.BytesIO()
    if copy_suffix(data) == ".jpg":
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def _dicom(data: bytes, size: int | None) -> Image.Image:
    """Its first picture, which is held in several forms at a time: packed, unpacked, and as it is shown."""
    file = Dicom.read(data)
    _refuse_oversize(*file.size, Bare(data))
    with _budget.hold(math.prod(file.size) * DICOM_COPIES):
        picture = file.picture()
        return _flatten(picture, recipe.factors(picture.size, size))


def _cost(image: Image.Image, whole: tuple[int, int], file: Bare) -> int:
    """Pixels, of four bytes, that are in memory while an image is decoded.

    whole: its size in the file. Of a JPEG `at_once`, each layer is held at that size, in two bytes.
    """
    cost = math.prod(image.size) * _COPIES.get(image.format or "", 1) + file.block
    if file.at_once:
        layers = getattr(image, "layers", 4)
        cost += math.prod(-(-side // _BLOCK) * _BLOCK for side in whole) * layers // 2
    return cost


def _refuse_oversize(width: int, height: int, file: Bare) -> None:
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


def _flatten(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """Return RGB or L without alpha; where it is large, smaller by `factors`, converted a band of rows at a time."""
    levels = recipe.grey_levels(image) if image.mode.startswith("I") or image.mode == "F" else None
    width, height = image.size
    if width * height <= BAND:
        return recipe.flattened(image, levels)
    if factors == (1, 1) and image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    across, down = factors[0], max(1, min(factors[1], BAND // width))
    rows = max(1, BAND // width // down) * down
    whole: Image.Image | None = None
    for top in range(0, height, rows):
        band = recipe.flattened(image.crop((0, top, width, min(top + rows, height))), levels).reduce((across, down))
        whole = whole or Image.new(band.mode, (-(-width // across), -(-height // down)))
        whole.paste(band, (0, top // down))
    return whole or image
