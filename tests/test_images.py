"""Decoding: whatever the file, upright pixels or a sentence that names the fix."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import ImageError
from ml_backend.learning.images import MAX_PIXELS, content_hash, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 400, height: int = 300, mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None, :].repeat(height, 0)
    return Image.fromarray(np.stack([ramp, ramp[:, ::-1], ramp], 2)).convert(mode)


def test_photo_is_turned_upright_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(gradient(), "JPEG", exif=exif)).size == (300, 400)


def test_large_jpeg_is_decoded_at_the_smallest_scale_that_still_holds_the_size() -> None:
    data = encoded(gradient(1600, 1200), "JPEG")
    assert decode(data, 256).size == (400, 300)
    assert decode(data, None).size == (1600, 1200)


def test_scaled_decoding_shows_the_same_picture() -> None:
    data = encoded(gradient(1600, 1200), "JPEG")
    full = np.asarray(decode(data).resize((64, 48), Image.Resampling.BOX), float)
    draft = np.asarray(decode(data, 256).resize((64, 48), Image.Resampling.BOX), float)
    assert np.abs(full - draft).max() < 6


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_every_mode_comes_out_as_rgb_or_grey(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(encoded(gradient(mode=mode), kind)).mode in ("RGB", "L")


def test_transparent_pixels_are_white() -> None:
    assert decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_contrast() -> None:
    ramp = np.linspace(1000, 3000, 100, dtype=np.uint16)[None, :].repeat(10, 0)
    pixels = np.asarray(decode(encoded(Image.fromarray(ramp))))
    assert pixels.min() == 0
    assert pixels.max() == 255


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_file_is_refused_with_the_fix(kind: str, share: float) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)), kind)
    with pytest.raises(ImageError, match=r"replace the file|not an image"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data)


def test_empty_file_is_refused() -> None:
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000)])
def test_hundred_megapixels_and_bombs_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    with pytest.raises(ImageError, match="scale it down"):
        decode(encoded(Image.new("1", size)))


def test_identity_of_an_image_is_the_sha256_of_its_bytes() -> None:
    assert content_hash(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("kind", ["DDS", "AVIF"])
def test_whatever_a_decoder_raises_concerns_its_image_alone(kind: str) -> None:
    """These two raise what is neither an OSError nor a ValueError; it must not end a turn, or an import."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    whole = encoded(gradient(40, 40), kind)
    damaged = whole[:80] + bytes(4) + whole[84:] if kind == "DDS" else whole.replace(b"av01", b"av99")
    with pytest.raises(ImageError, match="damaged"):
        decode(damaged)
