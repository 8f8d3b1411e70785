"""Rules that weigh the model's doubt and the features together, so that a batch does not ask the same thing twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import candidates, labels_per_class, top
from ml_backend.strategies.diversity import COVERAGE_ROWS, cover_ranking, herding, k_means
from ml_backend.strategies.reasons import margin_reasons, model_probabilities
from ml_backend.strategies.uncertainty import margin_uncertainty
from ml_backend.wording import amount

PREFILTER = 10
"""cluster_margin looks at this many rows of low margin for each it picks."""


def without_model(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """Coverage, for every rule that needs a model and has none yet; the reasons say so."""
    ranking = herding(pool, query_size, rng)
    return Ranking(ranking.rows, ranking.acquisition, tuple(f"no model yet: {reason}" for reason in ranking.reasons))


def uherding(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """Greedy kernel coverage of the rows, each weighted by 1 - margin (UHerding, Bae et al. 2024)."""
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    return doubtful_cover(pool, query_size, rng, weight_power=1.0, merit_power=0.0)


def doubtful_cover(
    pool: Pool,
    query_size: int,
    rng: np.random.Generator,
    *,
    weight_power: float,
    merit_power: float,
    balance: float = 0.0,
) -> Ranking:
    """Greedy cover, each row worth its (1 - margin) ** `weight_power`, each pick its own ** `merit_power`.

    balance: both are multiplied by the row's expected scarcity to this power, so that classes with few labels count more.
    In a large pool the rows to be covered are drawn at random, and the most doubtful ones are offered as picks.
    """
    view = candidates(pool)
    doubt = margin_uncertainty(pool, view.rows)
    drawn = view.sample(COVERAGE_ROWS, rng)
    offers = np.sort(top(doubt, COVERAGE_ROWS)) if merit_power else drawn
    weights, merit = doubt[drawn] ** weight_power, doubt[offers] ** merit_power
    if balance:
        weights *= scarcity(pool, view.rows[drawn]) ** balance
        merit *= scarcity(pool, view.rows[offers]) ** balance
    ranking = cover_ranking(pool, view.subset(offers), view.subset(drawn), weights, merit, query_size)
    return with_margins(pool, ranking)


def scarcity(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of (average labels a class + 1) / (labels of the class + 1) over what each row may be, (k,)."""
    labels = labels_per_class(pool)
    p = model_probabilities(pool)[rows].astype(np.float64)
    return np.asarray(p @ ((labels.mean() + 1) / (labels + 1)))


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
