"""Training the head against scikit-learn's LogisticRegressionCV, on the same rows, in one run.

python -m benchmarks.head [--data FOLDER]     FOLDER: has mnist10k.tar.gz; without it scikit-learn's digits are used
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegressionCV

from ml_backend.learning.patches import fit_patches
from ml_backend.learning.training import TrainedHead, train_head

CLASSES = tuple("0123456789")


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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args(argv)
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
