"""How many labels have to be looked at, at random, to know that at most so many of all are wrong."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from math import inf, lgamma, log
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FORGIVEN = 40
"""Wrong ones that a sample may have, at most."""
MANY, SLOWLY, FAST = 0.1, 0.85, 0.4
SHARES: Final[Floats] = np.sum(
    [weight * (1 - q) * q ** np.arange(FORGIVEN) for weight, q in ((1 - MANY, FAST), (MANY, SLOWLY))], axis=0
)
"""(FORGIVEN,) of the risk, what is taken for a sample with so many wrong ones. Most is for few: good models have 0.2 to 0.6 % of errors. A
tenth falls slowly: one that is as bad as it believes would else need three times the looks."""


def most_wrong(error: float, size: int) -> int:
    """How many of `size` labels may be wrong, where the share `error` of them may."""
    return int(error * size + 1e-9)


@lru_cache(maxsize=8_192)
def looks_needed(size: int, allowed: int, risk: float) -> tuple[int, ...]:
    """All of `enough`."""
    return tuple(enough(size, allowed, risk))


def enough(size: int, allowed: int, risk: float) -> Iterator[int]:
    """Entry k: with k wrong among so many looked at, at most `allowed` of `size` are wrong.

    The sample is drawn one by one, without replacement. It may be looked at after each, and ended at any of these
    points: over all of them together, the probability of saying so where it is not true is at most `risk`. Exact: the
    paths through the urn with one wrong label more than `allowed` are counted, and more wrong ones end fewer of them
    (a closed sequential test; D. Siegmund, "Sequential Analysis", 1985, ch. 2). Entries do not fall. After the last one no
    sample says so, short of all.

    size: > 0. allowed: 0 to size. risk: above 0, below 1. The looks are not counted one by one: a million labels take no longer.
    """
    if allowed >= size:
        yield 0
        return
    wrong, most = allowed + 1, min(allowed + 1, FORGIVEN)  # of more than `allowed`, nothing is to be said
    shares = risk * SHARES[:most] / SHARES[:most].sum()
    paths = np.zeros(most)  # probability of k wrong ones so far, and of not having ended
    paths[0] = 1.0
    drawn, spare = 0, 0.0
    for found in range(most):
        spare += float(shares[found])
        # None has fewer wrong ones than `found` any more: those with as many only become fewer.
        if paths[found] > spare:
            further = _until(size - drawn, wrong - found, spare / float(paths[found]))
            paths[found:] = _carried(paths[found:], size - drawn, wrong - found, further)
            drawn += further
        spare -= float(paths[found])
        paths[found] = 0.0
        yield drawn


def _until(left: int, wrong: int, share: float) -> int:
    """After how many draws from an urn, `wrong` of `left` in it, the probability of none wrong is down to `share`."""
    goal, none_left = log(share), lgamma(left - wrong + 1) - lgamma(left + 1)

    def rare(draws: int) -> bool:
        if draws > left - wrong:
            return True
        return none_left + lgamma(left - draws + 1) - lgamma(left - wrong - draws + 1) <= goal

    return bisect_left(range(left - wrong + 1), True, key=rare)


def _carried(paths: Floats, left: int, wrong: int, draws: int) -> Floats:
    """What becomes of the probability of 0, 1, ... wrong ones by so many draws from an urn, of `left` in it as many less of `wrong`."""
    count = len(paths)
    remaining, right = _factorials(wrong, count, -1), _factorials(left - wrong, count, 1)
    right[np.isinf(right)] = 0.0  # more wrong ones than are left: there is no such path
    hits, misses = _factorials(0, count, 1), _factorials(draws, count, -1)
    more = np.arange(count) - np.arange(count)[:, None]
    chosen = np.where(more >= 0, (hits + misses)[np.abs(more)], inf)
    before = (remaining + right)[:, None] - lgamma(left + 1) + lgamma(draws + 1) + lgamma(left - draws + 1)
    after = remaining + _factorials(left - wrong - draws, count, 1)
    moved: Floats = paths @ np.exp(before - chosen - after)
    return moved


def _factorials(first: int, count: int, step: int) -> Floats:
    """(count,) logarithms of first!, (first + step)!, ...; infinite below zero."""
    return np.array([lgamma(n + 1) if n >= 0 else inf for n in range(first, first + step * count, step)])
