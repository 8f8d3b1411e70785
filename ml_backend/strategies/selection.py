"""The way in: checks, sub-pool, noise and near-duplicates around any strategy of the registry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError
from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import candidate_rows, free, top
from ml_backend.strategies.duplicates import duplicates_of
from ml_backend.strategies.registry import STRATEGIES, Strategy
from ml_backend.strategies.skipped import resembling_skipped
from ml_backend.strategies.uncertainty import ByScore, add_noise, random
from ml_backend.strategies.validation import check_pool

ATTEMPTS = 8
OVERSAMPLE = 10


def select(
    name: str,
    pool: Pool,
    query_size: int,
    rng: np.random.Generator,
    *,
    pool_size: int | None = None,
    power: float | None = None,
    suppress_duplicates: bool = True,
    device: str | torch.device | None = None,
) -> Ranking:
    """The next `min(query_size, unlabelled)` rows by the strategy `name`, best first.

    pool_size: draw a random sub-pool of this many candidates first. power: Gumbel noise, so that a row is drawn in
    proportion to acquisition ** power; small values are close to random, large ones to the plain strategy.
    suppress_duplicates: at most one of a group of near-duplicates a batch, as long as there are others.
    What resembles skipped rows comes after all else. `random` stays a plain draw: neither holds for it.
    device: where to compute; by default where the features are. Raises InvalidInputError.
    """
    strategy = STRATEGIES.get(name)
    if strategy is None:
        raise InvalidInputError(f"There is no strategy {name!r}. Choose one of: {', '.join(STRATEGIES)}.")
    _check_sizes(query_size, pool_size, power)
    check_pool(pool)
    if device is not None:
        pool = replace(pool, features=torch.as_tensor(np.asarray(pool.features)).to(device))  # type: ignore[arg-type]
    rows = candidate_rows(pool)
    if pool_size is not None and pool_size < len(rows):
        pool = _only(pool, rows[np.sort(rng.choice(len(rows), pool_size, replace=False))])
    if strategy is random:
        return _in_order(_ranked(strategy, pool, query_size, rng, power))
    ask = _without_duplicates if suppress_duplicates else _ranked
    last = resembling_skipped(pool)
    if not len(last):
        return _in_order(ask(strategy, pool, query_size, rng, power))
    others = np.setdiff1d(candidate_rows(pool), last)
    first = _in_order(ask(strategy, _only(pool, others), query_size, rng, power))
    rest = _only(_taken(pool, first.rows, last[:0]), last)
    return _followed(first, _in_order(ask(strategy, rest, query_size - len(first.rows), rng, power)))


def _in_order(ranking: Ranking) -> Ranking:
    return _at(ranking, np.argsort(-ranking.acquisition, kind="stable"))


def _followed(first: Ranking, last: Ranking) -> Ranking:
    """`first`, and then `last` with acquisitions that agree."""
    reasons = tuple(f"like a skipped image: {reason}" for reason in last.reasons)
    both = _joined(first, Ranking(last.rows, last.acquisition, reasons))
    return Ranking(both.rows, np.minimum.accumulate(both.acquisition), both.reasons)


def _check_sizes(query_size: int, pool_size: int | None, power: float | None) -> None:
    if query_size < 0:
        raise InvalidInputError(f"query_size must be 0 or more, not {query_size}.")
    if pool_size is not None and pool_size < query_size:
        raise InvalidInputError(f"pool_size ({pool_size}) must be at least query_size ({query_size}).")
    if power is not None and not (np.isfinite(power) and power > 0):
        raise InvalidInputError(f"power must be a number above 0, not {power}.")


def _only(pool: Pool, rows: NDArray[np.int64]) -> Pool:
    mask = np.zeros(len(pool.ids), dtype=bool)
    mask[rows] = True
    return replace(pool, candidates=mask)


def _ranked(strategy: Strategy, pool: Pool, query_size: int, rng: np.random.Generator, power: float | None) -> Ranking:
    """With `power`: noise on every row's score where the strategy scores rows, else among the ten times as many it picks."""
    if power is None:
        return strategy(pool, query_size, rng)
    if isinstance(strategy, ByScore) and pool.probabilities is not None:
        return strategy(pool, query_size, rng, power)
    ranking = strategy(pool, OVERSAMPLE * query_size, rng)
    return _at(ranking, top(add_noise(ranking.acquisition, power, rng), query_size))


def _at(ranking: Ranking, positions: NDArray[np.int64]) -> Ranking:
    return Ranking(
        ranking.rows[positions], ranking.acquisition[positions], tuple(ranking.reasons[i] for i in positions)
    )


def _without_duplicates(
    strategy: Strategy, pool: Pool, query_size: int, rng: np.random.Generator, power: float | None
) -> Ranking:
    """Drop the later of two near-duplicates and ask again for what is missing; at last the dropped ones fill the batch.

    While asking again, what is kept counts as seen, without an answer.
    """
    duplicates = duplicates_of(pool)
    kept = dropped = Ranking(np.empty(0, dtype=np.int64), np.empty(0), ())
    rest = pool
    for _ in range(ATTEMPTS):
        offered = _ranked(strategy, rest, query_size - len(kept.rows), rng, power)
        fine = duplicates.first_ones(kept.rows, offered.rows)
        kept, dropped = _joined(kept, offered, fine), _joined(dropped, offered, ~fine)
        rest = _taken(pool, kept.rows, dropped.rows)
        if len(kept.rows) == query_size or not len(candidate_rows(rest)):
            break
    kept = _joined(kept, _at(dropped, np.arange(min(query_size - len(kept.rows), len(dropped.rows)))))
    if len(kept.rows) < query_size:
        rest = _taken(replace(pool, groups=None), kept.rows, dropped.rows)
        kept = _joined(kept, _ranked(strategy, rest, query_size - len(kept.rows), rng, power))
    return kept


def _taken(pool: Pool, chosen: NDArray[np.int64], dropped: NDArray[np.int64]) -> Pool:
    """The pool once a person has seen `chosen`, without `dropped`: covered, but no answer that a threshold is drawn by."""
    seen = np.zeros(len(pool.ids), dtype=bool) if pool.skipped is None else pool.skipped.copy()
    seen[chosen] = True
    rest = replace(pool, skipped=seen)
    open_rows = free(rest)
    open_rows[dropped] = False
    if pool.groups is not None:
        open_rows &= ~np.isin(pool.groups, pool.groups[chosen])
    return replace(rest, candidates=open_rows)


def _joined(first: Ranking, second: Ranking, keep: NDArray[np.bool_] | None = None) -> Ranking:
    second = second if keep is None else _at(second, np.flatnonzero(keep))
    return Ranking(
        np.concatenate([first.rows, second.rows]),
        np.concatenate([first.acquisition, second.acquisition]),
        first.reasons + second.reasons,
    )
