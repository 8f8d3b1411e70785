"""Sample images that come with scikit-learn: 1,797 handwritten digits (Alpaydin and Kaynak, UCI, 1998)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = tuple(str(digit) for digit in range(10))
SIZE = 64


def write_digits(folder: Path) -> dict[str, str]:
    """Write the digits as PNG files, once; returns filename -> true label. The truth stands in a CSV beside them."""
    truth_file = folder.parent / "truth.csv"
    if truth_file.exists():
        with truth_file.open(encoding="utf-8", newline="") as file:
            return {row["filename"]: row["label"] for row in csv.DictReader(file)}
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes seconds to import, and is needed once

    digits = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        name = f"digit-{number:04d}.png"
        image = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
        image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / name)
        truth[name] = CLASSES[label]
    with truth_file.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("filename", "label"), *truth.items()])
    return truth
