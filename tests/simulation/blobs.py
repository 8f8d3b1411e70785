"""Three classes around three corners, and a head that is trained on them at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.simulation.data import Data, unit_rows
from ml_backend.simulation.replay import Answers, Settings


def nearest_mean(
    features: NDArray[np.floating[Any]], rows: NDArray[np.int64], labels: NDArray[np.int64], classes: int, *_: Any
) -> Answers:
    """A head that is trained at once: the nearest class mean."""
    x = features[rows].astype(np.float32)
    means = np.stack(
        [x[labels == c].mean(0) if (labels == c).any() else np.full(x.shape[1], 9.0) for c in range(classes)]
    )

    def probabilities(asked: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        near = np.exp(-((asked.astype(np.float32)[:, None] - means[None]) ** 2).sum(2) * 10)
        scaled: NDArray[np.float32] = (near / near.sum(1, keepdims=True)).astype(np.float32)
        return scaled

    return Answers(probabilities, probabilities)


def blobs(seed: int) -> Data:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=90)
    features = unit_rows(np.eye(3)[labels] + 0.4 * rng.standard_normal((90, 3)))
    return Data("blobs", ("a", "b", "c"), features[:60], labels[:60], features[60:], labels[60:])


SETTINGS = Settings(batch=5, budget=20)
