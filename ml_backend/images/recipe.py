"""How a picture becomes what an exported model takes: this file goes with it, and needs only Pillow and NumPy.

`prepare("photo.jpg", meta["preprocessing"])` is uint8 (height, width, channels); the model takes a stack of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

Fit = Literal["crop", "letterbox", "squash"]
"""What of a picture is seen: the middle, all of it with a border, or all of it out of shape. See `fitted`."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of this EXIF orientation upright."""
TAILS = (0.1, 99.9)
"""Percentiles of the grey levels that become black and white: a few hot pixels do not darken all others."""
SAMPLED = 1024
"""So many rows and columns of a picture, evenly spread, are looked at for these."""
LARGE = 4_000_000
"""Pixels; a picture of more is made smaller before it is scaled."""
FINENESS = 4
"""It keeps so many times the size that is needed."""
MOST = 4 * LARGE
"""Pixels that are left of a picture that is longer than it need be; beyond, its longer side is squeezed."""


class NoNumberError(ValueError):
    """A picture in floats has some that are none."""


def prepare(file: Any, how: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image file (its path, or open for reading bytes) as `preprocessing` of meta.json says."""
    with Image.open(file) as image:
        side = how.get("size") or how["resize"]
        image.draft(None, (side, side))  # a large JPEG is decoded no larger than it need be, as the service does it
        image.load()
        picture = flattened(image)
        if image.width * image.height > LARGE:
            picture = picture.reduce(factors(image.size, side))
        return fitted(upright(picture, image.info.get("exif") or b""), how)


def factors(whole: tuple[int, int], needed: int | None) -> tuple[int, int]:
    """By how much width and height are reduced: evenly, unless the picture is so long that much would be left of it.

    needed: the shorter side that is, in pixels; None: nothing is reduced.
    """
    if needed is None:
        return 1, 1
    (shorter, longer), pixels = sorted(whole), math.prod(whole)
    even = max(1, shorter // (needed * FINENESS))
    if pixels > even * even * MOST:
        even = max(1, shorter // needed)
    more = max(even, min(even * (longer // shorter), -(-pixels // (even * MOST))))
    return (more, even) if whole[0] > whole[1] else (even, more)


def upright(image: Image.Image, data: bytes) -> Image.Image:
    """Turned by the orientation in its EXIF data alone, as browsers do. (A TIFF comes upright out of Pillow.)"""
    exif = Image.Exif()
    try:
        exif.load(data)
        turn = TURNS.get(exif.get(0x0112, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF says nothing, and fails in whichever way it is damaged
        turn = None
    return image if turn is None else image.transpose(turn)


def flattened(image: Image.Image, levels: tuple[float, float] | None = None) -> Image.Image:
    """In RGB, or L where the file is grey: transparent pixels are white, deep grey levels are stretched to 0..255.

    levels: `grey_levels` of the whole picture, where this is a part of it.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _stretched(image, *(levels or grey_levels(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def grey_levels(image: Image.Image) -> tuple[float, float]:
    """The levels of a picture in 16 bits, 32 bits or floats that become black and white."""
    width, height = image.size
    few = image.resize((min(width, SAMPLED), min(height, SAMPLED)), Image.Resampling.NEAREST)
    return ends(_numbers(few).ravel())


def ends(levels: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Of a sample of levels, those that become black and white."""
    low, high = np.percentile(levels, TAILS, method="nearest")
    if low == high and len(others := levels[levels != low]):  # nearly all of one level: the others are the picture
        least, most = np.percentile(others, TAILS, method="nearest")
        low, high = min(low, least), max(high, most)
    return float(low), float(high)


def _stretched(image: Image.Image, low: float, high: float) -> Image.Image:
    levels = _numbers(image)
    grey = np.rint(255 * np.clip((levels - low) / (high - low), 0, 1)) if high > low else np.zeros(levels.shape)
    if isinstance(clear := image.info.get("transparency"), int):
        grey[levels == clear] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _numbers(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    levels = np.asarray(image, np.float64)
    if not np.isfinite(levels).all():
        raise NoNumberError(
            "Some of the image's pixels are no number (NaN or infinite): save it with 0 in their place."
        )
    return levels


def _rounded(width: int, height: int, resize: int, crop: int, *, squash: bool) -> tuple[float, float, float, float]:
    """What of a picture is cut out where it is scaled to whole pixels first, in its own pixels: left, top, right, bottom."""
    shorter = min(width, height)
    scaled = [resize if squash or side == shorter else int(resize * side / shorter) for side in (width, height)]
    left, top = (round((side - crop) / 2) for side in scaled)
    across, down = width / scaled[0], height / scaled[1]
    return left * across, top * down, min((left + crop) * across, width), min((top + crop) * down, height)


def fitted(image: Image.Image, how: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture in RGB or L -> (side, side, channels) uint8, where side is `crop`, or `size`.

    `fit` says what of it: "crop" scales the shorter side to `resize` and cuts out the middle; "letterbox" scales the longer
    side to it, and what is missing gets the mean colour; "squash" scales both sides to it. `rounded`: the scaled picture is so many
    whole pixels wide and high, and cut out of it is what begins with a whole one, as torchvision and timm do it.
    """
    mode, fit = how.get("mode", "RGB"), how.get("fit", "squash" if "size" in how else "crop")
    crop: int = how.get("crop") or how["size"]
    resize: int = how.get("resize") or crop
    image = image if image.mode == mode else image.convert(mode)
    (width, height), size = image.size, (crop, crop)
    across, down = width * crop / resize, height * crop / resize  # of the picture, what is left in the middle
    if fit == "crop":
        across = down = min(across, down)
    elif fit == "letterbox":
        scale = resize / max(width, height)
        size = (max(1, min(crop, round(width * scale))), max(1, min(crop, round(height * scale))))
        across, down = min(width, size[0] / scale), min(height, size[1] / scale)
    elif fit != "squash":
        raise ValueError(f"There is no fit {fit!r}: use crop, letterbox or squash.")
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, left + across, top + down)
    if how.get("rounded") and fit != "letterbox":
        box = _rounded(width, height, resize, crop, squash=fit == "squash")
    picture = image.resize(
        size,
        Image.Resampling(how.get("interpolation", Image.Resampling.BILINEAR)),
        box=box,
        reducing_gap=2.0 if "size" in how else 3.0,
    )
    if size != (crop, crop):
        mean = [round(255 * level) for level in how.get("mean", (0.5, 0.5, 0.5))]
        whole = Image.new(mode, (crop, crop), tuple(mean) if mode == "RGB" else mean[0])
        whole.paste(picture, ((crop - size[0]) // 2, (crop - size[1]) // 2))
        picture = whole
    return np.atleast_3d(np.asarray(picture, np.uint8))
