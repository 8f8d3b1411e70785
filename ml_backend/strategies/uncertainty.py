"""Rules that score each row by the model's own probabilities, and `random`, which needs none.

Multi-label probabilities are independent: there a row is as uncertain as its most uncertain class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import candidate_rows, top
from ml_backend.strategies.reasons import model_probabilities

Floats = NDArray[np.floating[Any]]
Measure = Callable[[Pool, NDArray[np.int64]], NDArray[np.float64]]
"""(pool, rows (k,)) -> (k,) uncertainty of these rows, higher = label sooner."""
Fallback = Callable[[Pool, int, np.random.Generator], Ranking]

FEW_CLASSES = 64
"""Up to here a running pair of maxima over the columns beats a partial sort of every row."""
ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class ByScore:
    """A strategy made of a measure and the top of it: one score a row, no look at the rest of the batch."""

    measure: Measure
    reasons: Callable[[Pool, NDArray[np.int64]], tuple[str, ...]]
    without_model: Fallback

    def __call__(self, pool: Pool, query_size: int, rng: np.random.Generator, power: float | None = None) -> Ranking:
        """Rank by the measure; with `power`, by power * log(score) + Gumbel noise (Kirsch et al. 2021, PowerBALD)."""
        if pool.probabilities is None:
            return self.without_model(pool, query_size, rng)
        rows = candidate_rows(pool)
        scores = self.measure(pool, rows)
        if power is not None:
            scores = add_noise(scores, power, rng)
        best = top(scores, query_size)
        picked = rows[best]
        return Ranking(picked, scores[best].astype(np.float64), self.reasons(pool, picked))


def add_noise(scores: Floats, power: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`power` * log(score) + Gumbel: the top k is then a draw without replacement, likely as score ** power."""
    smallest = np.finfo(np.float64).tiny
    noisy: NDArray[np.float64] = power * np.log(np.maximum(scores, smallest)) + rng.gumbel(size=len(scores))
    return noisy


def two_largest(probabilities: Floats) -> tuple[Floats, Floats]:
    """Largest and second largest of each row of (k, C), C >= 2, without sorting."""
    if probabilities.shape[1] > FEW_CLASSES:
        values = torch.topk(torch.from_numpy(np.array(probabilities)), 2, dim=1).values.numpy()
        return values[:, 0], values[:, 1]
    columns = np.ascontiguousarray(probabilities.T)
    first, second = np.maximum(columns[0], columns[1]), np.minimum(columns[0], columns[1])
    for column in columns[2:]:
        np.maximum(second, np.minimum(first, column), out=second)
        np.maximum(first, column, out=first)
    return first, second


def margins(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gap between the two most likely classes, 0..1; multi-label: the smallest |p - (1 - p)| over the classes."""

    def gap(probabilities: Floats) -> Floats:
        if pool.multilabel:
            return np.asarray(np.abs(2 * probabilities - 1).min(axis=1))
        if probabilities.shape[1] < 2:
            return np.ones(len(probabilities))
        first, second = two_largest(probabilities)
        return np.subtract(first, second)

    return _by_chunk(pool, rows, gap)


def margin_uncertainty(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return 1.0 - margins(pool, rows)


def least_confidence_uncertainty(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 - probability of the most likely answer; multi-label: of the most likely set of classes."""

    def doubt(probabilities: Floats) -> Floats:
        if pool.multilabel:
            return np.asarray(1.0 - np.maximum(probabilities, 1 - probabilities).astype(np.float64).prod(axis=1))
        return np.asarray(1.0 - probabilities.max(axis=1))

    return _by_chunk(pool, rows, doubt)


def entropy_uncertainty(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shannon entropy in nats; multi-label: the mean of the classes' own binary entropies."""

    def spread(probabilities: Floats) -> Floats:
        if pool.multilabel:
            return np.asarray((_plogp(probabilities) + _plogp(1 - probabilities)).mean(axis=1))
        return np.asarray(_plogp(probabilities).sum(axis=1))

    return _by_chunk(pool, rows, spread)


def _plogp(p: Floats) -> Floats:
    return np.asarray(-p * np.log(np.maximum(p, np.finfo(np.float32).tiny)))


def _by_chunk(pool: Pool, rows: NDArray[np.int64], measure: Callable[[Floats], Floats]) -> NDArray[np.float64]:
    probabilities = model_probabilities(pool)
    scores = np.empty(len(rows))
    whole = len(rows) == len(probabilities) and (np.diff(rows) == 1).all()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        scores[part] = measure(probabilities[part] if whole else probabilities[rows[part]])
    return scores


def random(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """A draw without replacement, every row as likely as any other."""
    rows = candidate_rows(pool)
    drawn = rng.random(len(rows))
    best = top(drawn, query_size)
    return Ranking(rows[best], drawn[best], ("drawn at random",) * len(best))
