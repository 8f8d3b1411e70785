"""One run: a strategy from zero labels to the budget, with an oracle in the annotator's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError
from ml_backend.records import Pool
from ml_backend.simulation.data import Data
from ml_backend.simulation.memory import peak_megabytes
from ml_backend.strategies import STRATEGIES, select

Probabilities = Callable[[NDArray[np.floating[Any]]], NDArray[np.float32]]
"""Features (k, d) -> (k, C), rows summing to one."""
Apart = NDArray[np.int64] | None


@dataclass(frozen=True)
class Answers:
    """What a training came to. blind: has learned from no held-out row, and is what strategies ask; None without other rows."""

    head: Probabilities
    blind: Probabilities | None


Trainer = Callable[[NDArray[np.floating[Any]], NDArray[np.int64], NDArray[np.int64], int, int, Apart], Answers]
"""(features (N, d), labelled rows (n,), their labels (n,), classes, seed, folds (n,) of those held out, -1 for others, or None)
-> a trained head; cold, whatever came before."""


@dataclass(frozen=True)
class Live:
    """What the live protocol adds.

    train_after: answers that start a training. late: answers given meanwhile, to the queue before, until the new model and
    its queue are there. skips: share of the images that are junk, which the oracle skips. holdout_share, holdout_first,
    random_share: as the service's settings.
    """

    train_after: int = 10
    late: int = 2
    skips: float = 0.0
    holdout_share: float = 0.1
    holdout_first: int = 20
    random_share: float = 0.0


@dataclass(frozen=True)
class Settings:
    """How every run of a comparison is done. Runs under different settings are never mixed.

    live: as the service asks (see `live_protocol`); `batch` is then the length of a queue, and `budget` counts answers.
    """

    batch: int = 20
    budget: int = 400
    pool_size: int | None = None
    power: float | None = None
    live: Live | None = None


@dataclass(frozen=True)
class Round:
    """What one round of one run came to.

    labels: answers so far, skips included. balanced: mean recall of the classes in the test set. seconds, megabytes: of the selection alone.
    key: of data, settings and code, see `runs.run_key`.
    """

    data: str
    strategy: str
    seed: int
    labels: int
    accuracy: float
    balanced: float
    seconds: float
    megabytes: float
    train_seconds: float
    key: str = ""


def parts(strategy: str) -> tuple[str, str]:
    """`margin` -> first batch and rest by margin; `random+margin` -> a random first batch, then margin."""
    first, _, rest = strategy.partition("+")
    for name in filter(None, (first, rest)):
        if name not in STRATEGIES:
            raise InvalidInputError(
                f"There is no strategy {name!r}. Choose one of: {', '.join(STRATEGIES)}; or join two with +, the "
                "first for the first batch."
            )
    return first, rest or first


def replay(data: Data, strategy: str, seed: int, settings: Settings, train: Trainer) -> Iterator[Round]:
    """A round a batch, until the budget is spent or the pool is empty."""
    first, rest = parts(strategy)
    rng = np.random.default_rng([seed, 0])
    size = len(data.labels)
    labelled, known, ids = np.zeros(size, dtype=bool), np.full(size, -1, dtype=np.int64), np.arange(size)
    probabilities: NDArray[np.float32] | None = None
    while (count := int(labelled.sum())) < min(settings.budget, size):
        pool = Pool(data.features, labelled.copy(), known.copy(), len(data.classes), ids, probabilities)
        want = min(settings.batch, settings.budget - count)
        started = time.perf_counter()
        with peak_megabytes() as peak:
            ranking = select(
                first if count == 0 else rest,
                pool,
                want,
                rng,
                pool_size=_at_least(settings.pool_size, want),
                power=settings.power,
            )
        chosen = time.perf_counter()
        labelled[ranking.rows], known[ranking.rows] = True, data.labels[ranking.rows]
        at = np.flatnonzero(labelled)
        head = train(data.features, at, known[at], len(data.classes), seed, None).head
        trained = time.perf_counter()
        probabilities = head(data.features)
        yield Round(
            data.name, strategy, seed, int(labelled.sum()), *judged(head, data),
            chosen - started, peak.megabytes, trained - chosen,
        )  # fmt: skip


def full_pool(data: Data, seed: int, train: Trainer) -> Round:
    """Accuracy with every label of the pool: what the targets are a share of."""
    started = time.perf_counter()
    rows = np.flatnonzero(data.labels >= 0)
    head = train(data.features, rows, data.labels[rows], len(data.classes), seed, None).head
    seconds = time.perf_counter() - started
    return Round(data.name, FULL_POOL, seed, len(rows), *judged(head, data), 0.0, 0.0, seconds)


def judged(head: Probabilities, data: Data) -> tuple[float, float]:
    """Accuracy and balanced accuracy on the test set; classes that are not in it do not count."""
    right = head(data.test_features).argmax(1) == data.test_labels
    sizes = np.bincount(data.test_labels, minlength=len(data.classes))
    hits = np.bincount(data.test_labels, weights=right, minlength=len(data.classes))
    return float(right.mean()), float((hits[sizes > 0] / sizes[sizes > 0]).mean())


FULL_POOL = "(all labels)"


def _at_least(pool_size: int | None, want: int) -> int | None:
    return None if pool_size is None else max(pool_size, want)
