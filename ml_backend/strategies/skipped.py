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
SPREAD = 64
"""Images of one folder often have ids in a row: labels are read in steps of this many, so that few blocks tell most."""
PAIRS = 1 << 28
"""Pairs of a candidate and a skipped row looked at, at most: beyond, the same share of both kinds is left out."""


def resembling_skipped(pool: Pool) -> NDArray[np.int64]:
    """Candidate rows with a skipped row within the radius, and two of the three nearest answered rows skipped."""
    if pool.skipped is None or not pool.skipped.any():
        return np.empty(0, dtype=np.int64)
    view = candidates(pool)
    stride = max(1, -(-int(pool.skipped.sum()) * len(view) // PAIRS))
    to_skipped = np.full((len(view), TWICE), np.inf, dtype=np.float32)
    for _, block in _every(stride, pool, pool.skipped).chunks(extra_columns=4096):
        _lower(view, to_skipped, block)
    near = to_skipped[:, 0] < (RADIUS * typical_distance(view)) ** 2
    alike = np.flatnonzero(near & np.isfinite(to_skipped[:, -1]))
    to_labelled = np.full((len(alike), TWICE), np.inf, dtype=np.float32)
    for _, block in _every(stride, pool, pool.labelled).chunks(extra_columns=4096):
        _lower(view.subset(alike), to_labelled, block)
        still = to_skipped[alike, -1] < to_labelled[:, -1]  # further labels can only be nearer
        alike, to_labelled = alike[still], to_labelled[still]
    return view.rows[alike]


def _every(stride: int, pool: Pool, mask: NDArray[np.bool_]) -> View:
    """Every `stride`-th of the rows in `mask` (N,), in an order in which each block is spread over all ids."""
    rows = in_id_order(pool, np.flatnonzero(mask))[::stride]
    return View(pool.features, rows[np.argsort(np.arange(len(rows)) % SPREAD, kind="stable")])


def _lower(view: View, nearest: NDArray[np.float32], block: torch.Tensor) -> None:
    """Lower `nearest` (n, TWICE), squared and ascending, in place to the nearest among `block` (m, d)."""
    for positions, x in view.chunks(extra_columns=len(block)):
        both = torch.cat([torch.from_numpy(nearest[positions]).to(x.device), squared_distances(x, block)], dim=1)
        nearest[positions] = both.topk(TWICE, dim=1, largest=False).values.cpu().numpy()
