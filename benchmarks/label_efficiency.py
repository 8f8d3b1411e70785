"""How many labels each strategy needs, on digits, MNIST-10k, CIFAR-10 and kinds made of them: the tables and pictures of docs/strategies.md.

  python benchmarks/label_efficiency.py --data ../shared/data
  python benchmarks/label_efficiency.py --data ../shared/data --only mnist --strategies random,auto
  python benchmarks/label_efficiency.py --data ../shared/data --protocol live

The live protocol asks as the service does (`ml_backend.simulation.live_protocol`): all that is asked counts, held-out images
included. `--set-aside` adds the kinds that nothing was tuned on (`benchmarks.set_aside`).

Finished runs are kept in .benchmarks/label_efficiency and not done again, until the code that decides them changes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from benchmarks import set_aside
from benchmarks.strategy_data import CACHE, sources
from ml_backend.commands.simulate import stressed
from ml_backend.simulation.picture import draw
from ml_backend.simulation.replay import Live, Settings
from ml_backend.simulation.runs import simulate
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.simulation.summary import Runs, aulc, gathered, reached
from ml_backend.simulation.table import table
from ml_backend.strategies import STRATEGIES

ALL = (*(name for name in STRATEGIES if name != "auto"), "random+margin", "auto")
Line = tuple[str, float, float, bool]
"""A sentence, what came out, the limit, and whether less is better."""
Accept = Callable[[Runs], list[Line]]


@dataclass(frozen=True)
class Case:
    """Data, protocol, targets, and what is to be reached beside what is in every case."""

    source: str
    stress: str
    seeds: int
    settings: Settings
    targets: tuple[float, ...]
    accept: tuple[Accept, ...] = ()


def at(runs: Runs, labels: int, strategy: str = "auto") -> float:
    return float(runs.accuracy[strategy].mean(0)[runs.labels.tolist().index(labels)])


def within(target: float, labels: int) -> Accept:
    def lines(runs: Runs) -> list[Line]:
        return [(f"auto: labels to {target:.0%}", reached(runs, "auto", target).labels, labels, True)]

    return lines


def to_match_random(share: float) -> Accept:
    def lines(runs: Runs) -> list[Line]:
        return [("auto: labels to random's final accuracy, share", reached(runs, "auto", None).ratio, share, True)]

    return lines


def ends_like_margin(runs: Runs) -> list[Line]:
    if "margin" not in runs.accuracy:
        return []
    last = int(runs.labels[-1])
    return [("auto: final accuracy, against margin's", at(runs, last), at(runs, last, "margin"), False)]


def as_good_as_any(runs: Runs) -> list[Line]:
    """What is to hold in every case: near the best of the other rules, and above random at the end."""
    others = {name: aulc(runs, name)[0] for name in runs.accuracy if name != "auto"}
    best, last = max(others, key=others.__getitem__), int(runs.labels[-1])
    return [
        (f"auto: mean accuracy, against {best}'s less 0.5 points", aulc(runs, "auto")[0], others[best] - 0.005, False),
        ("auto: final accuracy, against random's", at(runs, last), at(runs, last, "random"), False),
    ]


SMALL, MEDIUM, LARGE = (
    Settings(batch=10, budget=300),
    Settings(batch=20, budget=400),
    Settings(batch=20, budget=500),
)
CASES = {
    "mnist": Case("mnist", "none", 10, LARGE, (0.95, 0.97), (within(0.95, 20), within(0.97, 60))),
    "digits": Case("digits", "none", 20, SMALL, (0.95,), (within(0.95, 70),)),
    "digits-duplicates": Case("digits", "duplicates", 20, SMALL, (0.95,)),
    "digits-tail": Case("digits", "tail", 20, SMALL, (0.90,), (to_match_random(0.22),)),
    "digits-wrong": Case("digits", "wrong", 20, SMALL, (0.90,), (ends_like_margin,)),
    "cifar_resnet": Case("cifar_resnet", "none", 10, MEDIUM, (0.80, 0.82), (within(0.82, 110),)),
    "cifar_patches": Case("cifar_patches", "none", 10, LARGE, (0.40, 0.45), (within(0.45, 260),)),
    "mnist_junk": Case("mnist_junk", "none", 10, LARGE, (0.95, 0.97)),
    "mnist_rare": Case("mnist_rare", "none", 10, LARGE, (0.95,)),
    "mnist_pairs": Case("mnist_pairs", "none", 10, Settings(batch=50, budget=600), (0.40,)),
}
SET_ASIDE = {
    "glyphs": Case("glyphs", "none", 10, Settings(batch=50, budget=1000), (0.50,)),
    "cifar_twins": Case("cifar_twins", "none", 10, MEDIUM, (0.70,)),
    "mnist_messy": Case("mnist_messy", "none", 10, LARGE, (0.90,)),
}


def live_cases(late: int) -> dict[str, Case]:
    """As the service asks. late: answers given while a model is trained; nought where people wait for it."""
    rules = Live(late=late)
    return {
        "mnist-live": Case("mnist", "none", 10, Settings(20, 120, live=rules), (0.95, 0.97), (within(0.95, 30),)),
        "digits-live": Case("digits", "none", 20, Settings(20, 120, live=rules), (0.93, 0.95), (within(0.93, 45),)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the archives")
    every = {**CASES, **SET_ASIDE, **live_cases(0)}
    parser.add_argument("--only", help=f"comma-separated, of: {', '.join(every)}")
    parser.add_argument("--protocol", choices=["pool", "live"], default="pool")
    parser.add_argument("--late", type=int, default=0, help="live: answers given while a model is trained (default: 0)")
    parser.add_argument("--set-aside", action="store_true", help="also the kinds that nothing was tuned on")
    parser.add_argument("--strategies", default=",".join(ALL))
    parser.add_argument("--seeds", type=int, help="instead of the number each case asks for")
    parser.add_argument("--pictures", type=Path, default=Path("docs/strategies"))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    cases = live_cases(args.late) if args.protocol == "live" else CASES | (SET_ASIDE if args.set_aside else {})
    available = sources(args.data) | (set_aside.sources(args.data) if args.set_aside else {})
    missed = 0
    chosen = args.only.split(",") if args.only else list(cases)
    if unknown := [name for name in chosen if name not in cases]:
        parser.error(f"{unknown[0]} is none of {', '.join(cases)}; others need --protocol live or --set-aside")
    for name in chosen:
        case = cases[name]
        if case.source not in available:
            print(f"{name}: not measured, its archive is not in {args.data}")
            continue
        path = CACHE / "label_efficiency" / name / "runs.csv"
        source = stressed(available[case.source], case.stress)
        seeds = range(args.seeds or case.seeds)
        runs = gathered(simulate(source, args.strategies.split(","), seeds, case.settings, LiveHead(), path))
        lines, misses = report(runs, case)
        head = f"## {name}, {len(seeds)} seeds, {protocol(case.settings)}; all labels: {runs.full:.4f}"
        text = "\n\n".join([head, table(runs, case.targets), "\n".join(f"- {line}" for line in lines)])
        print(f"\n{text}", flush=True)
        draw(runs, source(0).name, args.pictures / name)
        (args.pictures / f"{name}.md").write_text(text.replace("## ", "# ", 1) + "\n", encoding="utf-8")
        missed += misses
    return 1 if missed else 0


def protocol(settings: Settings) -> str:
    if settings.live is None:
        return f"batches of {settings.batch}"
    return f"as the service asks, {settings.live.late} answers given while a model is trained"


def report(runs: Runs, case: Case) -> tuple[list[str], int]:
    """The acceptance lines, and how many are missed. Without random or auto among the runs there are none."""
    if not {"auto", "random"} <= set(runs.accuracy):
        return [], 0
    lines = []
    missed = 0
    for sentence, value, limit, less in chain.from_iterable(each(runs) for each in (*case.accept, as_good_as_any)):
        ok = value <= limit if less else value >= limit
        missed += not ok
        lines.append(
            f"{'ok' if ok else 'MISS'}: {sentence}: {value:.4g} ({'at most' if less else 'at least'} {limit:.4g})"
        )
    return lines, missed


if __name__ == "__main__":
    raise SystemExit(main())
