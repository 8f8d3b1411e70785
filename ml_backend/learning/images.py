"""Bytes of an image file -> upright pixels, at no more than the size that is needed."""

from __future__ import annotations

import hashlib
import io

from PIL import Image, ImageOps, UnidentifiedImageError

from ml_backend.errors import ImageError

MAX_PIXELS = 80_000_000
"""Images of more pixels are refused before they are decoded (three bytes a pixel would be 240 MB)."""

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")


def content_hash(data: bytes) -> str:
    """Hex SHA-256 of the file's bytes: the identity of an image, whatever it is called."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, size: int | None = None) -> Image.Image:
    """Decode one image file into mode RGB, or L where the file is grey, upright by its EXIF orientation.

    size: the shorter side that is needed, in pixels. A JPEG is then decoded at the smallest DCT scale (1, 1/2, 1/4,
    1/8) whose sides are not below it, which makes large photos several times faster. None: full resolution.
    Raises ImageError for anything that is not a whole image of at most MAX_PIXELS pixels.
    """
    if not data:
        raise ImageError("The image file is empty: upload or export it again.")
    try:
        image = Image.open(io.BytesIO(data))
        _refuse_oversize(image)
        if size is not None and image.format == "JPEG":
            image.draft(None, (size, size))
        image.load()
        return _flatten(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            "The file is not an image in a supported format: convert it to JPEG, PNG, WebP, BMP or GIF."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_oversize_message("too many")) from error
    except Exception as error:  # whatever a decoder makes of damaged bytes concerns this image alone
        raise ImageError(
            f"The image is truncated or damaged ({error}): replace the file with an intact one."
        ) from error


def _refuse_oversize(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(_oversize_message(f"{width} x {height}"))


def _oversize_message(pixels: str) -> str:
    return f"The image has {pixels} pixels, more than the limit of {MAX_PIXELS:,}: scale it down before importing it."


def _flatten(image: Image.Image) -> Image.Image:
    """Return RGB or L without alpha; transparent pixels become white, as a browser shows them."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(image)
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


def _stretch(image: Image.Image) -> Image.Image:
    """Map 16-bit, 32-bit and float grey levels to 0..255 by the image's own range; Pillow alone would clip them."""
    wide = image.convert("F")
    low, high = wide.getextrema()
    if not isinstance(low, float) or not isinstance(high, float) or not (high - low) > 0:
        return Image.new("L", image.size)
    scale = 255.0 / (high - low)
    return wide.point(lambda value: value * scale - low * scale).convert("L")
