"""Whether more labels will change much, or why that is not known yet. Advice only: nothing here stops anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError
from ml_backend.wording import amount

STABLE_KAPPA = 0.99
STABLE_ROUNDS = 3
GROWTH = 1.1
"""Models are compared once there are this many times the labels: later ones differ little by a few labels more."""
NARROW = 0.2
"""The widest interval of the balanced accuracy that still tells how good a model is."""


@dataclass(frozen=True)
class Stopping:
    """kappa: agreement of each model with the one before it, on the same rows. advised: stable for long enough, and known."""

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


def stopping_advice(kappas: Sequence[float], doubt: str | None) -> Stopping:
    """Stabilizing predictions (Bloodgood and Vijay-Shanker 2009), where it is known how good the model is.

    kappas: of each model with the one before it that had `GROWTH` times fewer labels, on one fixed, unlabelled set, the
    oldest first. Kappa of 0.99 and more three times in a row bounds the change of F1 at about 4 %. doubt: see `doubt_of`.
    """
    kappa = tuple(kappas)
    last = kappa[-STABLE_ROUNDS:]
    stable = len(last) == STABLE_ROUNDS and min(last) >= STABLE_KAPPA
    if not kappa:
        reason = "too early to say: there is no second model to compare with"
    elif not stable:
        reason = (
            f"too early to say: the last two models that were compared agree by {kappa[-1]:.3f} (1 = always); it takes "
            f"{STABLE_KAPPA} or more {STABLE_ROUNDS} times in a row"
        )
    elif doubt:
        reason = f"the model hardly changes, but {doubt}"
    else:
        reason = (
            f"the last {STABLE_ROUNDS} models that were compared each agree with the one before ({min(last):.3f} or more, "
            "1 = always): more labels will change little"
        )
    return Stopping(kappa, stable and doubt is None, reason)


def doubt_of(
    classes: Sequence[str],
    labelled: NDArray[np.int64],
    predicted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    balanced: Mapping[str, Any] | None,
) -> str | None:
    """Why it is not known how good a model is, and what would end that; None where it is.

    labelled, predicted, held_out: (C,) how many images have each class as a label, as a guess, and as a label that
    measures. balanced: the balanced accuracy and its interval, as `learning.metrics.measured` has it.
    """
    for counts, words in (
        (labelled, "no image is labelled {}: label one, or take the choice out of the label config"),
        (predicted, "it takes no image for {}: label more of them"),
        (held_out, "no image that measures the accuracy is labelled {}: go on until one of those held out is"),
    ):
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            more = f" (and {amount(len(missing) - 1, 'other class', 'other classes')})" if len(missing) > 1 else ""
            return words.format(f"{missing[0]!r}{more}")
    if balanced is None or balanced["high"] - balanced["low"] > NARROW:
        known = "nothing" if balanced is None else f"{balanced['low']:.0%} to {balanced['high']:.0%}"
        return (
            f"of its balanced accuracy no more is known than {known}: go on until more held-out images are labelled and the "
            f"interval is {100 * NARROW:.0f} points wide"
        )
    return None
