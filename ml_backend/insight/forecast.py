"""Where the accuracy goes with more labels, as a best fixed guess with how sure it is.

The error is taken to fall as an inverse power of the number of labels to a floor, e(n) = e + b n^-c, fitted by weighted least
squares to what was measured: R. L. Figueroa et al., "Predicting sample size required for classification performance", BMC
Medical Informatics and Decision Making 12:8, 2012. (Why a power: J. Hestness et al., "Deep Learning Scaling is Predictable,
Empirically", 2017.) The interval comes of refitting to accuracies that may be the true ones: later versions are measured on
images that earlier ones were measured on, so their errors go together, as partial means of one random sequence.

Such intervals know nothing of curves that bend otherwise, so they are widened (SPREAD). Told to hold 80 %, they held the accuracy that
came in 93 % of 1,056 forecasts on digits, digits with wrong labels, MNIST and CIFAR-10, asked for 100 or 500 labels more or twice as many,
and in the worst of these kinds in 80 %; the guess was off by 5.3 points, "no change" by 6.2 (docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POWERS = np.array([0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0])
USUAL, PULL = 0.5, 1.0
"""The power expected before anything is measured, and how many squared standard errors a factor of e away from it costs."""
DRAWS = 400
CONFIDENCE = 0.8
LATE = 0.75
"""Versions of this share of the newest's labels say where the curve is now: a power that misses them is moved onto them."""
SPREAD = 1.2
"""So many times as wide as what the draws alone would say."""
EARLIEST, MEASURED, GROWTH = 4, 15, 1.5
"""Too early to say: with fewer versions than this, fewer measured labels, or labels that have not grown by this factor."""


@dataclass(frozen=True)
class Measured:
    """A version: the labels it learned from, and how many of n held-out ones it got right."""

    labels: int
    n: int
    right: int


@dataclass(frozen=True)
class Expected:
    """At so many labels: the best guess, and where the accuracy is with 80 % confidence."""

    labels: int
    accuracy: float
    low: float
    high: float


def too_early(points: Sequence[Measured]) -> str | None:
    """Why nothing can be said; None where it can."""
    if len(points) < EARLIEST:
        return f"it takes {EARLIEST} measured versions, and there are {len(points)}"
    if points[-1].n < MEASURED:
        return f"it takes {MEASURED} held-out labels, and there are {points[-1].n}"
    first, last = points[0].labels, points[-1].labels
    if last < GROWTH * max(first, 1):
        return f"the versions are too alike in labels: from {first} to {last}"
    return None


def forecast(points: Sequence[Measured], wanted: Sequence[int], *, seed: int = 0) -> list[Expected]:
    """What is expected at each number of labels, ascending. points: oldest first, as many as `too_early` wants at least."""
    labels, n, right = (
        np.array(column, float) for column in zip(*((p.labels, p.n, p.right) for p in points), strict=True)
    )
    error = (n - right) / n
    labels = np.maximum(labels, 1.0)
    scale = labels[-1]
    best = _fit(labels / scale, error[None], n)
    fitted = _at(best, labels / scale)[0]
    draws = error[None] - _noise(fitted, n, np.random.default_rng(seed))
    fits = _fit(labels / scale, draws, n)
    at = np.array([max(w, 1) for w in wanted], float) / scale
    late = labels >= LATE * scale
    guess = (_at(best, at) + _missed(best, error[None], labels / scale, n, late))[0]
    possible = _at(fits, at) + _missed(fits, draws, labels / scale, n, late)
    tail = 50 * (1 - CONFIDENCE)
    least, most = np.percentile(possible, [tail, 100 - tail], axis=0)
    low, high = guess - _reach(guess - least), guess + _reach(most - guess)
    return [
        Expected(int(count), *(_share(1 - each) for each in errors))
        for count, *errors in zip(wanted, guess, high, low, strict=True)
    ]


def _missed(
    fits: NDArray[np.float64],
    error: NDArray[np.float64],
    x: NDArray[np.float64],
    n: NDArray[np.float64],
    late: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(k, 1) by how much each fit is too low where the curve is now, beyond a standard error of what was measured there."""
    weight = np.where(late, n, 0.0)
    off = (error - _at(fits, x)) @ weight / weight.sum()
    typical = np.clip((error @ weight) / weight.sum(), 0.02, 0.98)
    doubt = np.sqrt(typical * (1 - typical) / n.max())
    return np.asarray((np.sign(off) * np.maximum(np.abs(off) - doubt, 0.0))[:, None])


def _reach(reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of how far draws go to one side: widened, and with more labels no less."""
    return np.asarray(SPREAD * np.maximum.accumulate(np.maximum(reach, 0.0)))


def _fit(x: NDArray[np.float64], error: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, k) floors, heights and powers: least squares of errors (k, m) at x (m,) weighted by n; neither of the first two below zero."""
    weight = n / np.mean(n)
    total = weight.sum()
    mean = error @ weight / total
    typical = np.clip(mean, 0.02, 0.98)
    unit = typical * (1 - typical) / np.mean(n)  # the square of a standard error of one version
    lowest: NDArray[np.float64] = np.full(len(error), np.inf)
    best: NDArray[np.float64] = np.zeros((3, len(error)))
    for each in POWERS:
        basis = x**-each
        centre = basis @ weight / total
        spread = ((basis - centre) ** 2) @ weight
        slope = ((error - mean[:, None]) * (basis - centre)) @ weight / max(spread, 1e-12)
        a = mean - slope * centre
        through = error @ (weight * basis) / ((basis**2) @ weight)  # with a floor of nothing
        slope = np.where(slope < 0, 0.0, np.where(a < 0, through, slope))
        a = np.where(slope <= 0, mean, np.where(a < 0, 0.0, a))
        residual = ((error - a[:, None] - slope[:, None] * basis) ** 2) @ weight
        cost = residual / unit + PULL * np.log(each / USUAL) ** 2
        better = cost < lowest
        lowest = np.where(better, cost, lowest)
        best = np.where(better, np.stack([a, slope, np.full(len(error), each)]), best)
    return best


def _at(fits: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k, m) errors at x (m,)."""
    floor, height, power = fits
    return np.asarray(floor[:, None] + height[:, None] * x[None] ** -power[:, None])


def _noise(error: NDArray[np.float64], n: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(DRAWS, m) by how much the errors measured may be off: means of the first n of one sequence of images."""
    share = (np.clip(error, 0.0, 1.0) * n + 1) / (n + 2)
    sizes, place = np.unique(n, return_inverse=True)
    steps = rng.normal(size=(DRAWS, len(sizes))) * np.sqrt(np.diff(sizes, prepend=0.0))
    means = np.cumsum(steps, axis=1) / sizes
    return np.asarray(means[:, place] * np.sqrt(share * (1 - share)))


def _share(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))
