"""What the numbers of a running project advise. Advice only: nothing here stops anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError

Floats = NDArray[np.float64]

STABLE_KAPPA = 0.99
STABLE_ROUNDS = 3
BOOTSTRAPS = 500


@dataclass(frozen=True)
class Saved:
    """Labels that random choice would have needed beyond those given, and a 95 % interval.

    at_least: random's own curve never got to the accuracy, so that the figures are lower bounds.
    """

    labels: float
    low: float
    high: float
    at_least: bool


@dataclass(frozen=True)
class Stopping:
    """kappa: agreement of each model with the one before it, on the same rows. advised: stable for long enough."""

    kappa: tuple[float, ...]
    advised: bool
    reason: str


def cohen_kappa(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Cohen's kappa of two answers (n,) to the same rows; 1.0 where both always give one and the same class."""
    if len(first) != len(second) or not len(first):
        raise InvalidInputError(f"Both models must answer the same rows, not {len(first)} and {len(second)}.")
    classes = int(max(first.max(), second.max())) + 1
    agreement = float((first == second).mean())
    shares = [np.bincount(answer, minlength=classes) / len(answer) for answer in (first, second)]
    chance = float(shares[0] @ shares[1])
    return 1.0 if chance >= 1.0 else (agreement - chance) / (1.0 - chance)


def stopping_advice(kappas: Sequence[float]) -> Stopping:
    """Stabilizing predictions (Bloodgood and Vijay-Shanker 2009).

    kappas: of each model with the one before it, on one fixed, unlabelled set, the oldest first. Kappa of 0.99 and more
    three rounds in a row bounds the change of F1 at about 4 %.
    """
    kappa = tuple(kappas)
    last = kappa[-STABLE_ROUNDS:]
    advised = len(last) == STABLE_ROUNDS and min(last) >= STABLE_KAPPA
    if not kappa:
        reason = "too early to say: there is no second model to compare with"
    elif advised:
        reason = (
            f"the last {STABLE_ROUNDS} models each agree with the one before ({min(last):.3f} or more, 1 = "
            "always): more labels will change little"
        )
    else:
        reason = (
            f"the model is still changing: the last two versions agree by {kappa[-1]:.3f} (1 = always); "
            f"stopping is advised at {STABLE_KAPPA} or more, {STABLE_ROUNDS} times in a row"
        )
    return Stopping(kappa, advised, reason)


def labels_saved(
    labels: int,
    right: NDArray[np.bool_],
    random_labels: Sequence[int],
    random_right: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Saved:
    """Estimate what active learning saved so far, by the curve of models trained on random labels alone.

    labels: labels behind today's model. right: (h,) whether it is right on each held-out row. random_labels: (m,)
    rising sizes of random subsets of the labels that were drawn at random, and random_right: (m, h) the same for the
    models trained on these. The curve accuracy = a - b n^-c is fitted to the random arm and read off at today's
    accuracy; held-out rows are drawn anew, paired, for the interval. Beyond ten times the labels it is not trusted.
    """
    if len(random_labels) < 3 or random_right.shape != (len(random_labels), len(right)):
        raise InvalidInputError(
            "The estimate of labels saved needs at least three models trained on random labels, compared on the "
            "same held-out rows."
        )
    drawn = np.vstack([np.arange(len(right)), rng.integers(len(right), size=(BOOTSTRAPS, len(right)))])
    accuracy = np.stack([model[drawn].mean(1) for model in random_right])
    needed = _needed(np.asarray(random_labels, dtype=np.float64), accuracy, right[drawn].mean(1), 10.0 * labels)
    low, high = np.quantile(needed[1:], [0.025, 0.975])
    return Saved(float(needed[0]) - labels, float(low) - labels, float(high) - labels, bool(needed[0] >= 10 * labels))


def _needed(sizes: Floats, accuracy: Floats, goal: Floats, most: float) -> Floats:
    """Random labels for `goal` (B,) by the curves fitted to `accuracy` (m, B) at `sizes` (m,); at most `most`."""
    error: Floats = np.full(len(goal), np.inf)
    needed: Floats = np.full(len(goal), most)
    for exponent in np.linspace(0.2, 2.0, 19):
        design = np.column_stack([np.ones_like(sizes), -(sizes**-exponent)])
        (top, slope), *_ = np.linalg.lstsq(design, accuracy, rcond=None)
        here = np.square(design @ np.stack([top, slope]) - accuracy).sum(0)
        reachable = (slope > 0) & (goal < top)
        gap = np.where(reachable, top - goal, 1.0)
        estimate = np.where(reachable, (np.maximum(slope, 0) / gap) ** (1 / exponent), most)
        needed = np.where(here < error, np.minimum(estimate, most), needed)
        error = np.fmin(here, error)
    return needed


def interval_text(saved: Saved) -> str:
    """`about 120 labels saved (95 % interval 60 to 190)`."""
    more = "at least" if saved.at_least else "about"
    return f"{more} {saved.labels:.0f} labels saved (95 % interval {saved.low:.0f} to {saved.high:.0f})"
