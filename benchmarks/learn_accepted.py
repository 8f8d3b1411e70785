"""What a head gains by learning from accepted labels, too, as `export model --include accepted` trains it.

  OMP_NUM_THREADS=1 python -m benchmarks.learn_accepted --data ../shared/data

People label what `auto` asks for, and the sample of an audit; what that vouches for is accepted, errors and all. Compared, on a
test set: the head that learns from people and from the unlabelled, as it is served; and the one that learns from people and from
accepted labels. The log loss tells whether they are as sure as they may be.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accept import audit_of
from benchmarks.strategy_data import sources
from ml_backend.acceptance.audit import UNSEEN
from ml_backend.learning.head import Head
from ml_backend.learning.spreading import reached
from ml_backend.learning.training import train_head
from ml_backend.simulation.data import Data
from ml_backend.simulation.replay import Settings, replay
from ml_backend.simulation.simulated_head import LiveHead


@dataclass(frozen=True)
class Case:
    """source: of the data. labels: answers before the audit, `batch` at a time. error: that it allows."""

    source: str
    batch: int
    labels: int
    error: float
    seeds: int


CASES = (Case("digits", 10, 100, 0.02, 20), Case("mnist", 20, 180, 0.02, 10), Case("cifar_resnet", 50, 200, 0.10, 5))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the archives")
    parser.add_argument("--only", help="comma-separated sources")
    parser.add_argument("--seeds", type=int, help="(default: 20, 10 and 5)")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    available = sources(args.data)
    print(
        "| data | seeds | labels of people | accepted | of these wrong | accuracy: served | with accepted | log loss: served | with accepted |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if case.source in available and (not args.only or case.source in args.only.split(",")):
            seeds = args.seeds or case.seeds
            found = np.array([of_one(available[case.source](seed), case, seed) for seed in range(seeds)])
            mean = found.mean(0)
            better = int((found[:, 4] > found[:, 3]).sum())
            print(
                f"| {case.source} | {seeds} | {mean[0]:.0f} | {mean[1]:.0f} | {mean[2]:.2%} | {mean[3]:.2%} | "
                f"{mean[4]:.2%}, better in {better} | {mean[5]:.3f} | {mean[6]:.3f} |",
                flush=True,
            )
    return 0


def of_one(data: Data, case: Case, seed: int) -> tuple[float, ...]:
    """Labels of people, accepted ones, share of these wrong; accuracy of both heads; log loss of both."""
    head = LiveHead()
    for _ in replay(data, "auto", seed, Settings(batch=case.batch, budget=case.labels), head):
        pass
    probabilities, at = head.last.head.predict_proba(data.features), head.pool.at
    neighbours = reached(head.pool.graph, at, data.labels[at], len(data.classes), np.arange(len(data.labels)))
    proposal, finding, verdicts = audit_of(data, at, probabilities, neighbours, case.error, seed)
    accepted, looked = np.flatnonzero(finding.accepted), np.flatnonzero(verdicts != UNSEEN)
    people = np.concatenate([at, proposal.ids[looked]])
    pool = replace(head.pool, at=people)
    served = train_head(data.features[people], data.labels[people], data.classes, seed=seed, pool=pool).head
    rows = np.concatenate([people, proposal.ids[accepted]])
    labels = np.concatenate([data.labels[people], proposal.labels[accepted]])
    both = train_head(data.features[rows], labels, data.classes, seed=seed).head
    wrong = proposal.labels[accepted] != data.labels[proposal.ids[accepted]]
    told = [on_test(each, data) for each in (served, both)]
    share = float(wrong.mean()) if len(wrong) else 0.0
    return len(people), len(accepted), share, told[0][0], told[1][0], told[0][1], told[1][1]


def on_test(head: Head, data: Data) -> tuple[float, float]:
    """Accuracy and log loss on the test set."""
    probabilities: NDArray[np.float32] = head.predict_proba(data.test_features)
    of_truth = probabilities[np.arange(len(probabilities)), data.test_labels]
    return float((probabilities.argmax(1) == data.test_labels).mean()), float(-np.log(of_truth.clip(1e-7)).mean())


if __name__ == "__main__":
    raise SystemExit(main())
