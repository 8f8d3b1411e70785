"""How often the forecast of the learning curve holds, and how near the arm "at random" comes to labels really drawn so.

  OMP_NUM_THREADS=1 nice python -m benchmarks.forecast --data ../shared/data
  OMP_NUM_THREADS=1 nice python -m benchmarks.forecast --data ../shared/data --only digits --seeds 2

Projects are labelled as the service asks (`ml_backend.simulation.live_protocol`). After each training what the service would show
is kept: how many of the held-out labels the fold heads get right, and what they say of all other held-out images, which the service
does not know yet. What is forecast at each training is compared with the accuracy that came, on those other images; they are a
hundred to a thousand, so of perfect 80 % ranges a few less would hold it. Finished runs
are kept in .benchmarks/forecast, until the code that decides them changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.strategy_data import CACHE, arguments, sources
from ml_backend.insight.forecast import Measured, forecast, too_early
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.record import FOLDS, image_keys
from ml_backend.learning.training import train_head
from ml_backend.simulation.code_version import code_digest
from ml_backend.simulation.data import STRESS, Data
from ml_backend.simulation.live_protocol import LiveProject
from ml_backend.simulation.replay import Live, Settings, judged
from ml_backend.simulation.runs import data_digest
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.strategies import STRATEGIES

CASES = {
    "digits": ("digits", "none", 10),
    "digits-tail": ("digits", "tail", 10),
    "digits-wrong": ("digits", "wrong", 10),
    "mnist": ("mnist", "none", 5),
    "mnist_pairs": ("mnist_pairs", "none", 3),
    "cifar_patches": ("cifar_patches", "none", 5),
    "cifar_resnet": ("cifar_resnet", "none", 5),
}
"""Data, stress, runs of each strategy."""
STEP, BUDGET = 20, 600
AHEAD: dict[str, Callable[[int], int]] = {
    "+100": lambda labels: labels + 100,
    "+500": lambda labels: labels + 500,
    "x2": lambda labels: 2 * labels,
}
"""Of how many labels it is asked."""
NEAR, FEWEST = 10, 50
"""A training so many labels beside that counts as it; and held-out images that tell how good a version really is."""


@dataclass(frozen=True)
class Look:
    """After one training. n, right: held-out labels that measure, and right answers of the fold heads.

    slice: of every held-out image in its order, labelled or not, "1" where the fold heads are right; the first n are those measured.
    fresh: accuracy of the served head on the test set, whose classes may be in other shares than the pool's.
    random_labels, random_right: as the service's arm "at random", measured on the same held-out labels.
    """

    labels: int
    n: int
    right: int
    slice: str
    fresh: float
    random_labels: int
    random_right: int


def looks(data: Data, strategy: str, seed: int, train: LiveHead) -> Iterator[Look]:
    live = Live(train_after=STEP, late=0)
    project = LiveProject(data, seed, Settings(batch=STEP, budget=BUDGET, live=live), live)
    answered = project.answer(project.turn(strategy, None).queue, STEP)
    while answered < BUDGET:
        turn = project.turn(strategy, train)
        if turn.head:
            yield look(project, train, judged(turn.head, data)[0], seed)
        given = project.answer(turn.queue, STEP)
        if not given and not project.rows.waiting.any():
            return
        answered += given


def look(project: LiveProject, train: LiveHead, fresh: float, seed: int) -> Look:
    corpus = project.corpus
    held_out = corpus.examples(held_out=True)
    images = corpus.images(held_out)

    def right(heads: FoldHeads) -> int:
        return int(held_out.right(heads.predict_proba(held_out.features, images)).sum())

    heads = FoldHeads(train.last.fold_heads)
    shown = right(heads)
    rows = project.rows
    order = np.flatnonzero(rows.holdout)
    order = order[np.argsort(rows.places[order], kind="stable")]
    said = heads.predict_proba(project.data.features[order], image_keys(rows.hashes[order])).argmax(1)
    every = "".join("1" if each else "0" for each in said == project.data.labels[order])
    fold, n = corpus.folds(held_out), len(held_out.tasks)
    drawn, learned = 0, 0
    if n >= 2 and len(np.unique(held_out.targets)) > 1:  # as `steps.random_arm` does
        pool = type(train.pool)(train.pool.graph, train.pool.features, train.pool.places, held_out.tasks)
        trained = train_head(held_out.features, held_out.targets, corpus.classes, seed=seed, pool=pool, apart=fold)
        drawn = right(FoldHeads(trained.fold_heads))
        learned = n - round(sum(int((fold == each).sum()) ** 2 for each in range(5)) / n)
    return Look(int(project.rows.labelled.sum()), n, shown, every, fresh, learned, drawn)


def finished(name: str, strategy: str, seed: int, data: Data) -> list[Look]:
    """The looks of one run; read back where the same code has done it before."""
    code = code_digest(LiveProject.__module__, LiveHead.__module__, STRATEGIES[strategy].__module__)
    key = f"{name}-{strategy}-{seed}-{STEP}-{BUDGET}-{data_digest(data)[:8]}-{code[:8]}"
    path = CACHE / "forecast" / f"{key}.json"
    if not path.exists():
        found = [asdict(each) for each in looks(data, strategy, seed, LiveHead())]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    return [Look(**each) for each in json.loads(path.read_text())]


@dataclass(frozen=True)
class Case:
    """A forecast and what came of it: the accuracy then, on the held-out images that measured nothing when it was made."""

    ahead: str
    low: float
    guess: float
    high: float
    shown: float
    came: float


def cases(found: Sequence[Look]) -> Iterator[Case]:
    """Of one run, at each training."""
    points = [Measured(look.labels, look.n, look.right) for look in found if look.n]
    at = {look.labels: look for look in found}
    for place, last in enumerate(points):
        if too_early(points[: place + 1]):
            continue
        for name, ahead in AHEAD.items():
            near = min(at, key=lambda labels: abs(labels - ahead(last.labels)))
            others = at[near].slice[last.n :]
            if abs(near - ahead(last.labels)) > NEAR or len(others) < FEWEST:
                continue
            told = forecast(points[: place + 1], [last.labels, near])[1]
            came = others.count("1") / len(others)
            yield Case(name, told.low, told.accuracy, told.high, last.right / last.n, came)


def line(name: str, strategy: str, ahead: str, found: Sequence[Case]) -> str:
    inside = np.mean([case.low <= case.came <= case.high for case in found])
    off, still = (np.mean([abs(getattr(c, what) - c.came) for c in found]) for what in ("guess", "shown"))
    width = np.mean([case.high - case.low for case in found])
    figures = (f"{100 * value:.1f}" for value in (off, still, width))
    return "| " + " | ".join([name, strategy, ahead, str(len(found)), f"{inside:.0%}", *figures]) + " |"


def beside_random(runs: Mapping[str, Sequence[Sequence[Look]]]) -> str:
    """The arm "at random" of every project, against the same project labelled at random: as many labels learned from, the same images."""
    gaps: list[float] = []
    for chosen, drawn in zip(runs.get("auto", ()), runs.get("random", ()), strict=False):
        own = []
        learned = np.log([each.labels - each.n / FOLDS for each in drawn])
        for look in chosen:
            if look.random_labels and learned[0] <= np.log(look.random_labels) <= learned[-1]:
                right = [each.slice[: look.n].count("1") / look.n for each in drawn]
                own.append(look.random_right / look.n - float(np.interp(np.log(look.random_labels), learned, right)))
        gaps += [float(np.mean(own))] if own else []
    if not gaps:
        return "not known"
    error = np.std(gaps) / np.sqrt(max(len(gaps) - 1, 1))
    return f"{100 * np.mean(gaps):+.1f} ± {100 * error:.1f} points ({len(gaps)} projects)"


def main() -> int:
    args = arguments(__doc__, CASES)
    available = sources(args.data)
    everything: list[Case] = []
    print("| data | strategy | labels | forecasts | in the range | guess off by | no change off by | width, points |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.only.split(","):
        source, stress, seeds = CASES[name]
        if source not in available:
            print(f"{name}: not measured, its archive is not in {args.data}")
            continue
        runs: dict[str, list[list[Look]]] = {}
        for strategy in args.strategies.split(","):
            of = range(args.seeds or seeds)
            runs[strategy] = [finished(name, strategy, s, STRESS[stress](available[source](s), s)) for s in of]
            found = [case for run in runs[strategy] for case in cases(run)]
            everything += found
            for ahead in AHEAD:
                if these := [case for case in found if case.ahead == ahead]:
                    print(line(name, strategy, ahead, these), flush=True)
        print(f"{name}: the arm at random is off by {beside_random(runs)}", flush=True)
    if everything:
        print(line("all", "", "", everything))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
