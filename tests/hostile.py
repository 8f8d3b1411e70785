"""Label configs, annotation results, CSV files and images as nobody should write them; the same seed, the same ones."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import Image

from ml_backend.images.decoding import FORMATS

TAGS = (
    "View",
    "Image",
    "Choices",
    "Choice",
    "Text",
    "Header",
    "Style",
    "RectangleLabels",
    "TextArea",
    "Ünï",
)
ATTRIBUTES = (
    "name",
    "toName",
    "value",
    "choice",
    "perRegion",
    "visibleWhen",
    "whenTagName",
    "alias",
    "allowNested",
)
VALUES = (
    "image",
    "$image",
    "$a.b[0]",
    "choice",
    "single",
    "multiple",
    "true",
    "cat",
    "dog",
    "a,b",
    "",
    " ",
    "$",
    "{{x}}",
    "&lt;",
)
WEIRD = (
    "\x00",
    "\ud800",
    "\u202e",
    "\U0001f600",
    "é",
    "\n",
    "\r",
    "\t",
    '"',
    "'",
    "<",
    ">",
    "&",
    "]]>",
    "<!--",
    "%",
    "\ufeff",
    ",",
    "|",
)
PARTS = (
    '<View><Image name="image" value="$image"/><Choices name="choice" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>',
    '<?xml version="1.0" encoding="utf-16"?><View/>',
    '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>',
    "<View><![CDATA[<Image]]></View>",
)  # fmt: skip


def label_config(rng: random.Random) -> str:
    """A tree of tags that mean something, or a good config that was cut, doubled or overwritten."""
    text = _tag(rng, rng.randint(1, 5)) if rng.random() < 0.7 else rng.choice(PARTS)
    return _damaged(rng, text) if rng.random() < 0.3 else text


def _tag(rng: random.Random, depth: int) -> str:
    tag = rng.choice(TAGS) if rng.random() < 0.998 else ""
    names = rng.sample(ATTRIBUTES, rng.randint(0, 4)) + ["x y"] * (rng.random() < 0.002)
    given = "".join(f' {name}="{_value(rng)}"' for name in names)
    inside = "".join(_tag(rng, depth - 1) for _ in range(rng.randint(0, 4))) if depth else rng.choice(("", "text"))
    if rng.random() < 0.1:
        inside += PARTS[0]
    if rng.random() < 0.002:
        return f"<{tag}{given}>" * 300 + inside + f"</{tag}>" * 300
    return f"<{tag}{given}>{inside}</{tag}>"


def _value(rng: random.Random) -> str:
    return rng.choice(VALUES) if rng.random() < 0.97 else quoteattr(text(rng, 12))[1:-1]


def text(rng: random.Random, most: int) -> str:
    return "".join(
        rng.choice(WEIRD) if rng.random() < 0.3 else chr(rng.randint(32, 126)) for _ in range(rng.randint(0, most))
    )


def _damaged(rng: random.Random, whole: str) -> str:
    at, length = rng.randint(0, len(whole)), rng.randint(0, 20)
    new = rng.choice(("", whole[:length], text(rng, 10), rng.choice(WEIRD) * rng.randint(1, 50)))
    return whole[:at] + new + whole[at + rng.choice((0, length)) :]


def anything(rng: random.Random, depth: int = 4) -> Any:
    """Any JSON."""
    kind = rng.randint(0, 8 if depth else 6)
    if kind >= 7:
        items = [anything(rng, depth - 1) for _ in range(rng.randint(0, 4))]
        return items if kind == 7 else {rng.choice((*KEYS, text(rng, 5))): item for item in items}
    return (None, True, rng.randint(-(2**70), 2**70), rng.random() * 10 ** rng.randint(-300, 300), float("nan"), text(rng, 10), rng.choice(VALUES))[kind]  # fmt: skip


KEYS = ("from_name", "to_name", "type", "value", "choices", "id", "score", "result")


def annotation_result(rng: random.Random) -> Any:
    """Any JSON, or something close to a result: each part of it may be anything."""

    def or_not(value: Any) -> Any:
        return value if rng.random() < 0.85 else anything(rng, 2)

    if rng.random() < 0.2:
        return anything(rng)
    return or_not(
        [
            or_not(
                {
                    "from_name": or_not("choice"),
                    "to_name": or_not("image"),
                    "type": or_not("choices"),
                    "value": or_not(
                        {"choices": or_not([or_not(rng.choice(("cat", "dog"))) for _ in range(rng.randint(0, 3))])}
                    ),
                }
            )
            for _ in range(rng.randint(0, 3))
        ]
    )


def csv_file(rng: random.Random, rows: int) -> bytes:
    """A header and rows, each cell an address, a name or anything; sometimes damaged, or not even text."""
    names = ["filename", "label"] if rng.random() < 0.8 else []
    names += [rng.choice(("image", "annotation_id", "FileName ", "", text(rng, 6))) for _ in range(rng.randint(0, 2))]
    lines = [",".join(names)]
    for _ in range(rows):
        cells = len(names) + (rng.choice((-1, 1)) if rng.random() < 0.03 else 0)
        lines.append(",".join(_cell(rng) for _ in range(cells)))
    whole = rng.choice(("\n", "\r\n", "\r")).join(lines)
    data = (_damaged(rng, whole) if rng.random() < 0.1 else whole).encode("utf-8", "surrogatepass")
    return _damaged_bytes(rng, data, 0) if rng.random() < 0.1 else data


def _cell(rng: random.Random) -> str:
    if rng.random() < 0.85:
        return rng.choice(CELLS)
    any_text = text(rng, 20)
    return any_text if rng.random() < 0.1 else '"' + any_text.replace('"', '""').replace("\ud800", "") + '"'


CELLS = (
    "a.png", "cat", "dog", "cat|dog", "", "http://[", "s3://b/x", "=1+1", "'=x", "../../x", "/etc/passwd", "7", "x" * 300,
    "a" * 5000, "https://host/a.png", "C:\\x", "//x", "~", "con", "*",
)  # fmt: skip


def images() -> list[bytes]:
    """One small file in each format, and with each kind of pixels that changes its header."""
    Image.init()
    found = []
    for kind in FORMATS:
        for mode in ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK"):
            file = io.BytesIO()
            try:
                Image.new(mode, (13, 9)).save(file, kind)
            except (OSError, KeyError, ValueError):
                continue
            found.append(file.getvalue())
    more: Sequence[dict[str, Any]] = [{"format": "JPEG", "progressive": True}, {"format": "TIFF", "compression": "tiff_lzw"}, {"format": "WEBP", "lossless": True}, {"format": "TIFF", "compression": "jpeg"}, {"format": "PNG", "exif": _exif()}]  # fmt: skip
    for options in more:
        file = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(file, **options)
        found.append(file.getvalue())
    animated = io.BytesIO()
    Image.new("P", (9, 9)).save(animated, "GIF", save_all=True, append_images=[Image.new("P", (9, 9), 1)])
    return [*found, animated.getvalue()]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def image(rng: random.Random, whole: Sequence[bytes]) -> bytes:
    """A file of `whole` with damage that is mostly in its header: sizes, counts, offsets."""
    return _damaged_bytes(rng, rng.choice(whole), 0.8)


def _damaged_bytes(rng: random.Random, whole: bytes, in_header: float) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), 64) if rng.random() < in_header else len(data)) if data else 0
        how = rng.randint(0, 4)
        if how == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            data[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x40\0", b"\0\x40\0\0", b"\xff\xff")
            )
        elif how == 2:
            del data[at : at + rng.randint(1, 30)]
        elif how == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        else:
            del data[at:]
    return bytes(data)
