"""Decoding: whatever the file, upright pixels or a sentence that names the fix."""

import io
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import ImageError
from ml_backend.images import decoding as images
from ml_backend.images.decoding import MAX_PIXELS, PixelBudget, content_hash, decode


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


def test_whatever_a_decoder_raises_concerns_its_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some raise what is neither an OSError nor a ValueError; it must not end a turn, or an import."""

    def broken(_: Image.Image) -> None:
        raise RuntimeError("frame 0")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    with pytest.raises(ImageError, match=r"damaged \(frame 0\)"):
        decode(encoded(gradient(40, 40)))


@pytest.mark.parametrize("kind", ["DDS", "PPM", "TGA", "ICO", "PCX", "EPS", "PDF", "JPEG2000", "SGI", "ICNS", "AVIF"])
def test_only_the_formats_that_are_named_reach_a_decoder(kind: str) -> None:
    """Pillow knows some forty; EPS starts another program."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    with pytest.raises(ImageError, match="JPEG, PNG, WebP, GIF, BMP or TIFF"):
        decode(encoded(gradient(32, 32), kind))


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_that_is_named_is_decoded(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    assert decode(encoded(gradient(), kind)).size == (400, 300)


def bomb(side: int) -> bytes:
    """A PNG of one bit a pixel, some of it half transparent: a kilobyte for eight million pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    head = chunk(b"IHDR", side.to_bytes(4) * 2 + bytes([1, 3, 0, 0, 0])) + chunk(b"PLTE", bytes(3) + b"\xff\xff\xff")
    rows = zlib.compress(bytes(1 + (side + 7) // 8) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"tRNS", b"\x80\xff") + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PEAK = """
import resource, sys, threading
from ml_backend.images.decoding import decode
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lanes = [threading.Thread(target=decode, args=(data, 32)) for _ in range(2)]
[lane.start() for lane in lanes]
[lane.join() for lane in lanes]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_decompression_bomb_costs_tens_of_megabytes_however_many_lanes_there_are(tmp_path: Path) -> None:
    """Converted whole, each of these two takes 190 MB."""
    (tmp_path / "bomb.png").write_bytes(bomb(4000))
    assert (tmp_path / "bomb.png").stat().st_size < 5_000
    found = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "bomb.png"], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 120


def test_all_threads_together_decode_no_more_pixels_than_the_budget() -> None:
    budget, held, most = PixelBudget(100), [0], [0]
    lock = threading.Lock()

    def lane(pixels: int) -> None:
        for _ in range(20):
            with budget.hold(pixels):
                with lock:
                    held[0] += min(pixels, 100)
                    most[0] = max(most[0], held[0])
                time.sleep(0)
                with lock:
                    held[0] -= min(pixels, 100)

    lanes = [threading.Thread(target=lane, args=(pixels,)) for pixels in (10, 30, 60, 90, 500)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(30)
    assert not any(thread.is_alive() for thread in lanes)
    assert 0 < most[0] <= 100


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "RGB", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("factor", [1, 3])
def test_a_picture_converted_in_bands_is_the_same_as_converted_whole(
    monkeypatch: pytest.MonkeyPatch, mode: str, factor: int
) -> None:
    picture = gradient(101, 67, "L" if mode == "I;16" else "RGB")
    picture = Image.fromarray(np.asarray(picture, np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
    if mode == "P":
        picture.info["transparency"] = 7
    whole = images._flatten(picture, (factor, factor)).reduce(factor)
    monkeypatch.setattr(images, "BAND", 700)
    banded = images._flatten(picture, (factor, factor))
    assert banded.size == whole.size == (-(-101 // factor), -(-67 // factor))
    assert np.array_equal(np.asarray(banded), np.asarray(whole))


def test_a_large_picture_keeps_its_orientation_and_four_times_the_size_that_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "BAND", 10_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(gradient(), "PNG", exif=exif), 16).size == (75, 100)
