"""What a model would label of the rest of a project, the most trusted first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

STEP = 0.005
"""Of all rows, how many more are asked about at a time."""
FIRST_PART = 0.35
"""Of the errors that are allowed, the share that is expected in the first part: with half, a model that is as bad as it believes often fails there."""


def worse_than_believed(wrong: NDArray[np.bool_], doubt: NDArray[np.floating[Any]]) -> float:
    """How many times more errors held-out answers showed than were believed. wrong, doubt: (m,) of each."""
    return (int(wrong.sum()) + 1) / (float(doubt.sum()) + 1)


@dataclass(frozen=True)
class Proposal:
    """n labels, the most trusted first.

    ids: (n,) tasks. labels: (n,) class index. doubt: (n,) expected probability that the label is wrong.
    classes: of the project, predicted or not.
    """

    ids: Ids
    labels: Ids
    doubt: NDArray[np.floating[Any]]
    classes: int

    @classmethod
    def of(
        cls,
        ids: Ids,
        probabilities: NDArray[np.float32],
        neighbours: NDArray[np.float32] | None = None,
    ) -> Proposal:
        """Order rows (n,) by what the head and, if given, their neighbours say of the head's label; ties by id.

        probabilities: (n, C) of the head. neighbours: (n, C), not below zero, what spreads to each row over the graph; the product of
        both, normalised, is what the row is trusted by. (An order by anything is fair: the sample decides what is accepted.)
        """
        labels = probabilities.argmax(1)
        own = probabilities.astype(np.float64)
        together = own
        if neighbours is not None:
            shares = neighbours / np.maximum(neighbours.sum(1, keepdims=True), 1e-30)
            together = (own + 1e-6) * (shares + 1e-6)
            together /= together.sum(1, keepdims=True)
        rows = np.arange(len(ids))
        order = np.lexsort((ids, -together[rows, labels]))
        doubt = 1 - own[rows, labels][order]
        return cls(ids[order], np.asarray(labels[order], np.int64), doubt, probabilities.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def corrected(self, worse: float) -> Proposal:
        """With as much more doubt as held-out answers call for: see `worse_than_believed`."""
        return replace(self, doubt=np.minimum(self.doubt * worse, 1.0))

    @cached_property
    def believed(self) -> NDArray[np.float64]:
        """(n,) share of wrong labels that is expected among the first 1, 2, ... n."""
        return np.asarray(np.cumsum(self.doubt) / np.arange(1, len(self) + 1))

    def parts(self, error: float) -> Ids:
        """Sizes of the parts from the front that are asked about in this order, each the one before and some more; none where n = 0.

        Which is first has to be fixed before a sample is looked at: it is the largest in which `FIRST_PART` of the errors that
        are allowed are expected. error: the share of wrong labels that is allowed.
        """
        if not len(self):
            return np.empty(0, np.int64)
        fine = np.flatnonzero(self.believed <= error * FIRST_PART)
        step = max(round(STEP * len(self)), 1)
        first = max(int(fine[-1]) + 1 if len(fine) else len(self) // 4, step) // step * step
        parts: Ids = np.unique(np.append(np.arange(first, len(self), step), len(self)))
        return parts
