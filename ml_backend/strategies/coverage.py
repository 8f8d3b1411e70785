"""Greedy kernel coverage: the rows that stand for most of what nothing labelled resembles yet.

MaxHerding and UHerding (Bae et al. 2024): pick x to maximise sum_n w_n max(k(x_n, x), cover_n), where cover_n is the
similarity of row n to the nearest chosen or labelled row, and w_n = 1 (herding) or its uncertainty (uherding). The
gain only shrinks as rows are chosen, so stale gains are upper bounds and few are recomputed (lazy greedy, CELF).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.strategies.candidates import View, top

BANDWIDTH = 0.45
"""Kernel width as a share of the typical distance between two rows of the pool."""
REFRESH = 32
"""Stale gains recomputed together: one matrix product instead of many."""
KERNEL_BYTES = 2 << 20
"""A block of kernel values: it stays in the cache between the passes over it."""


class Kernel:
    """k(x, r) = exp(-|x - r|^2 / (2 width^2)) against fixed references (R, d), float32.

    Width: `bandwidth` times the root mean square distance of two references, sqrt(2 (mean |r|^2 - |mean r|^2)).
    """

    def __init__(self, references: torch.Tensor, bandwidth: float = BANDWIDTH) -> None:
        self.references = references
        self._squares = (references * references).sum(1)
        typical = 2 * float(self._squares.mean() - references.mean(0).square().sum())
        self.gamma = 1 / (2 * bandwidth**2 * max(typical, 1e-6))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(k, d) -> (k, R)."""
        squared = torch.addmm(self._squares[None, :], x, self.references.T, alpha=-2.0)
        return squared.add_((x * x).sum(1)[:, None]).clamp_(min=0).mul_(-self.gamma).exp_()

    @property
    def rows_at_once(self) -> int:
        return max(8, KERNEL_BYTES // (4 * max(1, len(self.references))))

    def cover(self, centers: View) -> torch.Tensor:
        """Similarity of each reference to its nearest center, (R,); zeros without centers."""
        nearest = self.references.new_zeros(len(self.references))
        for start in range(0, len(centers), self.rows_at_once):
            block = centers.take(np.arange(start, min(start + self.rows_at_once, len(centers))))
            torch.maximum(nearest, self(block).amax(0), out=nearest)
        return nearest


@dataclass
class Cover:
    """A cover that grows by greedy picks from `candidates` (n, d).

    weights: (R,) what it is worth to cover each reference. covered: (R,) similarity to the nearest pick or center.
    merit: (n,) factor on each candidate's gain, at least 0.
    """

    kernel: Kernel
    candidates: torch.Tensor
    weights: torch.Tensor
    covered: torch.Tensor
    merit: NDArray[np.float64]
    _bounds: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._bounds = self._gains(np.arange(len(self.candidates)))

    def grow(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """`count` distinct positions in `candidates`, in the order picked, and the gain of each."""
        picked: list[int] = []
        gains: list[float] = []
        while len(picked) < min(count, len(self.candidates)):
            best = self._best()
            picked.append(best)
            gains.append(max(float(self._bounds[best]), 0.0))
            self._bounds[best] = -np.inf
            torch.maximum(self.covered, self.kernel(self.candidates[best : best + 1])[0], out=self.covered)
        return np.array(picked, dtype=np.int64), np.minimum.accumulate(np.array(gains, dtype=np.float64))

    def _gains(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Finite: what cannot be told is worth nothing, or the search for the best would never end."""
        gains = np.empty(len(positions))
        for start in range(0, len(positions), self.kernel.rows_at_once):
            part = positions[start : start + self.kernel.rows_at_once]
            fresh = self.kernel(self.candidates[torch.from_numpy(part)]).sub_(self.covered).clamp_(min=0)
            gains[start : start + len(part)] = (fresh @ self.weights).cpu().numpy()
        return np.nan_to_num(gains * self.merit[positions])

    def _best(self) -> int:
        """The candidate of largest true gain; bounds are made true where they had to be looked at."""
        true = np.zeros(len(self._bounds), dtype=bool)
        while True:
            best = int(self._bounds.argmax())
            if true[best] or self._bounds[best] == -np.inf:
                return best
            stale = np.where(true, -np.inf, self._bounds)
            again = top(stale, REFRESH)
            again = again[np.isfinite(stale[again])]
            self._bounds[again] = self._gains(again)
            true[again] = True
