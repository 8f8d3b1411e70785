"""Near-duplicates within a batch: asking the same thing twice buys one label for the price of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.records import Pool
from ml_backend.strategies.candidates import View, candidates

RADIUS = 0.1
"""Rows nearer than this share of the typical distance between two rows count as near-duplicates."""
SAMPLE = 1024


@dataclass(frozen=True)
class Duplicates:
    """Tells near-duplicates of `pool`: rows of one group, or features nearer than `radius`."""

    pool: Pool
    radius: float

    def first_ones(self, kept: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(k,) whether each of `rows` is no near-duplicate of `kept` or of a row before it that is none either."""
        features = View(self.pool.features, np.concatenate([kept, rows])).take(np.arange(len(kept) + len(rows)))
        groups = None if self.pool.groups is None else set(self.pool.groups[kept].tolist())
        near = list(range(len(kept)))
        fine = np.zeros(len(rows), dtype=bool)
        for i, row in enumerate(rows):
            here = len(kept) + i
            if groups is not None and int(self.pool.groups[row]) in groups:  # type: ignore[index]
                continue
            squared = (features[near] - features[here]).square().sum(1)
            if near and float(squared.min()) < self.radius**2:
                continue
            fine[i] = True
            near.append(here)
            if groups is not None:
                groups.add(int(self.pool.groups[row]))  # type: ignore[index]
        return fine


def duplicates_of(pool: Pool) -> Duplicates:
    return Duplicates(pool, RADIUS * typical_distance(candidates(pool)))


def typical_distance(view: View) -> float:
    """Root mean square distance of two rows, over an even sample; 0 without rows."""
    if not len(view):
        return 0.0
    sample = view.subset(np.arange(0, len(view), max(1, len(view) // SAMPLE))).all()
    squared = 2 * float((sample * sample).sum(1).mean() - sample.mean(0).square().sum())
    return float(np.sqrt(max(squared, 0.0)))
