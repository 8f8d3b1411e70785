"""What a GPU is good for: encoding, fine-tuning, the head, and a selection of a million. Runs on a CPU, smaller, and says so.

    python -m benchmarks.gpu [--data FOLDER] [--epochs 30] [--out FILE]

FOLDER: has cifar10.tar.gz (colour photos, 32 x 32); without it scikit-learn's digits are tuned on.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.encode import jpegs
from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, headless, new_network
from ml_backend.encoders.pipeline import encode_all
from ml_backend.images.decoding import decode
from ml_backend.learning.finetuning import finetune
from ml_backend.learning.training import train_head
from ml_backend.learning.tuning_run import Recipe
from ml_backend.records import Pool
from ml_backend.strategies import select

GPU = torch.cuda.is_available()
Set = tuple[list[Image.Image], NDArray[np.int64]]


def fresh_network(side: int, crop: int) -> NetworkEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network("resnet18"))
    return NetworkEncoder("resnet18", body, dim, Preprocessing(resize=side, crop=crop))


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if GPU:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def encoding(count: int) -> dict[str, float]:
    """Images a second of each stage alone and of all together: the slowest stage bounds the pipeline."""
    encoder, files = fresh_network(256, 224), jpegs(count, (500, 375))
    prepared = np.stack([encoder.prepare(decode(data, 256)) for data in files[: min(count, 128)]])
    decoded = seconds(lambda: [encoder.prepare(decode(data, 256)) for data in files[:32]]) / 32
    forward = seconds(lambda: encoder.forward(prepared)) / len(prepared)
    together = (
        seconds(lambda: encode_all(range(count), files.__getitem__, encoder, lambda _keys, _rows: None), 2) / count
    )
    cores = os.cpu_count() or 1
    return {
        "decode, one core": 1 / decoded,
        f"decode, {cores} cores if they scale": cores / decoded,
        "forward pass from host memory": 1 / forward,
        "files to vectors": 1 / together,
    }


def pictures(data: Path | None) -> tuple[str, Set, Set]:
    if data is None:
        bunch = load_digits()
        order = np.random.default_rng(0).permutation(len(bunch.images))
        images = [Image.fromarray((image * 15.9).astype(np.uint8)) for image in bunch.images[order]]
        return "digits", (images[:1297], bunch.target[order][:1297]), (images[1297:], bunch.target[order][1297:])
    sets: dict[str, Set] = {}
    with tarfile.open(data / "cifar10.tar.gz") as tar:
        raw = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")}  # type: ignore[union-attr]
    classes = sorted({name.split("/")[-2] for name in raw})
    for part in ("train", "test"):
        names = sorted(name for name in raw if name.split("/")[-3] == part)
        names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
        labels = np.array([classes.index(name.split("/")[-2]) for name in names])
        sets[part] = ([Image.open(io.BytesIO(raw[name])) for name in names], labels)
    return "CIFAR-10", sets["train"], sets["test"]


def finetuning(data: Path | None, epochs: int) -> dict[str, Any]:
    """Accuracy on the test images after a stated time, head refit included."""
    name, (images, labels), (test_images, test_labels) = pictures(data)
    if not GPU:
        images, labels, test_images, test_labels = images[:1000], labels[:1000], test_images[:500], test_labels[:500]
    encoder = fresh_network(32, 32)
    if GPU:  # for pictures this small, the first convolution keeps their size, as is usual for CIFAR
        body = encoder.module().get_submodule("body")
        body.conv1, body.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
        encoder = encoder.with_body(body)
    pixels = np.stack([encoder.prepare(image) for image in images])
    start = time.perf_counter()
    recipe = Recipe(
        epochs=epochs,
        batch_size=256 if GPU else 32,
        learning_rate=0.1,
        head_learning_rate=0.1,
        flip=name == "CIFAR-10",
        patience=epochs,
    )
    tuned = finetune(encoder, pixels, labels, tuple("0123456789"), seed=0, recipe=recipe)
    learned = np.concatenate([tuned.encoder.forward(pixels[i : i + 256]) for i in range(0, len(pixels), 256)])
    head = train_head(learned, labels, tuple("0123456789"), seed=0).head
    test = np.concatenate([tuned.encoder.encode(test_images[i : i + 256]) for i in range(0, len(test_images), 256)])
    accuracy = float((head.predict_proba(test).argmax(1) == test_labels).mean())
    return {
        "data": f"{name}, {len(images)} images, from random weights",
        "test accuracy": accuracy,
        "seconds": round(time.perf_counter() - start, 1),
        "held-out accuracy by epoch": [round(epoch.accuracy, 4) for epoch in tuned.history],
    }


def head() -> dict[str, float]:
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=5000)
    rows = (generator.standard_normal((5000, 512)) + generator.standard_normal((10, 512))[labels]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {
        "5,000 x 512, 10 classes, on the CPU": seconds(lambda: train_head(rows, labels, tuple("0123456789"), seed=0))
    }


def selection(count: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    features = np.empty((count, 512), np.float16)
    for start in range(0, count, 10_000):
        rows = generator.standard_normal((min(10_000, count - start), 512)).astype(np.float32)
        features[start : start + 10_000] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labelled = np.zeros(count, bool)
    labelled[:100] = True
    pool = Pool(
        features=features,
        labelled=labelled,
        labels=np.where(labelled, np.arange(count) % 10, -1),
        n_classes=10,
        ids=np.arange(count),
        probabilities=generator.dirichlet(np.ones(10), count).astype(np.float32),
    )
    return {
        f"{name}, 100 of {count:,} x 512": seconds(lambda: select(name, pool, 100, np.random.default_rng(0)), 1)  # noqa: B023
        for name in ("margin", "cluster_margin", "diversity")
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=30 if GPU else 3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device = torch.cuda.get_device_name() if GPU else f"no GPU here: CPU, {os.cpu_count()} cores, smaller sizes"
    print(f"device: {device}", flush=True)
    results: dict[str, Any] = {"device": device}
    for name, run in (
        ("encoding, images a second", lambda: encoding(4096 if GPU else 128)),
        ("head, seconds", head),
        ("selection, seconds", lambda: selection(1_000_000 if GPU else 100_000)),
        ("fine-tuning ResNet-18", lambda: finetuning(options.data, options.epochs)),
    ):
        results[name] = run()
        print(json.dumps({name: results[name]}, indent=2), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
