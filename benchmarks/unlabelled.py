"""What the unlabelled teach the head, on the same labels, and what that costs.

python -m benchmarks.unlabelled --data ../shared/data       accuracy of the head with and without them
python -m benchmarks.unlabelled --rows 50000 --labels 1000  seconds of the graph, of new images and of a training
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.strategy_data import sources
from ml_backend.learning.neighbours import graph_of
from ml_backend.learning.record import FOLDS
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import train_head
from ml_backend.simulation.data import STRESS, Data

SIZES = (20, 60, 120, 240)
WIDTH, CLASSES, NEW = 512, 10, 1_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the archives")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="of random vectors, 512 numbers each")
    parser.add_argument("--labels", type=int, default=1_000)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if args.rows:
        costs(args.rows, args.labels)
    else:
        for name, source in sources(args.data or Path()).items():
            for stress in ("none", "tail", "wrong"):
                print(name, stress, gains([STRESS[stress](source(seed), seed) for seed in range(args.seeds)]))
    return 0


def gains(runs: list[Data]) -> str:
    """Accuracy with labels drawn at random: of the labels alone -> with the unlabelled."""
    right = np.zeros((len(runs), len(SIZES), 2))
    for seed, data in enumerate(runs):
        everywhere = np.arange(len(data.features))
        graph = graph_of(data.features, everywhere)
        for row, size in enumerate(SIZES):
            at = np.sort(np.random.default_rng(seed).choice(everywhere, size, replace=False))
            for column, pool in enumerate((None, Unlabelled(graph, data.features, everywhere, at))):
                head = train_head(data.features[at], data.labels[at], data.classes, seed=seed, pool=pool).head
                right[seed, row, column] = (head.predict_proba(data.test_features).argmax(1) == data.test_labels).mean()
    parts = [f"{n} labels: {alone:.3f} -> {both:.3f}" for n, (alone, both) in zip(SIZES, right.mean(0), strict=True)]
    return ", ".join(parts)


def costs(rows: int, labels: int) -> None:
    """Seconds and memory with random vectors around `CLASSES` centres."""
    rng = np.random.default_rng(0)
    truth = rng.integers(CLASSES, size=rows)
    centres = rng.standard_normal((CLASSES, WIDTH), np.float32)
    features = np.empty((rows, WIDTH), np.float16)
    for start in range(0, rows, 10_000):
        part = centres[truth[start : start + 10_000]] + 2 * rng.standard_normal(
            (len(truth[start : start + 10_000]), WIDTH), np.float32
        )
        features[start : start + 10_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    before = peak()
    everywhere = np.arange(rows)
    begin = time.perf_counter()
    graph = graph_of(features, everywhere[:-NEW])
    print(f"graph of {rows - NEW:,} x {WIDTH}: {time.perf_counter() - begin:.1f} s", flush=True)
    begin = time.perf_counter()
    graph = graph.extended(features, everywhere)
    print(f"{NEW:,} more: {time.perf_counter() - begin:.2f} s", flush=True)
    at = np.sort(rng.choice(rows, labels, replace=False))
    apart = np.where(np.arange(labels) % 10 == 0, rng.integers(FOLDS, size=labels), -1)
    for turn in ("first", "second", "third"):
        begin = time.perf_counter()
        pool = Unlabelled(graph, features, everywhere, at)
        names = [str(c) for c in range(CLASSES)]
        trained = train_head(features[at], truth[at], names, seed=0, pool=pool, apart=apart)
        seconds = time.perf_counter() - begin
        print(
            f"{turn} training, {labels:,} labels: {seconds:.2f} s, by folds {trained.report.accuracy:.3f}", flush=True
        )
    print(f"memory beside the vectors: {(peak() - before) / 1e6:.0f} MB more at the peak")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    raise SystemExit(main())
