"""Labelled data to replay on, and the stress made from it. Features come in ready; nothing here encodes or downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ml_backend.errors import InvalidInputError

TEST_SHARE = 0.25
TEST_MOST = 2000
COPIES = 4
COPY_NOISE = 0.05
"""Distance of a near-duplicate to its original, as a share of the typical distance between two rows."""
TAIL = 10
WRONG = 0.1


@dataclass(frozen=True)
class Data:
    """Features (N, d) float16 rows of unit length, labels (N,) as an oracle tells them, and a test set never queried.

    A label of -1: the oracle skips the image, nobody can say what it is.
    """

    name: str
    classes: tuple[str, ...]
    features: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    test_features: NDArray[np.floating[Any]]
    test_labels: NDArray[np.int64]


Source = Callable[[int], Data]
"""Seed -> data. Strategies that share a seed share the data, whatever the seed decides of it."""


def unit_rows(features: NDArray[Any]) -> NDArray[np.float16]:
    """Rows scaled to length one, float16."""
    rows = np.asarray(features, dtype=np.float32)
    scaled: NDArray[np.float16] = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(
        np.float16
    )
    return scaled


def digits(seed: int) -> Data:
    """scikit-learn's 1,797 digits, 8 x 8 pixels as features; a test set drawn by the seed."""
    pixels, labels = load_digits(return_X_y=True)
    return split("digits", tuple("0123456789"), unit_rows(pixels), labels.astype(np.int64), seed)


def split(name: str, classes: tuple[str, ...], features: NDArray[Any], labels: NDArray[np.int64], seed: int) -> Data:
    """A test set of a quarter, at most 2,000, drawn by `seed`; the rest is the pool."""
    if len(classes) < 2:
        raise InvalidInputError(f"{name} has {len(classes)} class: it needs at least two.")
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    held = min(TEST_MOST, int(len(labels) * TEST_SHARE))
    if held < len(classes):
        raise InvalidInputError(f"{name} has {len(labels)} labelled images: too few to test {len(classes)} classes on.")
    test, pool = np.sort(order[:held]), np.sort(order[held:])
    return Data(name, classes, features[pool], labels[pool], features[test], labels[test])


def duplicates(data: Data, seed: int) -> Data:
    """Each row of the pool four times, nearly the same."""
    rng = np.random.default_rng([seed, 2])
    rows = data.features.astype(np.float32)
    typical = np.sqrt(2 * ((rows * rows).sum(1).mean() - (rows.mean(0) ** 2).sum()))
    noise = [rng.standard_normal(rows.shape) * COPY_NOISE * typical / np.sqrt(rows.shape[1]) for _ in range(COPIES - 1)]
    features = unit_rows(np.concatenate([rows, *(rows + n for n in noise)]))
    return replace(data, name=f"{data.name}, near-duplicates", features=features, labels=np.tile(data.labels, COPIES))


def long_tail(data: Data, seed: int) -> Data:
    """Classes thinned out evenly on a log scale to a tenth, in an order drawn by the seed; the test set stays as it is."""
    rng = np.random.default_rng([seed, 3])
    order = rng.permutation(len(data.classes))
    most = int(np.bincount(data.labels, minlength=len(order)).min())
    sizes = [max(1, round(most * TAIL ** (-rank / (len(order) - 1)))) for rank in range(len(order))]
    members = [rng.permutation(np.flatnonzero(data.labels == c))[:size] for c, size in zip(order, sizes, strict=True)]
    rows = np.sort(np.concatenate(members))
    return replace(data, name=f"{data.name}, long tail", features=data.features[rows], labels=data.labels[rows])


def wrong_labels(data: Data, seed: int) -> Data:
    """A tenth of the oracle's answers are another class."""
    rng = np.random.default_rng([seed, 4])
    labels = data.labels.copy()
    wrong = rng.random(len(labels)) < WRONG
    labels[wrong] = (labels[wrong] + rng.integers(1, len(data.classes), wrong.sum())) % len(data.classes)
    return replace(data, name=f"{data.name}, wrong labels", labels=labels)


def with_skips(data: Data, share: float, seed: int) -> Data:
    """`share` of the pool is then junk, in a corner of its own, which the oracle skips; the test set has none.

    Junk: rows of the pool with their columns in another order, the same for all, half way to their mean.
    """
    count = round(len(data.labels) * share / (1 - share))
    if not count:
        return data
    rng = np.random.default_rng([seed, 10])
    rows = data.features[rng.integers(len(data.labels), size=count)].astype(np.float32)[
        :, rng.permutation(data.features.shape[1])
    ]
    features = np.concatenate([data.features, unit_rows((rows + rows.mean(0)) / 2)])
    return replace(data, features=features, labels=np.concatenate([data.labels, np.full(count, -1)]))


STRESS: dict[str, Callable[[Data, int], Data]] = {
    "none": lambda data, _: data,
    "duplicates": duplicates,
    "tail": long_tail,
    "wrong": wrong_labels,
}
