"""Whether stopping is ever advised too early: the balanced accuracy there is when it is, against that with all labels.

  OMP_NUM_THREADS=1 nice python -m benchmarks.advice --data ../shared/data
  OMP_NUM_THREADS=1 nice python -m benchmarks.advice --data ../shared/data --only digits,mnist_rare --seeds 10

Projects are labelled as the service asks (`ml_backend.simulation.live_protocol`), held-out images included. After each training
the service's own functions say whether to stop. Finished runs are kept in .benchmarks/advice, until the code that decides them
changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.strategy_data import CACHE, arguments, sources
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.metrics import measured
from ml_backend.learning.training import TrainedHead
from ml_backend.simulation.code_version import code_digest
from ml_backend.simulation.data import STRESS, Data
from ml_backend.simulation.live_protocol import LiveProject
from ml_backend.simulation.replay import Live, Settings, full_pool, judged
from ml_backend.simulation.runs import data_digest
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.strategies import STRATEGIES
from ml_backend.strategies.advice import GROWTH, cohen_kappa, doubt_of, stopping_advice

CASES = {
    "mnist": ("mnist", "none", 2),
    "digits": ("digits", "none", 5),
    "digits-duplicates": ("digits", "duplicates", 3),
    "digits-tail": ("digits", "tail", 5),
    "digits-wrong": ("digits", "wrong", 5),
    "cifar_resnet": ("cifar_resnet", "none", 2),
    "cifar_patches": ("cifar_patches", "none", 2),
    "mnist_rare": ("mnist_rare", "none", 5),
    "mnist_pairs": ("mnist_pairs", "none", 2),
}
"""Data, stress, runs of each strategy."""
STEP, BUDGET, ENOUGH = 20, 600, 0.9
FIXED_SET = 1_000


@dataclass(frozen=True)
class Look:
    """What is known and advised after one training. stable: the models agree, whatever else is known."""

    labels: int
    accuracy: float
    balanced: float
    stable: bool
    advised: bool
    reason: str


def looks(data: Data, strategy: str, seed: int, train: LiveHead) -> Iterator[Look]:
    """After each training what the service would say."""
    live = Live(train_after=STEP, late=0)
    project = LiveProject(data, seed, Settings(batch=STEP, budget=BUDGET, live=live), live)
    fixed = np.sort(np.argsort(project.rows.hashes, kind="stable")[:FIXED_SET])
    kappas: list[float] = []
    before, former = 0, np.zeros(0, dtype=np.int64)
    answered = project.answer(project.turn(strategy, None).queue, STEP)
    while answered < BUDGET:
        turn = project.turn(strategy, train)
        if turn.head:
            labels = int(project.rows.labelled.sum())
            said = turn.head(data.features[fixed]).argmax(1)
            if labels >= GROWTH * before:
                kappas += [cohen_kappa(former, said)] if before else []
                before, former = labels, said
            advice = stopping_advice(kappas, doubt(project, train.last, said))
            stable = stopping_advice(kappas, None).advised
            yield Look(answered, *judged(turn.head, data), stable, advice.advised, advice.reason)
        given = project.answer(turn.queue, STEP)
        if not given and not project.rows.waiting.any():
            return
        answered += given


def doubt(project: LiveProject, trained: TrainedHead, said: NDArray[np.int64]) -> str | None:
    """As `steps.advise.Advisor` finds it, of what the fold heads say of the slice."""
    rows, data = project.rows, project.data
    held_out = project.corpus.examples(held_out=True)
    probabilities = FoldHeads(trained.fold_heads).predict_proba(held_out.features, project.corpus.images(held_out))
    holdout = measured(probabilities, held_out.targets, data.classes)
    count = len(data.classes)
    return doubt_of(
        data.classes,
        np.bincount(rows.labels[rows.labelled], minlength=count),
        np.bincount(said, minlength=count),
        np.bincount(held_out.targets, minlength=count),
        holdout["balanced_accuracy"],
    )


def finished(name: str, strategy: str, seed: int, data: Data) -> tuple[float, list[Look]]:
    """Balanced accuracy with all labels, and the looks of one run; read back where the same code has done it before."""
    code = code_digest(
        LiveProject.__module__, LiveHead.__module__, stopping_advice.__module__, STRATEGIES[strategy].__module__
    )
    key = f"{name}-{strategy}-{seed}-{STEP}-{BUDGET}-{data_digest(data)[:8]}-{code[:8]}"
    path = CACHE / "advice" / f"{key}.json"
    if not path.exists():
        train = LiveHead()
        found = {
            "full": full_pool(data, seed, train).balanced,
            "looks": [asdict(x) for x in looks(data, strategy, seed, train)],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    stored = json.loads(path.read_text())
    return stored["full"], [Look(**look) for look in stored["looks"]]


def line(name: str, strategy: str, runs: Sequence[tuple[float, list[Look]]]) -> tuple[str, int]:
    """A row of the table, and how many runs were advised to stop too early."""
    early, told, by_kappa, last = 0, [], [], []
    for full, found in runs:
        advised = [look for look in found if look.advised]
        early += any(look.balanced < ENOUGH * full for look in advised)
        told += [(look.labels, look.balanced / full) for look in advised[:1]]
        by_kappa += [(look.labels, look.balanced / full) for look in found if look.stable][:1]
        last.append(found[-1].balanced / full)
    cells = [name, strategy, str(len(runs)), _first(told), _first(by_kappa), f"{min(last):.0%}", str(early)]
    return "| " + " | ".join(cells) + " |", early


def _first(found: Sequence[tuple[int, float]]) -> str:
    if not found:
        return "never"
    labels = sorted(labels for labels, _ in found)
    return f"{len(found)} runs, at {labels[0]} to {labels[-1]} labels, worst {min(share for _, share in found):.0%}"


def main() -> int:
    args = arguments(__doc__, CASES)
    available = sources(args.data)
    print("| data | strategy | runs | stopping advised first | by agreement alone | at the end | too early |")
    print("|---|---|---|---|---|---|---|")
    missed = 0
    for name in args.only.split(","):
        source, stress, seeds = CASES[name]
        if source not in available:
            print(f"{name}: not measured, its archive is not in {args.data}")
            continue
        for strategy in args.strategies.split(","):
            runs = []
            for seed in range(args.seeds or seeds):
                data = STRESS[stress](available[source](seed), seed)
                runs.append(finished(name, strategy, seed, data))
            text, early = line(name, strategy, runs)
            missed += early
            print(text, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
