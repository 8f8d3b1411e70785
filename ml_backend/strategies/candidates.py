"""Candidate rows of a pool in the order of their ids, read in chunks that fit the cache.

Everything here counts in positions of that order, so equal values are decided by the lower position, which is the
lower id, and no result depends on the order of the rows. Positions become pool rows again only at the very end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.records import Pool

CHUNK_BYTES = 4 << 20
"""One chunk of features as float32: small enough for the cache, large enough to hide the call."""


@dataclass(frozen=True)
class View:
    """Rows `rows` of `features` (N, d), in that order. `features` is NumPy (also memory-mapped) or a torch tensor."""

    features: Any
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return int(self.features.shape[1])

    @property
    def device(self) -> torch.device:
        return self.features.device if isinstance(self.features, torch.Tensor) else torch.device("cpu")

    def chunks(self, extra_columns: int = 0) -> Iterator[tuple[slice, torch.Tensor]]:
        """Every row once: (positions, float32 (k, d) on `device`). `extra_columns`: what the caller adds to a row."""
        size = max(64, CHUNK_BYTES // (4 * (self.width + extra_columns)))
        for start in range(0, len(self), size):
            positions = slice(start, min(start + size, len(self)))
            yield positions, self._read(self.rows[positions])

    def take(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """The rows at `positions`, float32 (k, d)."""
        return self._read(self.rows[positions])

    def all(self) -> torch.Tensor:
        """Every row at once, float32: for views that were made small."""
        return self._read(self.rows)

    def sample(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """At most `size` positions drawn at random, ascending."""
        if len(self) <= size:
            return np.arange(len(self))
        return np.sort(rng.choice(len(self), size, replace=False)).astype(np.int64)

    def subset(self, positions: NDArray[np.int64]) -> View:
        return View(self.features, self.rows[positions])

    def _read(self, rows: NDArray[np.int64]) -> torch.Tensor:
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
            picked = self.features[int(rows[0]) : int(rows[-1]) + 1]
        elif isinstance(self.features, torch.Tensor):
            picked = self.features[torch.from_numpy(rows).to(self.device)]
        else:
            picked = self.features[rows]
        if isinstance(picked, torch.Tensor):
            return picked.float()
        # A copy while it is still float16: the map may be read-only, which torch does not know, and it halves the traffic.
        return torch.from_numpy(np.array(picked)).float()


def candidate_rows(pool: Pool) -> NDArray[np.int64]:
    """Rows that may be picked, in the order of their ids."""
    return in_id_order(pool, np.flatnonzero(free(pool)))


def free(pool: Pool) -> NDArray[np.bool_]:
    """(N,) whether each row may be picked."""
    return ~_answered(pool) if pool.candidates is None else pool.candidates & ~_answered(pool)


def _answered(pool: Pool) -> NDArray[np.bool_]:
    return pool.labelled if pool.skipped is None else pool.labelled | pool.skipped


def in_id_order(pool: Pool, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    ids = pool.ids[rows]
    if (ids[1:] > ids[:-1]).all():
        return rows.astype(np.int64)
    return np.asarray(rows[np.argsort(ids, kind="stable")], dtype=np.int64)


def candidates(pool: Pool) -> View:
    return View(pool.features, candidate_rows(pool))


def covered(pool: Pool) -> View:
    """Rows that a person has seen: labelled or skipped."""
    return View(pool.features, in_id_order(pool, np.flatnonzero(_answered(pool))))


def labels_of(pool: Pool) -> NDArray[np.int64]:
    """(M, 2) int64, one line (row, class index) for every label of the labelled rows."""
    if pool.pairs is not None:
        return pool.pairs
    rows = np.flatnonzero(pool.labelled & (pool.labels >= 0))
    return np.column_stack([rows, pool.labels[rows]])


def labels_per_class(pool: Pool) -> NDArray[np.int64]:
    """(C,) labelled rows of each class; with several labels a row counts for each of them."""
    return np.bincount(labels_of(pool)[:, 1], minlength=pool.n_classes)


def top(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest of `values`, best first, the lower position first where equal."""
    count = min(count, len(values))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    if count < len(values):
        threshold = -np.partition(-values, count - 1)[count - 1]
        above = np.flatnonzero(values > threshold)
        equal = np.flatnonzero(values == threshold)[: count - len(above)]
        picked = np.concatenate([above, equal])
    else:
        picked = np.arange(len(values))
    return np.asarray(picked[np.lexsort((picked, -values[picked]))], dtype=np.int64)
