"""For imbalance: search around each class's own threshold, the classes with the fewest labels first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import candidate_rows, in_id_order, labels_of, labels_per_class
from ml_backend.strategies.hybrid import without_model
from ml_backend.strategies.reasons import class_name, model_probabilities
from ml_backend.strategies.uncertainty import two_largest
from ml_backend.wording import amount


def rare(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """Rows nearest each class's own threshold, each pick for the class with the fewest labels so far.

    After DIRECT (Zhang et al. 2024): a class's score is its lead over the best other class, its threshold the score
    that splits the labelled rows best.
    """
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    rows = candidate_rows(pool)
    scores = leads(pool, rows)
    distances = np.abs(scores - thresholds(pool))
    have = labels_per_class(pool).astype(float)
    picked, for_class = _picks(distances, model_probabilities(pool)[rows], have, min(query_size, len(rows)))
    nearness = 1 - distances[picked, for_class] / 2
    reasons = (
        f"near the threshold of {class_name(pool, int(c))} ({amount(int(have[c]), 'label')}), {scores[row, c]:+.2f}"
        for row, c in zip(picked, for_class, strict=True)
    )
    return Ranking(rows[picked], np.minimum.accumulate(nearness), tuple(reasons))


def leads(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(k, C): probability of each class less that of the best other class, -1..1; multi-label: 2 p - 1."""
    p = np.asarray(model_probabilities(pool)[rows], dtype=np.float32)
    if pool.multilabel or p.shape[1] < 2:
        return 2 * p - 1
    first, second = two_largest(p)
    return np.asarray(p - np.where(p == first[:, None], second[:, None], first[:, None]))


def thresholds(pool: Pool) -> NDArray[np.float32]:
    """(C,): for each class the lead that splits labelled rows with the least balanced error; 0 where it cannot be told."""
    found = np.zeros(pool.n_classes, dtype=np.float32)
    pairs = labels_of(pool)
    rows = in_id_order(pool, np.flatnonzero(pool.labelled))
    if not len(pairs):
        return found
    scores = leads(pool, rows)
    for c in range(pool.n_classes):
        positive = np.isin(rows, pairs[pairs[:, 1] == c, 0])
        if not positive.any() or positive.all():
            continue
        order = np.argsort(scores[:, c], kind="stable")
        lead, is_positive = scores[order, c], positive[order]
        missed = np.concatenate([[0.0], np.cumsum(is_positive)]) / positive.sum()
        false = 1 - np.concatenate([[0.0], np.cumsum(~is_positive)]) / (~positive).sum()
        errors = missed + false
        cuts = np.concatenate([[lead[0]], (lead[1:] + lead[:-1]) / 2, [lead[-1]]])
        best = np.flatnonzero(errors <= errors.min() + 1e-9)
        found[c] = cuts[best[np.abs(cuts[best]).argmin()]]
    return found


def _picks(
    distances: NDArray[np.float32], probabilities: NDArray[np.float32], have: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and the class each is for. A pick counts for each class by its probability."""
    queues = [np.argsort(distances[:, c], kind="stable") for c in range(distances.shape[1])]
    heads = np.zeros(len(queues), dtype=np.int64)
    free = np.ones(len(distances), dtype=bool)
    expected = have.copy()
    picked: list[int] = []
    for_class: list[int] = []
    while len(picked) < count:
        c = int(expected.argmin())
        while not free[queues[c][heads[c]]]:
            heads[c] += 1
        position = int(queues[c][heads[c]])
        free[position] = False
        picked.append(position)
        for_class.append(c)
        expected += probabilities[position]
        expected[c] += 1e-3  # a class no row is likely to be of must not be asked about for ever
    return np.array(picked, dtype=np.int64), np.array(for_class, dtype=np.int64)
