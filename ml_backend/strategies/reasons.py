"""Short sentences for a person: why this row is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError
from ml_backend.records import Pool
from ml_backend.wording import amount


def model_probabilities(pool: Pool) -> NDArray[np.floating[Any]]:
    """The pool's probabilities, (N, C)."""
    if pool.probabilities is None:
        raise InvalidInputError("This strategy needs a model: use `herding` until there is one.")
    return pool.probabilities


def class_name(pool: Pool, index: int) -> str:
    return pool.class_names[index] if index < len(pool.class_names) else str(index)


def margin_reasons(pool: Pool, rows: NDArray[np.int64]) -> tuple[str, ...]:
    """`between 3 and 8, margin 0.02` for each of `rows`; multi-label: `in doubt about cat (0.51)`."""
    p = model_probabilities(pool)[rows]
    if pool.multilabel:
        doubts = np.abs(p - 0.5).argmin(1).tolist()
        return tuple(f"in doubt about {class_name(pool, c)} ({row[c]:.2f})" for c, row in zip(doubts, p, strict=True))
    if p.shape[1] < 2:
        return (f"only one class, {class_name(pool, 0)}",) * len(rows)
    order = np.argsort(-p, axis=1, kind="stable")[:, :2]
    values = np.take_along_axis(p, order, axis=1)
    gaps = (values[:, 0] - values[:, 1]).tolist()
    names = [class_name(pool, c) for c in range(p.shape[1])]
    pairs = zip(order.tolist(), gaps, strict=True)
    return tuple(f"between {names[a]} and {names[b]}, margin {gap:.2f}" for (a, b), gap in pairs)


def confidence_reasons(pool: Pool, rows: NDArray[np.int64]) -> tuple[str, ...]:
    p = model_probabilities(pool)[rows]
    if pool.multilabel:
        sure = np.maximum(p, 1 - p).prod(1).tolist()
        return tuple(f"the most likely set of classes has a probability of only {each:.2f}" for each in sure)
    best = zip(p.argmax(1).tolist(), p.max(1).tolist(), strict=True)
    return tuple(f"most likely {class_name(pool, c)}, at only {value:.2f}" for c, value in best)


def entropy_reasons(pool: Pool, rows: NDArray[np.int64]) -> tuple[str, ...]:
    p = model_probabilities(pool)[rows].astype(np.float64)
    if pool.multilabel:
        open_classes = (np.abs(p - 0.5) < 0.4).sum(1).tolist()
        doubts = margin_reasons(pool, rows)
        return tuple(
            f"undecided about {amount(n, 'class', 'classes')}, {why}"
            for n, why in zip(open_classes, doubts, strict=True)
        )
    entropy = -(p * np.log(np.maximum(p, 1e-38))).sum(1)
    most = np.argsort(-p, axis=1, kind="stable")[:, :3]
    named = (", ".join(class_name(pool, c) for c in three) for three in most.tolist())
    return tuple(f"spread over {names}, entropy {h:.2f}" for names, h in zip(named, entropy.tolist(), strict=True))
