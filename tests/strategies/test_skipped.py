"""What people skipped is not asked for again and again in other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_backend.records import Pool
from ml_backend.strategies import STRATEGIES, select
from ml_backend.strategies.skipped import resembling_skipped
from tests.strategy_pools import pool_of, shuffled

JUNK = slice(300, 400)
aware = pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"random"}))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pool_with_junk(skipped: tuple[int, ...] = (300, 301), labelled: int = 30) -> Pool:
    """400 rows; the last 100 lie close together and far from the rest, the model doubts them most, two were skipped."""
    pool = pool_of(rows=400, width=16, labelled=0)
    features = pool.features.astype(np.float32)
    features[JUNK] = features[JUNK] * 0.35 + np.eye(16, dtype=np.float32)[0] * 1.5
    features[:300, 0] = -np.abs(features[:300, 0]) - 0.3
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    mask = np.arange(400) < labelled
    labels = np.where(mask, np.arange(400) % 4, -1)
    assert pool.probabilities is not None
    pool.probabilities[JUNK] = 0.25
    seen = np.isin(np.arange(400), skipped)
    return replace(pool, features=features.astype(np.float16), labelled=mask, labels=labels, skipped=seen)


@pytest.mark.slow
@aware
@pytest.mark.parametrize("trained", [False, True])
def test_what_resembles_skipped_images_is_asked_after_all_else(name: str, *, trained: bool) -> None:
    pool = pool_with_junk()
    pool = pool if trained else replace(pool, probabilities=None)
    before = select(name, replace(pool, skipped=None), 270, rng())
    after = select(name, pool, 270, rng())
    assert (before.rows >= 300).any()
    assert not (after.rows >= 300).any()
    whole = select(name, pool, 368, rng())
    assert sorted(whole.rows.tolist()) == [*range(30, 300), *range(302, 400)]
    assert (whole.rows[:270] < 300).all()
    assert (np.diff(whole.acquisition) <= 0).all()
    assert all(reason.startswith("like a skipped image: ") for reason in whole.reasons[270:])


@aware
def test_a_skipped_row_is_never_picked(name: str) -> None:
    pool = replace(pool_of(), skipped=np.arange(120) % 2 == 0)
    free = int((~pool.labelled & (np.arange(120) % 2 == 1)).sum())
    ranking = select(name, pool, 120, rng())
    assert len(ranking.rows) == free
    assert (ranking.rows % 2 == 1).all()


@pytest.mark.parametrize("name", ["herding", "diversity", "typiclust"])
def test_skipped_rows_count_as_covered(name: str) -> None:
    """Three groups, two of them seen, one by a skip and nothing else: the third is next."""
    pool = pool_of(rows=90, labelled=0)
    features = pool.features.astype(np.float32) * 0.05
    for group in range(3):
        features[group * 30 : group * 30 + 30, group] += 1
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labelled, skipped = (np.isin(np.arange(90), rows) for rows in ([2], [35]))
    pool = replace(pool, features=features, labelled=labelled, labels=np.where(labelled, 0, -1), skipped=skipped)
    assert select(name, pool, 1, rng()).rows[0] >= 60
    assert STRATEGIES[name](pool, 1, rng()).rows[0] >= 60


def test_what_is_held_back_has_two_of_its_three_nearest_answers_skipped() -> None:
    pool = pool_with_junk()
    labelled = pool.labelled.copy()
    labelled[[310, 320]] = True
    pool = replace(pool, labelled=labelled)
    skipped = np.isin(np.arange(400), [300, 301])
    x, seen = pool.features.astype(np.float64), labelled | skipped
    expected = []
    for row in np.flatnonzero(~seen):
        nearest = np.flatnonzero(seen)[np.argsort(((x[seen] - x[row]) ** 2).sum(1), kind="stable")[:3]]
        if skipped[nearest].sum() >= 2:
            expected.append(row)
    assert resembling_skipped(pool).tolist() == expected
    assert 10 < len(expected) < 90


def test_what_is_held_back_is_the_same_when_labels_are_read_in_blocks() -> None:
    """Some 250 labels are read at a time, and rows that are settled are not compared with the rest."""
    pool = pool_of(rows=3000, width=6, labelled=1000)
    x = pool.features.astype(np.float64)
    skipped = ~pool.labelled & (x[:, 0] > 0.3) & (np.arange(3000) % 3 > 0)
    labelled, seen = pool.labelled, pool.labelled | skipped
    expected = []
    for row in np.flatnonzero(~seen):
        squared = ((x - x[row]) ** 2).sum(1)
        if np.sort(squared[skipped])[1] < np.sort(squared[labelled])[1]:
            expected.append(row)
    assert resembling_skipped(replace(pool, skipped=skipped)).tolist() == expected
    assert 100 < len(expected) < 1000


@pytest.mark.parametrize("pairs", [40_000, 10_000, 1 << 28])
def test_few_skips_among_many_labels_hold_little_back_however_few_pairs_are_looked_at(
    pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 random skips to 1,000 labels; thinned each by itself they would seem to be as many, and half the pool skipped."""
    monkeypatch.setattr("ml_backend.strategies.skipped.PAIRS", pairs)
    pool = pool_of(rows=3020, labelled=1000)
    skipped = np.isin(np.arange(3020), np.flatnonzero(~pool.labelled)[::101])
    assert skipped.sum() == 20
    assert len(resembling_skipped(replace(pool, skipped=skipped))) < 40


def test_a_single_skip_holds_nothing_back() -> None:
    """It may be one hard image of a class that nobody has labelled yet."""
    assert not len(resembling_skipped(pool_with_junk(skipped=(300,))))


def test_far_from_every_skip_nothing_is_held_back() -> None:
    pool = pool_with_junk(labelled=0)
    held = resembling_skipped(pool)
    assert (held >= 300).all()
    assert len(held) == 98


def test_the_order_of_the_rows_does_not_matter_with_skips() -> None:
    pool = pool_with_junk()
    other = shuffled(pool)
    for name in STRATEGIES:
        one, two = select(name, pool, 15, rng()), select(name, other, 15, rng())
        assert pool.ids[one.rows].tolist() == other.ids[two.rows].tolist()
