"""HEIC and DICOM: decoded where their extras are, told where not, and refused where they ask for much."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend.encoders.networks import Preprocessing
from ml_backend.errors import ImageError
from ml_backend.images import further_formats, recipe
from ml_backend.images.decoding import decode
from tests.images.awkward import encoded, turned
from tests.images.test_recipe import drawn

pillow_heif = pytest.importorskip("pillow_heif")
pydicom = pytest.importorskip("pydicom")

RLE, JPEG, DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1.99"


def heic(picture: Image.Image, **options: Any) -> bytes:
    further_formats.know_heif()
    return encoded(picture, "HEIF", **options)


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The same HEIC, whose head says that it is of another size."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def dicom(
    pixels: NDArray[Any], packing: str = "1.2.840.10008.1.2.1", frames: list[bytes] | None = None, **tags: Any
) -> bytes:
    """A file of these pixels (rows, columns), (rows, columns, 3) or (frames, rows, columns); `frames` are packed already."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = packing if packing != RLE else "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.ndim == 3 and not colour:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pydicom.encaps.encapsulate(frames) if frames else pixels.tobytes()
    if packing == RLE:
        dataset.compress(RLE)
    for name, value in tags.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ramp(dtype: str = "uint16") -> NDArray[Any]:
    return np.arange(-1000, 3000, 10).astype(dtype).reshape(20, 20)


def test_a_photo_of_a_phone_is_decoded_upright() -> None:
    photo = drawn(80, 60)
    found = decode(heic(photo, quality=95))
    assert np.abs(np.asarray(found, float) - np.asarray(photo, float)).mean() < 4
    assert decode(heic(photo, exif=turned(6).tobytes()), 16).size == (60, 80)
    seen = Preprocessing(resize=40, crop=32)
    lies = heic(photo, exif=turned(6).tobytes())
    assert np.array_equal(recipe.prepare(io.BytesIO(lies), seen.stated()), seen.prepare(decode(lies, 40)))


def test_a_heic_that_claims_too_much_or_too_little_is_refused_and_a_cut_one_told() -> None:
    whole = heic(drawn(900, 900))
    with pytest.raises(ImageError, match="pixels, more than the limit"):
        decode(claiming(whole, 40_000, 30_000))
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(claiming(whole, 64, 64))
    for length in (20, 100, len(whole) // 2, len(whole) - 50):
        with pytest.raises(ImageError, match=r"truncated or damaged|not an image"):
            decode(whole[:length])


@pytest.mark.parametrize(("package", "file"), [("pillow_heif", "heic"), ("pydicom", "dicom")])
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, package: str, file: str) -> None:
    data = heic(drawn(40, 30)) if file == "heic" else dicom(ramp())
    further_formats.know_heif.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImageError, match=f"install the extra `{file}`"):
        decode(data)


def test_a_medical_image_is_seen_through_its_window() -> None:
    """Levels are those after rescaling; what lies outside the window is black or white."""
    data = dicom(ramp("int16"), RescaleSlope=2, RescaleIntercept=-100, WindowCenter=[500, 40], WindowWidth=[1000, 80])
    levels = ramp("int64") * 2 - 100
    found = np.asarray(decode(data), int)
    assert (found[levels < 0] == 0).all()
    assert (found[levels > 1000] == 255).all()
    assert np.abs(found[levels == 500] - 128).max() <= 2


def test_without_a_window_it_is_stretched_whatever_is_hot_or_padding() -> None:
    pixels = np.tile(ramp("int16"), (4, 4))
    usual = np.asarray(decode(dicom(pixels)), int)
    pixels[0, 0] = 32_000
    pixels[-8:] = -30_000
    found = np.asarray(decode(dicom(pixels, PixelPaddingValue=-30_000)), int)
    assert np.abs(found[1:-8] - usual[1:-8]).max() <= 2
    assert usual.min() == 0
    assert usual.max() == 255


def test_black_and_white_are_exchanged_where_the_file_says_so() -> None:
    usual, other = (decode(dicom(ramp(), PhotometricInterpretation=f"MONOCHROME{kind}")) for kind in (2, 1))
    assert (np.asarray(usual, int) + np.asarray(other, int) == 255).all()


def test_of_several_frames_the_first_is_the_picture_and_colours_stay() -> None:
    frames = np.stack([ramp(), ramp()[::-1], ramp() * 0])
    assert (np.asarray(decode(dicom(frames))) == np.asarray(decode(dicom(ramp())))).all()
    colours = np.asarray(drawn(30, 20))
    assert (np.asarray(decode(dicom(colours))) == colours).all()


def test_packed_pictures_are_unpacked() -> None:
    assert (np.asarray(decode(dicom(ramp(), RLE))) == np.asarray(decode(dicom(ramp())))).all()
    grey = drawn(64, 48).convert("L")
    photo = dicom(np.asarray(grey), JPEG, [encoded(grey, "JPEG", quality=95)], WindowCenter=128, WindowWidth=256)
    assert np.abs(np.asarray(decode(photo), int) - np.asarray(grey, int)).mean() < 3


def test_a_medical_image_that_asks_for_much_is_refused_before_it_is_unpacked() -> None:
    small = dicom(ramp())
    runs = b"".join([struct.pack("<16L", 2, 64, 100_064, *[0] * 13), b"\x81\0" * 100_000])
    grey = Image.new("L", (4000, 4000))
    hostile = {
        "40000 x 40000 pixels, more than the limit": dicom(ramp(), Rows=40_000, Columns=40_000),
        "larger than the file says": dicom(ramp(), "1.2.840.10008.1.2.4.50", [encoded(grey, "JPEG")]),
        "picture is larger": _packed(runs),
        r"not known here \(deflated\)": dicom(ramp(), DEFLATED),
        "truncated or damaged": small[:-100],
        "in more than 50,000 pieces": small[:-700] + b"\xfe\xff\x00\xe0" * 50_001,
    }
    tracemalloc.start()
    try:
        for told, data in hostile.items():
            with pytest.raises(ImageError, match=told):
                decode(data)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def _packed(runs: bytes) -> bytes:
    """A file of 20 x 20 pixels whose frame in RLE is this."""
    file = pydicom.dcmread(io.BytesIO(dicom(ramp(), RLE)))
    file.PixelData = pydicom.encaps.encapsulate([runs])
    written = io.BytesIO()
    file.save_as(written)
    return written.getvalue()


@pytest.mark.filterwarnings("ignore:A value of")
def test_a_number_of_frames_that_is_not_true_does_no_harm() -> None:
    assert decode(dicom(ramp(), NumberOfFrames=0)).size == (20, 20)
    for frames in (10**9, -1):
        with pytest.raises(ImageError, match="replace the file"):
            decode(dicom(ramp(), NumberOfFrames=frames))
