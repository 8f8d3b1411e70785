"""Labels worth a second look: confident learning on out-of-fold probabilities.

C. Northcutt, L. Jiang and I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Suspect:
    """A label that the other labels speak against. row: of the labelled rows; score: higher = more doubtful."""

    row: int
    given: int
    suggested: int
    score: float


def suspects(fold_probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Suspect]:
    """Single-label suspects, most doubtful first.

    fold_probabilities: (n, C), each row by a head that has not seen it (`TrainingReport.fold_probabilities`). A row is
    suspect if its probability of some other class reaches that class's own average confidence, and is above that of
    its label. score: that probability minus the label's.
    """
    n, n_classes = fold_probabilities.shape
    if labels.shape != (n,):
        raise ValueError(f"labels must be ({n},), not {labels.shape}")
    own = fold_probabilities[np.arange(n), labels]
    thresholds = np.array([own[labels == c].mean() if (labels == c).any() else np.inf for c in range(n_classes)])
    candidates = np.where(fold_probabilities >= thresholds, fold_probabilities, -np.inf)
    candidates[np.arange(n), labels] = -np.inf
    suggested = candidates.argmax(axis=1)
    score = candidates[np.arange(n), suggested] - own
    order = np.argsort(-score, kind="stable")
    return [
        Suspect(int(row), int(labels[row]), int(suggested[row]), float(score[row])) for row in order if score[row] > 0
    ]
