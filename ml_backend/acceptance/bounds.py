"""How many labels have to be looked at, at random, to know that at most so many of all are wrong."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FORGIVEN = 40
"""Wrong ones that a sample may have, at most."""
NEXT = 0.4
"""Of the risk taken for a sample with k wrong ones, the share taken for one with k + 1. Chosen for few looks at 0.2 to 0.6 % of errors."""


def most_wrong(error: float, size: int) -> int:
    """How many of `size` labels may be wrong, where the share `error` of them may."""
    return int(error * size + 1e-9)


@lru_cache(maxsize=4_096)
def looks_needed(size: int, allowed: int, risk: float) -> tuple[int, ...]:
    """Entry k: with k wrong among so many looked at, at most `allowed` of `size` are wrong.

    The sample is drawn one by one, without replacement. It may be looked at after each, and ended at any of these
    points: over all of them together, the probability of saying so where it is not true is at most `risk`. Exact: the
    paths through the urn with one wrong label more than `allowed` are counted, and more wrong ones end fewer of them
    (a closed sequential test; D. Siegmund, "Sequential Analysis", 1985, ch. 2). Entries do not fall. After the last one no
    sample says so, short of all.

    size: > 0. allowed: 0 to size. risk: above 0, below 1.
    """
    if allowed >= size:
        return (0,)
    wrong, most = allowed + 1, min(allowed + 1, FORGIVEN)  # of more than `allowed`, nothing is to be said
    points, spare = list[int](), 0.0
    paths = np.zeros(FORGIVEN + 2)  # probability of k wrong ones so far, and of not having ended
    paths[0] = 1.0
    left = np.maximum(wrong - np.arange(FORGIVEN + 2), 0)
    for drawn in range(1, size + 1):
        hit = paths * np.minimum(left / (size - drawn + 1), 1.0)
        paths -= hit
        paths[1:] += hit[:-1]
        while len(points) < most and paths[len(points)] <= (share := spare + risk * (1 - NEXT) * NEXT ** len(points)):
            spare = share - float(paths[len(points)])
            paths[len(points)] = 0.0
            points.append(drawn)
        if len(points) == most:
            break
    return tuple(points)
