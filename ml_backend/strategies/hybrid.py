"""Rules that weigh the model's doubt and the features together, so that a batch does not ask the same thing twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import candidates, top
from ml_backend.strategies.diversity import COVERAGE_ROWS, cover_ranking, herding, k_means
from ml_backend.strategies.reasons import margin_reasons
from ml_backend.strategies.uncertainty import margin_uncertainty
from ml_backend.wording import amount

PREFILTER = 10
"""cluster_margin looks at this many rows of low margin for each it picks."""


def without_model(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """Coverage, for every rule that needs a model and has none yet; the reasons say so."""
    ranking = herding(pool, query_size, rng)
    return Ranking(ranking.rows, ranking.acquisition, tuple(f"no model yet: {reason}" for reason in ranking.reasons))


def uherding(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """Greedy kernel coverage of the rows, each weighted by 1 - margin (UHerding, Bae et al. 2024).

    In a large pool the rows to be covered are drawn at random, and are those offered as picks, too.
    """
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    view = candidates(pool)
    drawn = view.subset(view.sample(COVERAGE_ROWS, rng))
    ranking = cover_ranking(pool, drawn, margin_uncertainty(pool, drawn.rows), query_size)
    return with_margins(pool, ranking)


def with_margins(pool: Pool, ranking: Ranking) -> Ranking:
    doubts = margin_reasons(pool, ranking.rows)
    reasons = tuple(f"{doubt}, {why}" for doubt, why in zip(doubts, ranking.reasons, strict=True))
    return Ranking(ranking.rows, ranking.acquisition, reasons)


def cluster_margin(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """The lowest-margin 10 b rows, clustered in b; the lowest margin of each cluster (after Citovsky et al. 2021)."""
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    view = candidates(pool)
    doubt = margin_uncertainty(pool, view.rows)
    short = top(doubt, PREFILTER * query_size)
    count = min(query_size, len(short))
    clusters = k_means(view.take(short).cpu().numpy(), count, rng)
    order = _one_per_cluster(clusters, count)
    picked = short[order]
    sizes = np.bincount(clusters)[clusters[order]]
    ranking = Ranking(
        view.rows[picked], doubt[picked], tuple(f"represents {amount(int(size), 'doubtful image')}" for size in sizes)
    )
    return with_margins(pool, ranking)


def _one_per_cluster(clusters: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first row of each cluster, then second ones, until there are `count`; ascending."""
    turn = np.zeros(len(clusters), dtype=np.int64)
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        turn[members] = np.arange(len(members))
    return np.sort(np.lexsort((np.arange(len(clusters)), turn))[:count])
