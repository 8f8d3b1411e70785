"""Pictures to learn from."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

Digits = tuple[list[Image.Image], NDArray[np.int64]]


@pytest.fixture(scope="session")
def digits() -> Digits:
    data = load_digits()
    return [Image.fromarray((image * 15.9).astype(np.uint8)) for image in data.images], data.target
