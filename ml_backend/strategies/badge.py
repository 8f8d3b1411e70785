"""BADGE without its gradients: k-means++ draws from two factors a row, at the cost of a pass or two over the features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import View, candidates
from ml_backend.strategies.hybrid import without_model
from ml_backend.strategies.reasons import margin_reasons, model_probabilities

PATIENCE = 64
"""Proposals turned down between two passes over the pool."""


def badge(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """k-means++ draws among the gradients of the last layer, g = (p - onehot(most likely)) x h (Ash et al. 2020).

    The largest gradient comes first; acquisition is the squared distance of a pick's gradient to those before it,
    capped by theirs, so that it agrees with the rank. Multi-label: p - (p >= 1/2).
    """
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    view = candidates(pool)
    picked, distances = draw(Gradients(pool, view), min(query_size, len(view)), rng)
    rows = view.rows[picked]
    reasons = tuple(f"would change the model most: {doubt}" for doubt in margin_reasons(pool, rows))
    return Ranking(rows, np.minimum.accumulate(distances), reasons)


@dataclass(frozen=True)
class Gradients:
    """Gradients g = a x h of the rows of `view`, as factors a (n, C) and h (n, d): <g, g'> = (a . a') (h . h')."""

    pool: Pool
    view: View

    def residuals(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Give a = p - y, y being the label the model would give, (k, C): without y the norm would fall with doubt."""
        p = torch.from_numpy(np.asarray(model_probabilities(self.pool)[rows], dtype=np.float32))
        if self.pool.multilabel:
            return p - (p >= 0.5).float()
        return p.scatter_add_(1, p.argmax(1, keepdim=True), torch.full((len(p), 1), -1.0))

    def at(self, positions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.residuals(self.view.rows[positions]).to(self.view.device), self.view.take(positions)

    def squared_norms(self) -> NDArray[np.float32]:
        """|g|^2 = |a|^2 |h|^2, (n,)."""
        norms = np.empty(len(self.view), dtype=np.float32)
        for positions, h in self.view.chunks():
            a = self.residuals(self.view.rows[positions]).to(h.device)
            norms[positions] = ((a * a).sum(1) * (h * h).sum(1)).cpu().numpy()
        return norms

    def nearer(self, squared: NDArray[np.float32], centers: NDArray[np.int64]) -> None:
        """Lower `squared` (n,) in place to the squared distance to the nearest of `centers`, where that is less."""
        others = self.at(centers)
        for positions, h in self.view.chunks(extra_columns=2 * len(centers)):
            a = self.residuals(self.view.rows[positions]).to(h.device)
            nearest = squared_distances((a, h), others).amin(1).cpu().numpy()
            np.minimum(squared[positions], nearest, out=squared[positions])


def squared_distances(
    some: tuple[torch.Tensor, torch.Tensor], others: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """|g - g'|^2 for factors of k and of m gradients, (k, m)."""
    (a, h), (b, k) = some, others
    products = (a @ b.T).mul_(h @ k.T).mul_(-2.0)
    products += ((a * a).sum(1) * (h * h).sum(1))[:, None]
    products += ((b * b).sum(1) * (k * k).sum(1))[None, :]
    return products.clamp_(min=0)


def draw(gradients: Gradients, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """k-means++ draws: positions, and the squared distance of each to the nearest before it (of the first: its norm).

    Exact by rejection: propose in proportion to the distances of some picks ago, which bound today's from above, and
    accept with today's share of them. The rows are read again only when too many proposals were turned down.
    """
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0)
    norms = gradients.squared_norms()
    fresh = [int(norms.argmax())]
    picked, found = list(fresh), [float(norms[fresh[0]])]
    bound = np.full(len(norms), np.inf, dtype=np.float32)
    while len(picked) < count:
        gradients.nearer(bound, np.array(fresh))
        bound[picked] = 0.0
        if not bound.any():  # only copies of what is picked are left
            rest = np.setdiff1d(np.arange(len(bound)), picked)[: count - len(picked)]
            picked += rest.tolist()
            found += [0.0] * len(rest)
            break
        fresh, distances = _propose(gradients, bound, count - len(picked), rng)
        picked += fresh
        found += distances
    return np.array(picked), np.array(found)


def _propose(
    gradients: Gradients, bound: NDArray[np.float32], count: int, rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """At least one draw, and more until `PATIENCE` proposals were turned down."""
    cumulative = np.cumsum(bound, dtype=np.float64)
    fresh: list[int] = []
    distances: list[float] = []
    refused = 0
    while len(fresh) < count and refused < PATIENCE:
        position = min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")), len(bound) - 1)
        distance = _distance(gradients, position, fresh, float(bound[position]))
        if rng.random() * bound[position] < distance:
            fresh.append(position)
            distances.append(distance)
        else:
            refused += 1
    return fresh, distances


def _distance(gradients: Gradients, position: int, fresh: list[int], bound: float) -> float:
    if not fresh:
        return bound
    if position in fresh:
        return 0.0
    here, there = gradients.at(np.array([position])), gradients.at(np.array(fresh))
    return min(bound, float(squared_distances(here, there).min()))
