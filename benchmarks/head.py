"""Training the head against scikit-learn's LogisticRegressionCV, on the same rows, in one run.

python -m benchmarks.head [--data FOLDER]     FOLDER: has mnist10k.tar.gz; without it scikit-learn's digits are used
python -m benchmarks.head --classes 1000 --labels 50000 --images 60000     one training and one choice with many classes

The second draws vectors of 768 numbers around a centre for each class, a tenth of the labels held out, and prints the seconds
(of the clock, and of the processors, which others that are busy change less) and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import resource
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegressionCV

from ml_backend.encoders.patches import fit_patches
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.metrics import measured
from ml_backend.learning.neighbours import graph_of
from ml_backend.learning.record import FOLDS
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import TrainedHead, train_head
from ml_backend.records import Pool
from ml_backend.strategies import STRATEGIES, select

CLASSES = tuple("0123456789")
WIDTH, SPREAD = 768, 0.4
"""Of the vectors with many classes, and how far their centres lie from each other."""


def digits(data: Path | None) -> tuple[str, list[Image.Image], NDArray[np.int64], int]:
    """Name, images, truth, and how many of them are the test set (the first ones)."""
    if data is None:
        bunch = load_digits()
        order = np.random.default_rng(0).permutation(len(bunch.images))
        images = [Image.fromarray((image * 15.9).astype(np.uint8)) for image in bunch.images[order]]
        return "digits", images, bunch.target[order], 500
    with tarfile.open(data / "mnist10k.tar.gz") as tar:
        raw = {Path(m.name).name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]
    truth = {row["filename"]: int(row["label"]) for row in csv.DictReader(raw.pop("labels.csv").decode().splitlines())}
    names = np.array(sorted(truth))[np.random.default_rng(0).permutation(len(truth))]
    images = [Image.open(io.BytesIO(raw[Path(name).name])) for name in names]
    return "MNIST-10k", images, np.array([truth[name] for name in names]), 2000


def seconds_of(run: Callable[[], TrainedHead], repeats: int = 3) -> tuple[float, TrainedHead]:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return best, result


def many_classes(classes: int, labels: int, images: int, strategy: str) -> None:
    """A training with all that belongs to it, as a turn does it, and a choice."""
    rng = np.random.default_rng(0)
    truth = rng.integers(classes, size=images)
    features = around_centres(truth, classes, rng)
    at, names = np.sort(rng.choice(images, labels, replace=False)), [str(number) for number in range(classes)]
    apart = np.where(np.arange(labels) % 10 == 0, rng.integers(FOLDS, size=labels), -1)
    everywhere = np.arange(images)
    graph = graph_of(features, everywhere)
    with told(f"training, {classes:,} classes, {labels:,} labels of {images:,} images"):
        pool = Unlabelled(graph, features, everywhere, at)
        trained = train_head(features[at], truth[at], names, seed=0, pool=pool, apart=apart)
        held_out = np.flatnonzero(apart >= 0)
        answers = FoldHeads(trained.fold_heads).predict_proba(features[at[held_out]], apart[held_out].astype(np.uint64))
        found = measured(answers, truth[at[held_out]], names, 0)
    rest = np.setdiff1d(everywhere, at)[:5_000]
    right = (trained.head.predict_proba(features[rest]).argmax(1) == truth[rest]).mean()
    print(f"accuracy on {len(held_out):,} held-out labels {found['accuracy']:.3f}, on others {right:.3f}", flush=True)
    with told(f"choosing 20 by {strategy}"):
        known = np.isin(everywhere, at)
        probabilities = (trained.blind or trained.head).predict_proba(features)
        choice = Pool(
            features, known, np.where(known, truth, -1), classes, everywhere, probabilities, candidates=~known
        )
        select(strategy, choice, 20, rng)


def around_centres(truth: NDArray[np.int64], classes: int, rng: np.random.Generator) -> NDArray[np.float16]:
    """Unit rows, most of their variance in few directions, as that of networks is."""
    centres = (rng.standard_normal((classes, WIDTH)) * SPREAD).astype(np.float32)
    scale = (1 / np.sqrt(1 + np.arange(WIDTH) / 20)).astype(np.float32)
    features = np.empty((len(truth), WIDTH), np.float16)
    for start in range(0, len(truth), 5_000):
        part = truth[start : start + 5_000]
        rows = (centres[part] + rng.standard_normal((len(part), WIDTH), np.float32)) * scale
        features[start : start + 5_000] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return features


@contextmanager
def told(what: str) -> Iterator[None]:
    """Print the seconds of what is done inside, and the most memory of the process so far."""
    began, worked = time.perf_counter(), time.process_time()
    yield
    seconds, of_cores = time.perf_counter() - began, time.process_time() - worked
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    threads = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    print(f"{what}: {seconds:.1f} s ({of_cores:.1f} s of cores; {threads}); {most:.2f} GiB at the most", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--classes", type=int, help="instead: so many classes")
    parser.add_argument("--labels", type=int, default=400)
    parser.add_argument("--images", type=int, default=10_000, help="in the pool, the labelled ones among them")
    parser.add_argument("--strategy", default="auto", choices=list(STRATEGIES))
    options = parser.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if options.classes:
        many_classes(options.classes, options.labels, options.images, options.strategy)
        return 0
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=5000)
    rows = generator.standard_normal((5000, 512)) * 0.08 + generator.standard_normal((10, 512))[labels] * 0.02
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    seconds, trained = seconds_of(lambda: train_head(rows, labels, CLASSES, seed=0), repeats=5)
    print(f"5,000 x 512, 10 classes, cross-validation included: {seconds:.2f} s (at most 1);", end=" ")
    print(f"accuracy on folds {trained.report.accuracy:.3f}, penalty {trained.report.penalty:.0e}")

    name, images, truth, test = digits(options.data)
    features = fit_patches(images[test : test + 2000], seed=0).encode(images)
    for n in (200, 800, min(5000, len(images) - test)):
        picked = slice(test, test + n)
        ours, trained = seconds_of(lambda: train_head(features[picked], truth[picked], CLASSES, seed=0))  # noqa: B023
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            peer = LogisticRegressionCV(Cs=5, cv=max(2, min(5, int(np.bincount(truth[picked]).min()))), max_iter=300)
            peer.fit(features[picked], truth[picked])
            theirs = time.perf_counter() - start
        accuracy = (trained.head.predict_proba(features[:test]).argmax(1) == truth[:test]).mean()
        score = peer.score(features[:test], truth[:test])
        print(
            f"{name} patches, {n} labels: {ours:.3f} s, accuracy {accuracy:.4f}; LogisticRegressionCV {theirs:.2f} s, "
            f"{score:.4f}; {theirs / ours:.0f} times faster, {100 * (accuracy - score):+.2f} points"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
