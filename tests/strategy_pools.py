"""Pools for the strategy tests: small, random, with rows of unit length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ml_backend.records import Pool


def pool_of(
    rows: int = 120, classes: int = 4, width: int = 8, labelled: int = 12, *, seed: int = 0, multilabel: bool = False
) -> Pool:
    """`labelled` rows spread over the pool, so that a position among the others is not a row number."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    mask = np.zeros(rows, dtype=bool)
    mask[rng.choice(rows, labelled, replace=False)] = True
    labels = np.where(mask, rng.integers(classes, size=rows), -1)
    probabilities = rng.random((rows, classes)) if multilabel else rng.dirichlet(np.ones(classes), rows)
    return Pool(
        features.astype(np.float16),
        mask,
        labels.astype(np.int64),
        classes,
        np.arange(rows) * 3 + 7,
        probabilities.astype(np.float32),
        multilabel=multilabel,
    )


def shuffled(pool: Pool, seed: int = 1) -> Pool:
    order = np.random.default_rng(seed).permutation(len(pool.ids))
    columns = ("features", "labelled", "labels", "ids", "probabilities", "groups", "candidates", "skipped")
    moved: dict[str, Any] = {c: None if (v := getattr(pool, c)) is None else v[order] for c in columns}
    return replace(pool, **moved)


def with_sure_rows(pool: Pool, doubtful: int) -> Pool:
    """Every row is sure of its class but the one, which cannot decide between 1 and 2."""
    probabilities = np.full((len(pool.ids), pool.n_classes), 0.05 / (pool.n_classes - 1), dtype=np.float32)
    probabilities[:, 0] = 0.95
    probabilities[doubtful] = 0.02 / (pool.n_classes - 2)
    probabilities[doubtful, [1, 2]] = 0.49
    return replace(pool, probabilities=probabilities)
