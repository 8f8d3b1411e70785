"""Pictures, and how alike two networks see them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import nn


def pictures() -> list[Image.Image]:
    """Landscape, portrait, square, and small ones that have to be enlarged: coloured shapes on soft noise."""
    rng = np.random.default_rng(0)
    made = []
    for width, height in ((321, 163), (160, 243), (395, 267), (47, 33), (480, 480), (25, 49), (96, 97)):
        noise = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        draw = ImageDraw.Draw(noise)
        for _ in range(6):
            x, y = rng.integers(0, (width, height))
            draw.ellipse((x - width / 6, y - height / 6, x + width / 6, y + height / 6), tuple(rng.integers(0, 255, 3)))
        made.append(noise.filter(ImageFilter.GaussianBlur(min(width, height) / 40)))
    return made


def likeness(ours: NDArray[np.float32], theirs: torch.Tensor) -> float:
    """The least cosine between rows, of what differs from picture to picture: random networks see all pictures as alike."""
    one, other = (rows - rows.mean(0) for rows in (ours, nn.functional.normalize(theirs).numpy()))
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())
