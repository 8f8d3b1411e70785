"""How many labels each strategy needs, on digits, MNIST-10k and CIFAR-10: the tables and pictures of docs/strategies.md.

  python benchmarks/label_efficiency.py --data ../shared/data
  python benchmarks/label_efficiency.py --data ../shared/data --only mnist --strategies random,auto

Finished runs are kept in .benchmarks/label_efficiency and not done again, until the code that decides them changes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.strategy_data import CACHE, sources
from ml_backend.commands.simulate import stressed
from ml_backend.simulation.picture import draw
from ml_backend.simulation.replay import Settings
from ml_backend.simulation.runs import simulate
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.simulation.summary import Runs, aulc, gathered, reached
from ml_backend.simulation.table import table

STRATEGIES = "random,random+margin,margin,random+entropy,cluster_margin,uherding,auto"


@dataclass(frozen=True)
class Case:
    """Data, protocol, targets, and what is to be reached: (sentence, value, limit, whether less is better)."""

    source: str
    stress: str
    seeds: int
    settings: Settings
    targets: tuple[float, ...]
    accept: Callable[[Runs], list[tuple[str, float, float, bool]]]


def at(runs: Runs, labels: int, strategy: str = "auto") -> float:
    return float(runs.accuracy[strategy].mean(0)[runs.labels.tolist().index(labels)])


def mnist(runs: Runs) -> list[tuple[str, float, float, bool]]:
    return [
        ("auto: labels to 95 %", reached(runs, "auto", 0.95).labels, 100, True),
        ("auto: labels to 97 %", reached(runs, "auto", 0.97).labels, 220, True),
        ("auto / random: labels to 95 %", reached(runs, "auto", 0.95).ratio, 0.22, True),
        *beats_random(runs),
    ]


def digits(ratio: float) -> Callable[[Runs], list[tuple[str, float, float, bool]]]:
    def lines(runs: Runs) -> list[tuple[str, float, float, bool]]:
        best = max(aulc(runs, name)[0] for name in ("margin", "random+margin") if name in runs.accuracy)
        return [
            ("auto: labels to random's final accuracy, share", reached(runs, "auto", None).ratio, ratio, True),
            ("auto: mean accuracy, against margin's best", aulc(runs, "auto")[0], best, False),
            *beats_random(runs),
        ]

    return lines


def cifar_resnet(runs: Runs) -> list[tuple[str, float, float, bool]]:
    return [
        ("auto: accuracy at 20 labels", at(runs, 20), 0.78, False),
        ("auto: labels to 82 %", reached(runs, "auto", 0.82).labels, 280, True),
        *beats_random(runs),
    ]


def beats_random(runs: Runs) -> list[tuple[str, float, float, bool]]:
    return [
        ("auto: mean accuracy, against random's", aulc(runs, "auto")[0], aulc(runs, "random")[0], False),
        (
            "auto: final accuracy, against random's",
            at(runs, int(runs.labels[-1])),
            at(runs, int(runs.labels[-1]), "random"),
            False,
        ),
    ]


SMALL, LARGE = Settings(batch=10, budget=300), Settings(batch=20, budget=500)
CASES = {
    "mnist": Case("mnist", "none", 10, LARGE, (0.95, 0.97), mnist),
    "digits": Case("digits", "none", 20, SMALL, (0.95,), digits(0.32)),
    "digits-duplicates": Case("digits", "duplicates", 20, SMALL, (0.95,), digits(0.35)),
    "digits-tail": Case("digits", "tail", 20, SMALL, (0.90,), digits(0.25)),
    "digits-wrong": Case("digits", "wrong", 20, SMALL, (0.90,), beats_random),
    "cifar_resnet": Case("cifar_resnet", "none", 10, Settings(batch=20, budget=400), (0.80, 0.82), cifar_resnet),
    "cifar_patches": Case("cifar_patches", "none", 10, LARGE, (0.40, 0.45), beats_random),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the archives")
    parser.add_argument("--only", default=",".join(CASES), help=f"comma-separated, of: {', '.join(CASES)}")
    parser.add_argument("--strategies", default=STRATEGIES)
    parser.add_argument("--seeds", type=int, help="instead of the number each case asks for")
    parser.add_argument("--pictures", type=Path, default=Path("docs/strategies"))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    available = sources(args.data)
    missed = 0
    for name in args.only.split(","):
        case = CASES[name]
        if case.source not in available:
            print(f"{name}: not measured, its archive is not in {args.data}")
            continue
        path = CACHE / "label_efficiency" / name / "runs.csv"
        source = stressed(available[case.source], case.stress)
        seeds = range(args.seeds or case.seeds)
        runs = gathered(simulate(source, args.strategies.split(","), seeds, case.settings, LiveHead(), path))
        lines, misses = report(runs, case)
        head = f"## {name}, {len(seeds)} seeds, batches of {case.settings.batch}; all labels: {runs.full:.4f}"
        text = "\n\n".join([head, table(runs, case.targets), "\n".join(f"- {line}" for line in lines)])
        print(f"\n{text}", flush=True)
        draw(runs, source(0).name, args.pictures / name)
        (args.pictures / f"{name}.md").write_text(text.replace("## ", "# ", 1) + "\n", encoding="utf-8")
        missed += misses
    return 1 if missed else 0


def report(runs: Runs, case: Case) -> tuple[list[str], int]:
    """The acceptance lines, and how many are missed. Without random or auto among the runs there are none."""
    if not {"auto", "random"} <= set(runs.accuracy):
        return [], 0
    lines = []
    missed = 0
    for sentence, value, limit, less in case.accept(runs):
        ok = value <= limit if less else value >= limit
        missed += not ok
        lines.append(
            f"{'ok' if ok else 'MISS'}: {sentence}: {value:.4g} ({'at most' if less else 'at least'} {limit:.4g})"
        )
    return lines, missed


if __name__ == "__main__":
    raise SystemExit(main())
