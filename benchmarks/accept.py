"""What it costs to have every image labelled with at most so many wrong labels: the rest accepted on a random sample.

  OMP_NUM_THREADS=1 nice python -m benchmarks.accept --data ../shared/data
  OMP_NUM_THREADS=1 nice python -m benchmarks.accept --data ../shared/data --only mnist --seeds 10

People label some images that `auto` asks for, and a few at random, held out, which show how far the model's doubt can be
believed; then a random sample of the rest is looked at, until more looks promise to save fewer than they cost; what the sample
vouches for is accepted, and people label what is left. "looks" are all of these. Compared with it: the head that learns from
labels alone, and what many do, to accept whatever the model is sure of, without a sample.

A class has "more than twice" where more than twice the share of errors that is allowed are wrong: by name, of all that is called
so in the finished data; unseen, of those of them that nobody looked at; by truth, of all its images in the finished data.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.strategy_data import sources
from ml_backend.acceptance.audit import CLASS_ERROR, RIGHT, UNSEEN, WRONG, Audit, Finding, Verdicts
from ml_backend.acceptance.proposal import Proposal, worse_than_believed
from ml_backend.commands.simulate import stressed
from ml_backend.learning.spreading import reached
from ml_backend.learning.training import train_head
from ml_backend.simulation.data import Data, Source
from ml_backend.simulation.replay import Settings, replay
from ml_backend.simulation.simulated_head import LiveHead

RISK, CLASS_RISK = 0.04, 0.05
"""As in a first attempt at 95 %."""
HELD_OUT = 20
"""Random images that are labelled to measure: as few as a plan is made from. They are looks, too, and not learned from."""


@dataclass(frozen=True)
class Case:
    """source, stress: of the data. labels: answers before the sample. errors: that are allowed, with the looks aimed at."""

    source: str
    stress: str
    batch: int
    labels: tuple[int, ...]
    errors: dict[float, int | None]


CASES = {
    "mnist": Case("mnist", "none", 20, (60, 180), {0.02: 600}),
    "mnist at 1 %": Case("mnist", "none", 20, (400,), {0.01: 1000}),
    "mnist-tail": Case("mnist", "tail", 20, (200,), {0.02: None}),
    "digits": Case("digits", "none", 10, (40, 100), {0.02: None}),
    "digits-tail": Case("digits", "tail", 10, (100,), {0.02: None}),
    "cifar_resnet": Case("cifar_resnet", "none", 50, (200,), {0.02: None, 0.05: None, 0.10: None}),
}


@dataclass(frozen=True)
class Ending:
    """looks: of people, in all. share: of the rest, accepted. wrong: share of these. bound: stated. classes: (3, C), see `by_class`."""

    looks: int
    share: float
    wrong: float
    bound: float
    classes: NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the archives")
    parser.add_argument("--only", help=f"comma-separated, of: {', '.join(CASES)}")
    parser.add_argument("--seeds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    available, missed = sources(args.data), 0
    for name in args.only.split(",") if args.only else CASES:
        case = CASES[name]
        if case.source not in available:
            print(f"{name}: not measured, its archive is not in {args.data}")
            continue
        missed += measure(name, case, stressed(available[case.source], case.stress), args.seeds)
    return 1 if missed else 0


def measure(name: str, case: Case, source: Source, seeds: int) -> int:
    found: dict[tuple[int, float, str], list[Ending]] = {}
    head, size = LiveHead(), 0
    for seed in range(seeds):
        data = source(seed)
        size = len(data.labels)
        for round_ in replay(data, "auto", seed, Settings(batch=case.batch, budget=max(case.labels)), head):
            if round_.labels in case.labels:
                for error in case.errors:
                    for kind, ending in endings(data, head, error, seed):
                        found.setdefault((round_.labels, error, kind), []).append(ending)
    print(f"\n## {name}: {size} images, {seeds} seeds\n\n{HEAD}")
    for (labels, error, kind), runs in found.items():
        print(line(labels, error, kind, runs), flush=True)
    return sum(
        aim is not None and bool(np.mean([run.looks for run in found[labels, error, "audited"]]) > aim)
        for error, aim in case.errors.items()
        for labels in case.labels[-1:]
    )


def endings(data: Data, head: LiveHead, error: float, seed: int) -> Iterator[tuple[str, Ending]]:
    """By name: as the service does it, without its neighbours, with a head of the labels alone, and without a sample."""
    probabilities, at = head.last.head.predict_proba(data.features), head.pool.at
    neighbours = reached(head.pool.graph, at, data.labels[at], len(data.classes), np.arange(len(data.labels)))
    labels_alone = train_head(data.features[at], data.labels[at], data.classes, seed=seed).head.predict_proba(
        data.features
    )
    for name, asked, near in (
        ("audited", probabilities, neighbours),
        ("audited, by confidence alone", probabilities, None),
        ("audited, head of the labels alone", labels_alone, None),
    ):
        yield name, audited(data, audit_of(data, at, asked, near, error, seed), error)
    yield "sure ones, no sample", unaudited(data, at, probabilities, error)


def proposed(
    data: Data,
    labelled: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    neighbours: NDArray[np.float32] | None,
    seed: int,
) -> Proposal:
    """Of what is neither labelled nor held out, with the doubt that those held out call for."""
    rest = np.setdiff1d(np.arange(len(data.labels)), labelled)
    held_out = np.random.default_rng([seed, 11]).choice(rest, HELD_OUT, replace=False)
    wrong = probabilities[held_out].argmax(1) != data.labels[held_out]
    doubt = 1 - probabilities[held_out].max(1)
    rest = np.setdiff1d(rest, held_out)
    near = neighbours if neighbours is None else neighbours[rest]
    return Proposal.of(rest, probabilities[rest], near).corrected(worse_than_believed(wrong, doubt))


def audited(data: Data, found: tuple[Proposal, Finding, Verdicts], error: float) -> Ending:
    proposal, finding, _ = found
    accepted = np.flatnonzero(finding.accepted)
    return ended(data, proposal, accepted, finding.wrong / len(accepted) if len(accepted) else error)


def audit_of(
    data: Data,
    labelled: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    neighbours: NDArray[np.float32] | None,
    error: float,
    seed: int,
) -> tuple[Proposal, Finding, Verdicts]:
    """What is proposed, what a complete audit finds of it, and which of its labels were looked at."""
    proposal = proposed(data, labelled, probabilities, neighbours, seed)
    wrong = np.where(proposal.labels != data.labels[proposal.ids], WRONG, RIGHT).astype(np.int8)
    order = np.random.default_rng([seed, 7]).permutation(len(proposal))
    audit = Audit(proposal, error, RISK, CLASS_RISK, order)
    verdicts, drawn = np.full(len(proposal), UNSEEN, np.int8), 0
    while more := audit.worthwhile(verdicts):
        looked = order[drawn : drawn + more]
        verdicts[looked], drawn = wrong[looked], drawn + len(looked)
    finding = audit.finding(verdicts)
    while waiting := [each for each in finding.rare if each.more and each.more < each.labels - each.looks]:
        for each in waiting:
            own = order[(order < finding.size) & (proposal.labels[order] == each.number) & (verdicts[order] == UNSEEN)]
            verdicts[own[: each.more]] = wrong[own[: each.more]]
        finding = audit.finding(verdicts)
    return proposal, finding, verdicts


def unaudited(data: Data, labelled: NDArray[np.int64], probabilities: NDArray[np.float32], error: float) -> Ending:
    """As many as the model, calibrated, believes to hold so few errors; nothing is held out."""
    rest = np.setdiff1d(np.arange(len(data.labels)), labelled)
    proposal = Proposal.of(rest, probabilities[rest])
    fine = np.flatnonzero(proposal.believed <= error)
    return ended(data, proposal, np.arange(fine[-1] + 1 if len(fine) else 0), error)


def ended(data: Data, proposal: Proposal, accepted: NDArray[np.int64], bound: float) -> Ending:
    wrong = proposal.labels[accepted] != data.labels[proposal.ids[accepted]]
    share = float(wrong.mean()) if len(wrong) else 0.0
    looks = len(data.labels) - len(accepted)
    return Ending(looks, len(accepted) / len(proposal), share, bound, by_class(data, proposal, accepted))


def by_class(data: Data, proposal: Proposal, accepted: NDArray[np.int64]) -> NDArray[np.float64]:
    """(3, C), the rarest class first: share of wrong ones by name in the finished data, of those unseen, and by truth."""
    finished, classes = data.labels.copy(), len(data.classes)
    finished[proposal.ids[accepted]] = proposal.labels[accepted]
    unseen = proposal.labels[accepted]
    wrong, sizes = finished != data.labels, np.bincount(data.labels, minlength=classes)
    named = np.bincount(finished, weights=wrong, minlength=classes)
    true = np.bincount(data.labels, weights=wrong, minlength=classes)
    of = np.bincount(finished, minlength=classes), np.bincount(unseen, minlength=classes), sizes
    shares: NDArray[np.float64] = np.array([named, named, true]) / np.maximum(of, 1)
    return shares[:, np.argsort(sizes, kind="stable")]


HEAD = """| labels first | errors allowed | how | looks: mean, median, worst | accepted | of these wrong: mean, worst | more than stated | more than twice, worst class (any): by name | unseen | by truth |
|---|---|---|---|---|---|---|---|---|---|"""


def line(labels: int, error: float, kind: str, runs: list[Ending]) -> str:
    looks, wrong = np.array([run.looks for run in runs]), np.array([run.wrong for run in runs])
    broken = sum(run.wrong > run.bound for run in runs)
    over = np.array([run.classes > CLASS_ERROR * error for run in runs])
    worst, any_ = over.sum(0).max(1), over.any(2).sum(0)
    classes = " | ".join(f"{each} ({all_})" for each, all_ in zip(worst, any_, strict=True))
    share = np.mean([run.share for run in runs])
    return (
        f"| {labels} | {error:.1%} | {kind} | {looks.mean():.0f}, {np.median(looks):.0f}, {looks.max()} | {share:.1%} | "
        f"{wrong.mean():.2%}, {wrong.max():.2%} | {broken} of {len(runs)} | {classes} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
