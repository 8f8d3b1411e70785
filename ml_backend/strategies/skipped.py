"""What resembles images that people skipped: asked last, never dropped."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.records import Pool
from ml_backend.strategies.candidates import View, candidates, in_id_order
from ml_backend.strategies.diversity import squared_distances
from ml_backend.strategies.duplicates import typical_distance

RADIUS = 0.8
"""Rows within this share of the typical distance between two rows may resemble each other."""
TWICE = 2
"""Skipped rows that have to be nearer than as many labelled ones: a single skip says little of what is around it."""
PAIRS = 1 << 25
"""Distances computed at most, for each of the two kinds: beyond, fewer skipped or labelled rows are compared with."""


def resembling_skipped(pool: Pool) -> NDArray[np.int64]:
    """Candidate rows with a skipped row within the radius, and two of the three nearest answered rows skipped."""
    if pool.skipped is None or not pool.skipped.any():
        return np.empty(0, dtype=np.int64)
    view = candidates(pool)
    to_skipped = _nearest(pool, view, pool.skipped)
    near = np.flatnonzero(to_skipped[:, 0] < (RADIUS * typical_distance(view)) ** 2)
    some = view.subset(near)
    to_labelled = _nearest(pool, some, pool.labelled)
    alike: NDArray[np.bool_] = to_skipped[near, -1] < to_labelled[:, -1]
    return some.rows[alike]


def _nearest(pool: Pool, view: View, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Squared distances of each row of `view` to the `TWICE` nearest of the rows in `mask` (N,), ascending, (n, TWICE).

    Where there are fewer, they are infinite.
    """
    rows = in_id_order(pool, np.flatnonzero(mask))
    centers = View(pool.features, rows[:: max(1, len(rows) * len(view) // PAIRS)])
    nearest = np.full((len(view), TWICE), np.inf, dtype=np.float32)
    for _, block in centers.chunks(extra_columns=4096):
        for positions, x in view.chunks(extra_columns=len(block)):
            both = torch.cat([torch.from_numpy(nearest[positions]).to(x.device), squared_distances(x, block)], dim=1)
            nearest[positions] = both.topk(TWICE, dim=1, largest=False).values.cpu().numpy()
    return nearest
