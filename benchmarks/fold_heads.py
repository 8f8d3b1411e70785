"""Whether fold heads answer for held-out images as the served head does for images from elsewhere, on scikit-learn's digits.

  OMP_NUM_THREADS=1 nice python -m benchmarks.fold_heads --runs 120 --strategy margin

The live protocol of `simulate`, 20 answers a training. With some twenty held-out images the accuracy shown hangs on which they
are, so the share of that luck which can be told is taken off: how many of them a model trained on all other images gets right,
less how many of the test set, times the slope that fits best over the runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.head import Head
from ml_backend.learning.training import train_head
from ml_backend.simulation.data import Data, digits
from ml_backend.simulation.live_protocol import LiveProject
from ml_backend.simulation.replay import Live, Settings
from ml_backend.simulation.simulated_head import LiveHead

POINTS, STEP, FIRST_SEED = (40, 60, 100, 200), 20, 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--strategy", default="margin")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(FIRST_SEED, FIRST_SEED + args.runs)
    found = np.array([list(points(digits(seed), args.strategy, seed)) for seed in seeds])
    print("| labels | shown - fresh, points | less the luck of the draw | worst run |\n|---|---|---|---|")
    for place, labels in enumerate(POINTS):
        excess, luck = found[:, place].T
        rest = excess - np.cov(excess, luck)[0, 1] / luck.var(ddof=1) * luck
        print(f"| {labels} | {told(excess)} | {told(rest)} | {100 * excess[np.abs(excess).argmax()]:+.1f} |")
    return 0


def told(values: NDArray[np.float64]) -> str:
    return f"{100 * values.mean():+.2f} ± {100 * values.std(ddof=1) / len(values) ** 0.5:.2f}"


def points(data: Data, strategy: str, seed: int) -> Iterator[tuple[float, float]]:
    """At each of `POINTS`: the accuracy shown minus the fresh one, and the luck of the draw."""
    train = LiveHead()
    project = LiveProject(data, seed, Settings(batch=STEP, budget=POINTS[-1], live=Live()), Live())
    everything = known_all_else(data, project)
    usual = share(everything, data.test_features, data.test_labels)
    answered = project.answer(project.turn(strategy, None).queue, STEP)
    while answered <= POINTS[-1]:
        turn = project.turn(strategy, train)
        if answered in POINTS:
            held_out = project.corpus.examples(held_out=True)
            heads = FoldHeads(train.last.fold_heads or (train.last.head,))
            shown = held_out.right(heads.predict_proba(held_out.features, project.corpus.images(held_out))).mean()
            fresh = share(train.last.head, data.test_features, data.test_labels)
            yield float(shown) - fresh, share(everything, held_out.features, held_out.targets) - usual
        answered += project.answer(turn.queue, STEP)


def known_all_else(data: Data, project: LiveProject) -> Head:
    """Trained on all images that are not held out."""
    rows = np.flatnonzero(~project.rows.holdout)
    return train_head(data.features[rows], data.labels[rows], data.classes, seed=0, penalties=(1e-4,), folds=2).head


def share(head: Head, features: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    return float((head.predict_proba(features).argmax(1) == labels).mean())


if __name__ == "__main__":
    raise SystemExit(main())
