"""Pictures to learn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

Digits = tuple[list[Image.Image], NDArray[np.int64]]


def handwritten_digits() -> Digits:
    """1,797 grey pictures of 8 x 8 pixels, and which digit each is."""
    data = load_digits()
    return [Image.fromarray((image * 15.9).astype(np.uint8)) for image in data.images], data.target
