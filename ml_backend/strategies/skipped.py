"""What resembles images that people skipped: asked last, never dropped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_backend.records import Pool
from ml_backend.strategies.candidates import View, candidates, in_id_order
from ml_backend.strategies.diversity import nearer
from ml_backend.strategies.duplicates import typical_distance

RADIUS = 0.6
"""Rows within this share of the typical distance between two rows may resemble each other."""
PAIRS = 1 << 25
"""Distances computed at most, for each of the two kinds: beyond, fewer skipped or labelled rows are compared with."""


def resembling_skipped(pool: Pool) -> NDArray[np.int64]:
    """Candidate rows with a skipped row within the radius, and no labelled one nearer than it."""
    none = np.empty(0, dtype=np.int64)
    if pool.skipped is None or not pool.skipped.any():
        return none
    view = candidates(pool)
    if not len(view):
        return none
    to_skipped = _nearest(pool, view, pool.skipped)
    near = np.flatnonzero(to_skipped < (RADIUS * typical_distance(view)) ** 2)
    some = view.subset(near)
    return some.rows[to_skipped[near] < _nearest(pool, some, pool.labelled)]


def _nearest(pool: Pool, view: View, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Squared distance of each row of `view` to the nearest of the rows in `mask` (N,), (n,); infinite without any."""
    rows = in_id_order(pool, np.flatnonzero(mask))
    centers = View(pool.features, rows[:: max(1, len(rows) * len(view) // PAIRS)])
    squared: NDArray[np.float32] = np.full(len(view), np.inf, dtype=np.float32)
    for _, block in centers.chunks(extra_columns=4096):
        squared = nearer(view, squared, block)
    return squared
