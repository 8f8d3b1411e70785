"""How `auto` decides: novelty with one class, coverage with few answers, doubt with many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_backend.records import Pool
from ml_backend.strategies import select
from ml_backend.strategies.auto import bandwidth
from ml_backend.strategies.candidates import candidates
from tests.strategy_pools import pool_of, shuffled


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pool_of_one_class(*, knows_others: bool = False, multilabel: bool = False) -> Pool:
    """400 rows near each other, the last 8 of another kind; 20 of the common ones are labelled, all alike."""
    pool = pool_of(rows=400, width=16, labelled=0, multilabel=multilabel)
    features = pool.features.astype(np.float32) * 0.3 + np.eye(16, dtype=np.float32)[0]
    features[392:, 0] = -0.5
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labelled = np.arange(400) % 19 == 0
    labels = np.where(labelled, 1, -1)
    probabilities = np.full((400, 4), 0.02, dtype=np.float32)
    probabilities[:, 1] = 0.94
    if knows_others:
        probabilities[:50] = probabilities[:50, [1, 0, 2, 3]]
    return replace(
        pool, features=features, labelled=labelled, labels=labels, probabilities=probabilities,
        class_names=("ant", "bee", "cat", "dog"),
    )  # fmt: skip


@pytest.mark.parametrize("multilabel", [False, True])
def test_with_one_class_seen_it_asks_what_is_unlike_all_of_it_and_says_so(*, multilabel: bool) -> None:
    ranking = select("auto", pool_of_one_class(multilabel=multilabel), 10, rng())
    assert (ranking.rows[:2] >= 392).any()
    assert (ranking.rows < 392).sum() >= 4
    assert all(reason.startswith("only bee was seen so far: ") for reason in ranking.reasons)
    assert {"far from" in reason for reason in ranking.reasons} == {True, False}


def test_so_it_does_before_there_is_a_model_as_one_class_makes_none() -> None:
    pool = replace(pool_of_one_class(), probabilities=None)
    ranking = select("auto", pool, 10, rng())
    assert (ranking.rows[:2] >= 392).any()
    assert all(reason.startswith("only bee was seen so far: ") for reason in ranking.reasons)


def test_a_few_labels_of_one_class_say_nothing_of_the_others() -> None:
    pool = pool_of_one_class()
    few = pool.labelled & (np.arange(400) < 60)
    ranking = select("auto", replace(pool, probabilities=None, labelled=few, labels=np.where(few, 1, -1)), 10, rng())
    assert few.sum() == 4
    assert all(reason.startswith("no model yet: ") for reason in ranking.reasons)


def test_one_class_seen_in_another_order_of_rows_is_asked_the_same() -> None:
    pool = pool_of_one_class()
    other = shuffled(pool)
    one, two = select("auto", pool, 12, rng()), select("auto", other, 12, rng())
    assert pool.ids[one.rows].tolist() == other.ids[two.rows].tolist()


def test_a_model_that_knows_other_classes_is_asked_for_its_doubt() -> None:
    """An imported one, with a few labels of one class."""
    ranking = select("auto", pool_of_one_class(knows_others=True), 10, rng())
    assert all(reason.startswith("between ") for reason in ranking.reasons)


def test_a_second_class_ends_it() -> None:
    pool = pool_of_one_class()
    pool.labels[0] = 2
    assert all(reason.startswith("between ") for reason in select("auto", pool, 10, rng()).reasons)


def test_with_several_labels_an_image_each_of_its_labels_is_a_class() -> None:
    pool = pool_of_one_class(multilabel=True)
    rows = np.flatnonzero(pool.labelled)
    both = np.concatenate([np.column_stack([rows, np.full(len(rows), c)]) for c in (1, 3)])
    assert not any("only" in reason for reason in select("auto", replace(pool, pairs=both), 10, rng()).reasons)


def test_more_answers_narrow_what_each_speaks_for() -> None:
    pool = pool_of(rows=400, width=8, labelled=0)
    widths = []
    for count in (5, 120, 380):
        labelled = np.arange(400) < count
        some = replace(pool, labelled=labelled, labels=np.where(labelled, 0, -1))
        widths.append(bandwidth(some, candidates(some)))
        x = pool.features.astype(np.float64)
        distances = np.linalg.norm(x[count:, None] - x[None, :count], axis=2).min(1)
        typical = np.sqrt(2 * ((x[count:] ** 2).sum(1).mean() - (x[count:].mean(0) ** 2).sum()))
        assert widths[-1] == pytest.approx(min(0.45, 0.7 * np.median(distances) / typical), rel=0.01)
    assert 0.45 == widths[0] > widths[1] > widths[2]


def test_doubt_amid_answers_is_worth_less_than_the_same_doubt_elsewhere() -> None:
    """Two groups in equal doubt: one has been answered for already, to no avail."""
    pool = pool_of(rows=200, width=8, labelled=0)
    features = pool.features.astype(np.float32) * 0.5
    features[:100, 0] += 1
    features[100:, 0] -= 1
    labelled = np.arange(200) < 30
    probabilities = np.full((200, 4), 0.25, dtype=np.float32)
    labels = np.where(labelled, np.arange(200) % 4, -1)
    pool = replace(pool, features=features, labelled=labelled, labels=labels, probabilities=probabilities)
    assert (select("auto", pool, 10, rng()).rows >= 100).mean() >= 0.8
    assert set(select("margin", pool, 10, rng()).rows.tolist()) == set(range(30, 40))
