"""An encoder that reads as many images as a file allows, and then fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GATE = "TEST_ENCODER_GATE"
"""Names the file."""


class Gated:
    """Pixels of a small picture."""

    dim, input_size, version = 192, 8, "1"

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        self.seen += len(images)
        if self.seen > int(Path(os.environ[GATE]).read_text(encoding="ascii")):
            raise RuntimeError("the gate is closed")
        return np.stack([np.asarray(image, np.float32).reshape(-1) + 1 for image in images])
