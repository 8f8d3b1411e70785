"""Whether the accuracy that is shown is the accuracy there is: measured on held-out labels, against a fresh test set.

  OMP_NUM_THREADS=1 nice python -m benchmarks.held_out --data ../shared/data
  OMP_NUM_THREADS=1 nice python -m benchmarks.held_out --data ../shared/data --few

Projects are labelled to 30 %, 60 % and 90 % by an oracle; with --few to 60, 100 and 200 labels, 20 at a time. Ledger, split,
strategy, head and fold heads are the product's own, only Label Studio and the reading of images are left out. Each run draws
pool and test set anew. ECE: expected calibration error of the served head on the fresh test set, 15 bins. Finished runs are
kept in .benchmarks/held_out and not done again.

  python -m benchmarks.held_out --only "digits, 25 % blends" --seeds 50 --leave open --of 0.25

has whoever labels leave (or skip) a quarter of the blends among the held-out images. "covers" is then told of the interval
shown, and "in words" of the one that counts those without a label as wrong and as right.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmarks.strategy_data import CACHE, sources
from ml_backend.labelstudio.config import label_config
from ml_backend.learning.evaluation import wilson_interval
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.head import Head
from ml_backend.learning.neighbours import graph_of
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import TrainedHead, train_head
from ml_backend.predictor import LoadedModel
from ml_backend.records import Annotation, Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.simulation.data import Data, Source, unit_rows
from ml_backend.steps.choose import choose
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.steps.encode_images import places
from ml_backend.steps.hold_out import reach, reserve

POINTS = (0.3, 0.6, 0.9)
FEW = (60, 100, 200)
FEW_BATCH = 20
ENCODER = "held_out"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CASES = {
    "digits, 25 % blends": (300, 0.1),
    "mnist": (30, 0.15),
    "cifar_resnet": (16, 0.15),
    "cifar_patches": (16, 0.15),
}
"""Data -> runs of each strategy, and the share of the pool in a batch. Small slices need many runs."""
POOLS = {"mnist": 4_000, "cifar_resnet": 5_000, "cifar_patches": 5_000}
"""Of the images there are. The others are to test on: a test set of the slice's own size would err as much as the slice."""
BIAS, COVERED, ECE = (-0.015, 0.003), 0.93, 0.04
"""What is asked of a cell: the mean of shown - fresh, how often the interval holds what is fresh, and the mean ECE at ECE_AT."""
ECE_AT, BINS = 200, 15
DIGITS, BLENDED = 700, 175


@dataclass(frozen=True)
class Left:
    """What becomes of the held-out images that are blends: `share` of them are left "open", or "skipped"; or none."""

    how: str = ""
    share: float = 0.0

    def drawn(self, images: int, seed: int) -> frozenset[int]:
        """Ids of the images that get no label where they are held out."""
        blends = np.arange(images - BLENDED, images) + 1
        drawn = np.random.default_rng([seed, 8]).random(BLENDED) < self.share
        return frozenset(blends[drawn].tolist() if self.how else ())

    def __str__(self) -> str:
        return f", {self.share:.0%} of those held out {self.how}" if self.how else ""


@dataclass(frozen=True)
class Measured:
    """One point of one run: the accuracy shown (on n labels, with its interval), and that on the fresh test set."""

    data: str
    strategy: str
    seed: int
    point: int
    labels: int
    n: int
    shown: float
    low: float
    high: float
    fresh: float
    ece: float
    undecided: int
    worst: float
    best: float


def blended_digits(seed: int) -> Data:
    """A quarter of the images are means of two of different classes, labelled as one of the two at random.

    No image of the pool, nor a part of one, is in the test set, which has each of its images three times as it is and
    once in a blend: the same mixture, with less of an error of its own. Blends are the last BLENDED of the pool.
    """
    rng = np.random.default_rng([seed, 5])
    pixels, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    plain, blended, test = np.split(order, [525, 700])
    images, known = _blends(pixels, labels, blended, order[700:875], rng)
    blends, told = _blends(pixels, labels, test[175:], rng.permutation(test[175:]), rng)
    test = test[175:]
    return Data(
        "digits, 25 % blends",
        tuple("0123456789"),
        unit_rows(np.concatenate([pixels[plain], images])),
        np.concatenate([labels[plain], known]).astype(np.int64),
        unit_rows(np.concatenate([pixels[test]] * 3 + [blends])),
        np.concatenate([labels[test]] * 3 + [told]).astype(np.int64),
    )


def _blends(
    pixels: NDArray[Any], labels: NDArray[Any], first: NDArray[Any], second: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mean of each of `first` with one of `second` of another class, each taken once; and the label it is given."""
    second = second.copy()
    while len(same := np.flatnonzero(labels[first] == labels[second])):
        other = rng.integers(len(second), size=len(same))
        for i, j in zip(same, other, strict=True):
            second[i], second[j] = second[j], second[i]
    told = np.where(rng.random(len(first)) < 0.5, labels[first], labels[second])
    return (pixels[first] + pixels[second]) / 2, told


def redrawn(source: Source) -> Source:
    """Pool and test set drawn anew from both by the seed."""
    data = source(0)
    features = np.concatenate([data.features, data.test_features])
    labels = np.concatenate([data.labels, data.test_labels])

    def draw(seed: int) -> Data:
        order = np.random.default_rng([seed, 6]).permutation(len(labels))
        pool, test = order[: POOLS[data.name]], order[POOLS[data.name] :]
        return replace(
            data,
            features=features[pool],
            labels=labels[pool],
            test_features=features[test],
            test_labels=labels[test],
        )

    return draw


class Run:
    """One project, labelled by an oracle a batch at a time."""

    def __init__(self, services: Services, data: Data, seed: int, left: Left) -> None:
        self.services, self.data, self.left = services, data, left
        self.without = left.drawn(len(data.labels), seed)
        self.project = services.registry.register("http://localhost:8080", 1, label_config(data.classes), created=None)
        ids = range(1, len(data.labels) + 1)
        hashes = [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in ids]
        services.ledger.reconcile(self.project, [(_task(i), []) for i in ids], full=True)
        services.ledger.set_content_hash(self.project, dict(zip(ids, hashes, strict=True)))
        services.features.append(ENCODER, hashes, data.features)
        self.encoder = cast("Any", SimpleNamespace(id=ENCODER))
        self.graph = graph_of(data.features, np.arange(len(data.labels)))

    def points(self, strategy: str, seed: int, points: Sequence[int]) -> Iterator[Measured]:
        """Label on to the last of these numbers of labels; the accuracy at each."""
        model: LoadedModel | None = None
        due, number = list(points), 0
        while due:
            corpus = self._corpus()
            labels = int(corpus.rows.labelled.sum())
            examples = corpus.all_examples
            if len(np.unique(examples.targets)) > 1:
                number += 1
                trained = self._trained(corpus, examples, seed)
                model = LoadedModel(number, self.encoder, trained.head, trained.blind)
                if labels >= due[0]:
                    held_out = corpus.examples(held_out=True)
                    heads = FoldHeads(trained.fold_heads or (trained.head,))
                    right = held_out.right(heads.predict_proba(held_out.features, corpus.images(held_out)))
                    yield Measured(
                        f"{self.data.name}{self.left}", strategy, seed, due.pop(0), labels, len(right), *_shown(right),
                        *self._fresh(trained.head), held_out.undecided, *_in_words(right, held_out.undecided),
                    )  # fmt: skip
            if due:
                round_ = choose(self.project, corpus, model, self.services.ledger, self.services.settings)
                self._answer(self.services.ledger.queries(round_))

    def _trained(self, corpus: Corpus, examples: Examples, seed: int) -> TrainedHead:
        """As the service does it; task numbers are places in the graph as well."""
        pool = Unlabelled(self.graph, corpus.matrix, corpus.at, examples.tasks)
        fold = corpus.folds(examples)
        return train_head(examples.features, examples.targets, self.data.classes, seed=seed, pool=pool, apart=fold)

    def _fresh(self, head: Head) -> tuple[float, float]:
        """Accuracy and ECE on the fresh test set."""
        probabilities = head.predict_proba(self.data.test_features)
        right, confidence = probabilities.argmax(1) == self.data.test_labels, probabilities.max(1)
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
        return float(right.mean()), float(np.abs(gaps).sum() / len(right))

    def _corpus(self) -> Corpus:
        self.project = reserve(self.project, self.services.ledger, self.services.versions, self.services.settings)
        rows, features = self.services.ledger.pool(self.project), self.services.features
        at = places(features, self.encoder.id, rows.hashes)
        corpus = Corpus(rows, at, features.matrix(ENCODER), self.encoder, self.data.classes, multiple=False)
        reached = reach(self.project, corpus, self.services.ledger, self.services.settings)
        assert reached is not None
        return reached

    def _answer(self, queries: Sequence[Query]) -> None:
        left = {q.task_id for q in queries if q.arm == "holdout" and q.task_id in self.without}

        def annotation(i: int) -> Annotation:
            labels = () if i in left else (self.data.classes[self.data.labels[i - 1]],)
            return Annotation(
                i, i, labels, was_cancelled=i in left, ground_truth=False, annotator=1, created_at=NOW, updated_at=NOW
            )

        given = [q.task_id for q in queries if self.left.how == "skipped" or q.task_id not in left]
        self.services.ledger.reconcile(self.project, [(_task(i), [annotation(i)]) for i in given], full=False)


def _task(number: int) -> Task:
    return Task(number, f"/{number}.png", {}, NOW)


def _shown(right: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Accuracy and its interval, as a version is given them."""
    return float(right.mean()) if len(right) else math.nan, *wilson_interval(int(right.sum()), len(right))


def _in_words(right: NDArray[np.bool_], undecided: int) -> tuple[float, float]:
    """The ends of the interval where the model is wrong, and right, on what has no label."""
    correct, n = int(right.sum()), len(right) + undecided
    return wilson_interval(correct, n)[0], wilson_interval(correct + undecided, n)[1]


def run(data: Data, strategy: str, seed: int, batch: int, points: Sequence[int], left: Left) -> list[Measured]:
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), label_studio_api_key="k", seed=seed, batch_size=batch)
        settings = settings.model_copy(update={"strategy": strategy})
        services = Services.open(settings)
        try:
            return list(Run(services, data, seed, left).points(strategy, seed, points))
        finally:
            services.database.close()


def table(measured: Sequence[Measured]) -> tuple[str, int]:
    """A line a cell, and how many cells miss."""
    head = [
        "data",
        "strategy",
        "labelled",
        "runs",
        "n",
        "fresh",
        "shown - fresh, points",
        "interval covers",
        "in words",
        "worst run",
        "ECE, worst run",
        "",
    ]
    lines, missed = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)], 0
    for key in sorted({(m.data, m.strategy, m.point) for m in measured}):
        cell = [m for m in measured if (m.data, m.strategy, m.point) == key]
        off = np.array([m.shown - m.fresh for m in cell if m.n])
        covers = float(np.mean([m.low <= m.fresh <= m.high for m in cell]))
        in_words = float(np.mean([m.worst <= m.fresh <= m.best for m in cell]))
        error = off.std(ddof=1) / np.sqrt(len(off)) if len(off) > 1 else float("nan")
        ece = np.array([m.ece for m in cell])
        fine = BIAS[0] <= off.mean() <= BIAS[1] and covers >= COVERED and (key[2] != ECE_AT or ece.mean() <= ECE)
        missed += not fine
        n, fresh = np.mean([m.n for m in cell]), np.mean([m.fresh for m in cell])
        worst = off[np.abs(off).argmax()]
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {len(cell)} | {n:.0f} | {fresh:.1%} | {100 * off.mean():+.2f} ± "
            f"{100 * error:.2f} | {covers:.1%} | {in_words:.1%} | {100 * worst:+.1f} | {ece.mean():.1%}, {ece.max():.1%} | "
            f"{'ok' if fine else 'MISS'} |"
        )
    return "\n".join(lines), missed


def read(path: Path) -> list[Measured]:
    if not path.exists():
        return []
    kinds = {"data": str, "strategy": str, "seed": int, "point": int, "labels": int, "n": int, "undecided": int}
    with path.open(newline="") as file:
        rows = [
            Measured(**{f.name: kinds.get(f.name, float)(row[f.name]) for f in fields(Measured)})
            for row in csv.DictReader(file)
        ]
    return list({(m.data, m.strategy, m.seed, m.point): m for m in rows}.values())  # two processes may do the same run


def append(path: Path, measured: Sequence[Measured]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Measured)])
        if new:
            writer.writeheader()
        writer.writerows(asdict(m) for m in measured)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "; ".join(CASES).replace("%", "%%")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the archives")
    parser.add_argument("--only", default=";".join(CASES), help=f"semicolon-separated, of: {names}")
    parser.add_argument("--strategies", default="auto,margin")
    parser.add_argument("--few", action="store_true", help="at the first 200 labels")
    parser.add_argument("--seeds", type=int, help="instead of the number each case asks for")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with, for several processes at a time")
    parser.add_argument(
        "--leave", choices=["open", "skipped"], help="what becomes of blends that are held out; digits only"
    )
    parser.add_argument("--of", type=float, default=0.25, help="the share of those; the others are labelled")
    args = parser.parse_args()
    left = Left(args.leave or "", args.of)
    if args.leave and any(not name.startswith("digits") for name in args.only.split(";")):
        parser.error("--leave is for the digits alone: of the others nobody knows which are hard")
    torch.set_num_threads(1)
    path = CACHE / "held_out" / ("few.csv" if args.few else "cross_fitted.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    available = sources(args.data)
    for name in args.only.split(";"):
        seeds, share = CASES[name]
        size = POOLS.get(name, DIGITS)
        batch, points = math.ceil(size * share), [math.ceil(size * point) for point in POINTS]
        if args.few:
            batch, points = FEW_BATCH, list(FEW)
        if name not in available and not name.startswith("digits"):
            print(f"{name}: not measured, its archive is not in {args.data}")
            continue
        source = blended_digits if name.startswith("digits") else redrawn(available[name])
        for seed in range(args.first, args.seeds or seeds):
            done = {(m.data, m.strategy, m.seed) for m in read(path)}
            wanted = [s for s in args.strategies.split(",") if (f"{name}{left}", s, seed) not in done]
            for strategy in wanted:
                append(path, run(source(seed), strategy, seed, batch, points, left))
    text, missed = table(read(path))
    print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
