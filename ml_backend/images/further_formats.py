"""Formats that browsers do not show: photos of phones (HEIC) and medical images (DICOM), where their extras are installed."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ml_backend.errors import ImageError
from ml_backend.images import recipe
from ml_backend.images.containers import bare, is_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIF = "HEIF"
"""Pillow's name of HEIC, once pillow-heif has taught it."""
BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
"""What a HEIF file says it is. An AVIF says something else, and what pillow-heif brings decodes none."""
AS_IT_IS, RLE = "as it is", "RLE"
KNOWN_PACKINGS = {
    "1.2.840.10008.1.2": AS_IT_IS,
    "1.2.840.10008.1.2.1": AS_IT_IS,
    "1.2.840.10008.1.2.2": AS_IT_IS,
    "1.2.840.10008.1.2.5": RLE,
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
"""Transfer syntaxes of DICOM that Pillow and pydicom unpack. A deflated file is none: a kilobyte of it may be a gigabyte."""
ITEMS = 50_000
"""Of sequences in a DICOM file, frames among them: each costs its reader half a kilobyte, and is in eight bytes."""
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
DEFLATED = b"1.2.840.10008.1.2.1.99"
MOST_BYTES = 3 * 2
"""Of a pixel of a picture in RLE: three colours of two bytes."""
NEEDED = (
    "TransferSyntaxUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
)  # fmt: skip
"""What a picture is made of. Who it is of is not even read."""


def is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


def shown_by_browsers(data: bytes) -> bool:
    """Whether a file that can be decoded is one that browsers show as well."""
    return not (is_tiff(data) or is_heif(data) or is_dicom(data))


@cache
def know_heif() -> None:
    """Teach Pillow HEIF. Raises ImageError where the extra is missing."""
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImageError(
            "The image is HEIC, which needs the package pillow-heif: install the extra `heic`, or convert it to JPEG."
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


@dataclass(frozen=True)
class Dicom:
    """A DICOM file whose head was read, and nothing of its pixels unpacked."""

    dataset: Any

    @classmethod
    def read(cls, data: bytes) -> Dicom:
        """Raises ImageError where the extra is missing, or where this is no picture, or packed in a way we do not unpack."""
        try:
            import pydicom  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ImageError(
                "The image is DICOM, which needs the package pydicom: install the extra `dicom`, or convert it to PNG."
            ) from error
        if sum(map(data.count, _ITEMS)) > ITEMS:
            raise ImageError(f"The DICOM file is in more than {ITEMS:,} pieces: save its first frame alone.")
        deflated = DEFLATED in data  # asked before anything is read, as reading inflates it
        dataset = None if deflated else pydicom.dcmread(io.BytesIO(data), specific_tags=list(NEEDED))
        packing = "deflated" if dataset is None else str(dataset.file_meta.TransferSyntaxUID)
        if packing not in KNOWN_PACKINGS:
            raise ImageError(
                f"The DICOM file is packed in a way that is not known here ({packing}): unpack it, for example by "
                "`gdcmconv --raw`."
            )
        if dataset is None or "PixelData" not in dataset:
            raise ImageError("The DICOM file has no picture: leave it out.")
        return cls(dataset)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as it says."""
        return int(self.dataset.Columns), int(self.dataset.Rows)

    def picture(self) -> Image.Image:
        """Its first frame in RGB, or in L: as its window says, else stretched as other deep grey levels are."""
        from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415 - an extra
        from pydicom.pixels.utils import pixel_array  # noqa: PLC0415

        dataset, kind = self.dataset, str(self.dataset.PhotometricInterpretation)
        self._refuse_other_frame()
        values = pixel_array(dataset, index=0)
        deep = int(dataset.BitsStored) - 8
        if kind == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
            deep = 8 * values.dtype.itemsize - 8
        if values.ndim == 3:
            return Image.fromarray((values >> max(0, deep)).astype(np.uint8))
        picture = self._grey(values)
        return picture.point(lambda level: 255 - level) if kind == "MONOCHROME1" else picture

    def _grey(self, values: NDArray[Any]) -> Image.Image:
        """Converted a band of rows at a time, as levels take eight bytes each on the way."""
        height, width = values.shape
        ends = self._window() or self._ends(values)
        whole, rows = Image.new("L", (width, height)), max(1, recipe.LARGE // width)
        for top in range(0, height, rows):
            band = Image.fromarray(self._levels(values[top : top + rows]))
            whole.paste(recipe.flattened(band, ends), (0, top))
        return whole

    def _levels(self, values: NDArray[Any]) -> NDArray[np.float32]:
        from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415 - an extra

        return np.asarray(apply_modality_lut(values, self.dataset), np.float32)

    def _refuse_other_frame(self) -> None:
        """Raise ImageError where what is packed would come out larger than the file says."""
        from pydicom.encaps import get_frame  # noqa: PLC0415 - an extra

        packing = KNOWN_PACKINGS[str(self.dataset.file_meta.TransferSyntaxUID)]
        if packing == AS_IT_IS:
            return
        frame = get_frame(self.dataset.PixelData, 0, number_of_frames=int(self.dataset.get("NumberOfFrames") or 1))
        if packing == RLE:
            fits = _unpacked(frame) <= 2 * math.prod(self.size) * MOST_BYTES
        else:
            with Image.open(io.BytesIO(bare(frame).data), formats=("JPEG", "JPEG2000")) as image:
                fits = image.size == self.size
        if not fits:
            raise ImageError("The DICOM file's picture is larger than the file says: replace it with an intact one.")

    def _window(self) -> tuple[float, float] | None:
        """The levels that become black and white by the first window there is."""
        centers, widths = (self.dataset.get(name) for name in ("WindowCenter", "WindowWidth"))
        if centers is None or widths is None or centers == "" or widths == "":
            return None
        center, width = (
            float(v[0] if hasattr(v, "__len__") and not isinstance(v, str) else v) for v in (centers, widths)
        )
        if str(self.dataset.get("VOILUTFunction", "LINEAR")) == "LINEAR":
            center, width = center - 0.5, width - 1
        return center - width / 2, max(center + width / 2, center - width / 2 + 1e-6)  # a width of 1 is a threshold

    def _ends(self, values: NDArray[Any]) -> tuple[float, float]:
        """Of all levels but that of the padding around the picture, where it says which that is."""
        few = values[tuple(slice(None, None, -(-side // recipe.SAMPLED)) for side in values.shape)]
        padding = self.dataset.get("PixelPaddingValue")
        inside = (
            few != padding if padding is not None and (few != padding).any() else np.full(few.shape, fill_value=True)
        )
        return recipe.ends(self._levels(few)[inside])


def _unpacked(frame: bytes) -> int:
    """How many bytes come out of a frame in RLE, or a little more."""
    count = int.from_bytes(frame[:4], "little")
    starts = [int.from_bytes(frame[4 * i : 4 * i + 4], "little") for i in range(1, min(count, 15) + 1)]
    total = 0
    for start, end in pairwise([*starts, len(frame)]):
        at = start
        while at < end - 1:
            run = frame[at]
            total += run + 1 if run < 128 else (257 - run) % 129
            at += run + 2 if run < 128 else 2 if run > 128 else 1
    return total
