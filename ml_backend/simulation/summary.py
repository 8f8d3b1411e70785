"""From rounds to what a person wants to know: how many labels, against random, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.simulation.replay import FULL_POOL, Round

BOOTSTRAPS = 2000
NEVER = float("inf")
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """The curves of one data set: `accuracy[strategy]` is (seeds, rounds), the same seeds in the same order in each.

    balanced: the same of the balanced accuracy.
    """

    labels: NDArray[np.int64]
    accuracy: dict[str, Curve]
    balanced: dict[str, Curve]
    full: float
    seconds: dict[str, float]
    megabytes: dict[str, float]


@dataclass(frozen=True)
class Reached:
    """Labels until the mean curve is at the target, `NEVER` if it is not; ratio to random's, with a 95 % interval."""

    target: float
    labels: float
    ratio: float
    low: float
    high: float


def gathered(rounds: Sequence[Round]) -> Runs:
    """Rounds of one data set, as curves. Only seeds that every strategy has finished are compared."""
    names = list(dict.fromkeys(r.strategy for r in rounds if r.strategy != FULL_POOL))
    by_run: dict[tuple[str, int], list[Round]] = {}
    for r in rounds:
        by_run.setdefault((r.strategy, r.seed), []).append(r)
    seeds = [s for s in sorted({r.seed for r in rounds}) if all((name, s) in by_run for name in names)]
    shortest = min(len(by_run[name, s]) for name in names for s in seeds)
    labels = np.array([r.labels for r in by_run[names[0], seeds[0]][:shortest]])
    curves = {n: np.array([[r.accuracy for r in by_run[n, s][:shortest]] for s in seeds]) for n in names}
    balanced = {n: np.array([[r.balanced for r in by_run[n, s][:shortest]] for s in seeds]) for n in names}
    seconds = {n: float(np.mean([r.seconds for s in seeds for r in by_run[n, s]])) for n in names}
    megabytes = {n: float(np.max([r.megabytes for s in seeds for r in by_run[n, s]])) for n in names}
    full = [r.accuracy for r in rounds if r.strategy == FULL_POOL]
    return Runs(labels, curves, balanced, float(np.mean(full)) if full else float("nan"), seconds, megabytes)


def aulc(runs: Runs, strategy: str) -> tuple[float, float]:
    """Area under the learning curve as a share of the labels spanned, and the standard error over the seeds."""
    curves = runs.accuracy[strategy]
    if curves.shape[1] < 2:
        areas = curves[:, 0]
    else:
        areas = np.trapezoid(curves, runs.labels, axis=1) / (runs.labels[-1] - runs.labels[0])
    return float(areas.mean()), float(areas.std(ddof=1) / np.sqrt(len(areas))) if len(areas) > 1 else 0.0


def labels_to(runs: Runs, curve: Curve, target: float) -> float:
    """Labels at the first round where `curve` (rounds,) is at `target`; `NEVER` if none is."""
    there = np.flatnonzero(curve >= target - 1e-9)  # a mean of equal values may be off in its last bit
    return float(runs.labels[there[0]]) if len(there) else NEVER


def reached(runs: Runs, strategy: str, target: float | None, against: str = "random", seed: int = 0) -> Reached:
    """Labels to `target`, or with None to the final accuracy of `against`; seeds are drawn in pairs for the interval."""
    mine, other = runs.accuracy[strategy], runs.accuracy.get(against)
    goal = _goal(target, other)
    here = labels_to(runs, mine.mean(0), goal)
    if other is None:
        return Reached(goal, here, float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(BOOTSTRAPS):
        drawn = rng.integers(len(mine), size=len(mine))
        ratios.append(_ratio(runs, mine[drawn].mean(0), other[drawn].mean(0), target))
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return Reached(goal, here, _ratio(runs, mine.mean(0), other.mean(0), target), float(low), float(high))


def _goal(target: float | None, other: Curve | None) -> float:
    if target is not None:
        return target
    return NEVER if other is None else float(other.mean(0)[-1])


def _ratio(runs: Runs, mine: Curve, other: Curve, target: float | None) -> float:
    """Labels of `mine` over those of `other`; where `other` never gets there, over the whole budget: at most that."""
    goal = float(other[-1]) if target is None else target
    base = labels_to(runs, other, goal) if target is not None else NEVER
    here = labels_to(runs, mine, goal)
    return here if here == NEVER else here / min(base, float(runs.labels[-1]))
