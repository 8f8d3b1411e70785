"""MNIST-10k and CIFAR-10 as features, encoded once and kept in `.benchmarks/`, and harder kinds made from MNIST."""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from ml_backend.encoders.patches import fit_patches
from ml_backend.encoders.vision import torchvision
from ml_backend.simulation.data import Data, Source, digits, unit_rows

CACHE = Path(__file__).resolve().parent.parent / ".benchmarks"
IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIT_IMAGES, PATCHES_POOL, PATCHES_TEST = 2000, 10_000, 2000
JUNK = 889
"""A tenth of MNIST's pool with them."""
RARE = 0.02
PAIRS_POOL, PAIRS_TEST, PAIRS_SLOPE = 4000, 2000, 0.7


def arguments(doc: str | None, cases: Iterable[str]) -> argparse.Namespace:
    """What a benchmark of strategies is asked for: data, only, strategies, seeds. Sets torch's threads: two, or OMP_NUM_THREADS."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the archives")
    parser.add_argument("--only", default=",".join(cases), help=f"comma-separated, of: {', '.join(cases)}")
    parser.add_argument("--strategies", default="random,auto")
    parser.add_argument("--seeds", type=int, help="instead of the number of each case")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    return parser.parse_args()


def sources(folder: Path) -> dict[str, Source]:
    """Name -> source. `folder` holds the archives; what it does not have is left out."""
    found: dict[str, Source] = {"digits": digits}
    archives = {"mnist": folder / "mnist10k.tar.gz", "cifar_patches": folder / "cifar10.tar.gz"}
    makers = {"mnist": mnist, "cifar_patches": cifar_patches}
    found |= {name: fixed(name, makers[name], path) for name, path in archives.items() if path.exists()}
    weights = folder / "resnet18_cifar10a.safetensors"
    if weights.exists() and archives["cifar_patches"].exists():
        found["cifar_resnet"] = fixed("cifar_resnet", cifar_resnet, archives["cifar_patches"], weights)
    if "mnist" in found:
        found |= {
            "mnist_rare": from_source(found["mnist"], rare_digit),
            "mnist_pairs": from_source(found["mnist"], pairs),
        }
    if "mnist" in found and "cifar_patches" in found:
        found["mnist_junk"] = fixed("mnist_junk", mnist_junk, *archives.values())
    return found


def from_source(source: Source, make: Callable[[Data, int], Data]) -> Source:
    return lambda seed: make(source(seed), seed)


def fixed(name: str, make: Callable[..., Data], *paths: Path) -> Source:
    """A source whose split does not depend on the seed, made at the first call and read from the cache afterwards."""

    def source(seed: int) -> Data:
        cached = CACHE / f"{name}.npz"
        if not cached.exists():
            data = make(*paths)
            CACHE.mkdir(exist_ok=True)
            arrays = {k: getattr(data, k) for k in ("features", "labels", "test_features", "test_labels")}
            np.savez(cached, classes=np.array(data.classes), **arrays)
        with np.load(cached) as stored:
            arrays = {k: stored[k] for k in ("features", "labels", "test_features", "test_labels")}
            return Data(name, tuple(stored["classes"].tolist()), **arrays)

    return source


def mnist(path: Path) -> Data:
    """`permutation(10000)` of generator 0 over the files in name order: 2,000 to test on, 8,000 in the pool."""
    images, labels = mnist_images(path)
    order = np.random.default_rng(0).permutation(len(images))
    test, pool = order[:2000], order[2000:]
    encoder = fit_patches([images[i] for i in pool[:FIT_IMAGES]], seed=0)
    features = unit_rows(encoder.encode(images))
    return Data("mnist", tuple("0123456789"), features[pool], labels[pool], features[test], labels[test])


def mnist_images(path: Path) -> tuple[list[Image.Image], NDArray[np.int64]]:
    files = dict(members(path))
    truth = {
        row["filename"]: int(row["label"]) for row in csv.DictReader(io.StringIO(files["mnist10k/labels.csv"].decode()))
    }
    names = sorted(truth)
    images: list[Image.Image] = [Image.open(io.BytesIO(files[f"mnist10k/images/{name}"])) for name in names]
    return images, np.array([truth[name] for name in names])


def mnist_junk(digits_path: Path, photos_path: Path) -> Data:
    """MNIST, and a tenth of the pool are photos of CIFAR-10, grey and as small, with random labels; none in the test set."""
    images, _ = mnist_images(digits_path)
    data = mnist(digits_path)
    rng = np.random.default_rng(0)
    pool = rng.permutation(len(images))[2000:]
    encoder = fit_patches([images[i] for i in pool[:FIT_IMAGES]], seed=0)
    photos = cifar(photos_path)[0]
    junk = [Image.fromarray(photos[i]).convert("L").resize((28, 28)) for i in rng.permutation(len(photos))[:JUNK]]
    features = np.concatenate([data.features, unit_rows(encoder.encode(junk))])
    labels = np.concatenate([data.labels, rng.integers(len(data.classes), size=JUNK)])
    return Data("mnist_junk", data.classes, features, labels, data.test_features, data.test_labels)


def rare_digit(data: Data, seed: int) -> Data:
    """Two classes, 98 : 2: a digit, another one for each seed, among all others; the test set has as many of both."""
    rng, digit = np.random.default_rng([seed, 5]), seed % 10

    def kept(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
        inside, outside = np.flatnonzero(labels == digit), np.flatnonzero(labels != digit)
        few = min(len(inside), round(len(outside) * share / (1 - share)))
        many = min(len(outside), round(few * (1 - share) / share))
        chosen = rng.choice(inside, few, replace=False), rng.choice(outside, many, replace=False)
        return np.sort(np.concatenate(chosen))

    pool, test = kept(data.labels, RARE), kept(data.test_labels, 0.5)
    return Data(
        "mnist_rare",
        ("others", "the digit"),
        data.features[pool],
        (data.labels[pool] == digit).astype(np.int64),
        data.test_features[test],
        (data.test_labels[test] == digit).astype(np.int64),
    )


def pairs(data: Data, seed: int) -> Data:
    """Two digits side by side, 100 classes; the i-th commonest is as likely as i ** -0.7, in the test set all are alike."""
    rng = np.random.default_rng([seed, 6])
    ranked = np.arange(1, 101) ** -PAIRS_SLOPE
    shares = np.asarray(rng.permutation(ranked / ranked.sum()), dtype=np.float64)

    def drawn(
        features: NDArray[np.floating[Any]], labels: NDArray[np.int64], count: int, shares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        classes = rng.choice(100, count, p=shares)
        members = [np.flatnonzero(labels == digit) for digit in range(10)]
        left, right = (np.array([rng.choice(members[digit]) for digit in half]) for half in divmod(classes, 10))
        return unit_rows(np.concatenate([features[left], features[right]], axis=1)), classes

    pool = drawn(data.features, data.labels, PAIRS_POOL, shares)
    test = drawn(data.test_features, data.test_labels, PAIRS_TEST, np.full(100, 0.01))
    return Data("mnist_pairs", tuple(f"{number:02d}" for number in range(100)), *pool, *test)


def cifar_patches(path: Path) -> Data:
    """10,000 images of half B and 2,000 test images, drawn by generator 0, under `patches` fitted on the pool."""
    images, labels, test_images, test_labels, classes = cifar(path)
    rng = np.random.default_rng(0)
    pool, test = rng.permutation(len(images))[:PATCHES_POOL], rng.permutation(len(test_images))[:PATCHES_TEST]
    pictures = [Image.fromarray(images[i]) for i in pool]
    encoder = fit_patches(pictures[:FIT_IMAGES], seed=0)
    features = unit_rows(encoder.encode(pictures))
    test_features = unit_rows(encoder.encode([Image.fromarray(test_images[i]) for i in test]))
    return Data("cifar_patches", classes, features, labels[pool], test_features, test_labels[test])


def cifar_resnet(path: Path, weights: Path) -> Data:
    """Half B (odd file numbers) and the test images under a ResNet-18 that was trained on half A, 64 x 64 bilinear."""
    images, labels, test_images, test_labels, classes = cifar(path)
    state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(weights).items()}
    network = torchvision().models.resnet18(num_classes=10)
    network.load_state_dict(state)
    network.fc = torch.nn.Identity()
    network.eval()
    encoded = [unit_rows(_penultimate(network, part)) for part in (images, test_images)]
    return Data("cifar_resnet", classes, encoded[0], labels, encoded[1], test_labels)


@torch.inference_mode()
def _penultimate(network: torch.nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_DEVIATION))
    parts = []
    for start in range(0, len(images), 256):
        pixels = torch.from_numpy(images[start : start + 256]).permute(0, 3, 1, 2).float() / 255
        parts.append(network((F.interpolate(pixels, size=64, mode="bilinear", align_corners=False) - mean) / deviation))
    encoded: NDArray[np.float32] = torch.cat(parts).numpy()
    return encoded


def cifar(
    path: Path,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Half B of the training images with labels, the test images with labels, and the classes in order."""
    read: dict[str, list[tuple[str, int, NDArray[np.uint8]]]] = {"train": [], "test": []}
    for name, content in members(path):
        found = re.fullmatch(r"cifar10/(train|test)/(\w+)/(\d+)\.jpg", name)
        if found and (found[1] == "test" or int(found[3]) % 2):
            read[found[1]].append((found[2], int(found[3]), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))))
    classes = tuple(sorted({name for name, _, _ in read["test"]}))
    arrays: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    for part in ("train", "test"):
        rows = sorted(read[part], key=lambda row: row[:2])
        arrays.append(np.stack([image for _, _, image in rows]))
        labels.append(np.array([classes.index(name) for name, _, _ in rows]))
    return arrays[0], labels[0], arrays[1], labels[1], classes


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read()
