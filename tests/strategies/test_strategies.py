"""What every strategy owes its caller. A new one is tested by being in the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.records import Pool, Ranking
from ml_backend.strategies import STRATEGIES, select
from tests.strategy_pools import pool_of, shuffled

every = pytest.mark.parametrize("name", STRATEGIES)
NEED_A_MODEL = ("least_confidence", "margin", "entropy", "uherding", "badge", "cluster_margin", "rare")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def check(ranking: Ranking, pool: Pool, count: int) -> None:
    """The contract of a ranking, whatever the strategy."""
    free = ~pool.labelled if pool.candidates is None else pool.candidates & ~pool.labelled
    assert len(ranking.rows) == len(ranking.acquisition) == len(ranking.reasons) == count
    assert ranking.rows.dtype == np.int64
    assert len(set(ranking.rows.tolist())) == count
    assert free[ranking.rows].all()
    assert np.isfinite(ranking.acquisition).all()
    assert (np.diff(ranking.acquisition) <= 0).all()
    assert all(reason and len(reason) < 200 for reason in ranking.reasons)


@every
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_query_is_that_many_distinct_unlabelled_rows_best_first(name: str, size: int, multilabel: bool) -> None:
    pool = pool_of(multilabel=multilabel)
    check(select(name, pool, size, rng()), pool, size)


@every
def test_more_than_the_pool_has_gives_the_whole_pool(name: str) -> None:
    pool = pool_of(rows=30, labelled=10)
    check(select(name, pool, 50, rng()), pool, 20)


@every
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_pool_of_almost_nothing_is_ranked(name: str, left: int) -> None:
    pool = pool_of(rows=5, labelled=5 - left)
    check(select(name, pool, 3, rng()), pool, left)


@every
def test_nothing_asked_gives_nothing(name: str) -> None:
    check(select(name, pool_of(), 0, rng()), pool_of(), 0)


@every
def test_the_same_seed_gives_the_same_query(name: str) -> None:
    first, second = (select(name, pool_of(), 10, rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.acquisition, second.acquisition)


@every
@pytest.mark.parametrize("copies", [1, 4])
def test_the_order_of_the_rows_does_not_matter(name: str, copies: int) -> None:
    pool = pool_of(rows=60)
    columns = ("features", "labelled", "labels", "probabilities")
    pool = replace(
        pool, ids=np.arange(60 * copies), **{c: np.concatenate([getattr(pool, c)] * copies) for c in columns}
    )
    other = shuffled(pool)
    one, two = select(name, pool, 15, rng()), select(name, other, 15, rng())
    assert pool.ids[one.rows].tolist() == other.ids[two.rows].tolist()
    np.testing.assert_array_equal(one.acquisition, two.acquisition)


@every
@pytest.mark.parametrize("labelled", [0, 12])
def test_no_model_yet_is_answered_by_coverage_and_said(name: str, labelled: int) -> None:
    pool = replace(pool_of(labelled=labelled), probabilities=None)
    ranking = select(name, pool, 10, rng())
    check(ranking, pool, 10)
    if name in NEED_A_MODEL:
        assert all(reason.startswith("no model yet: ") for reason in ranking.reasons)
        assert ranking.rows.tolist() == select("herding", pool, 10, rng()).rows.tolist()


@every
def test_a_single_class_is_enough(name: str) -> None:
    pool = pool_of(classes=1)
    check(select(name, pool, 10, rng()), pool, 10)


@every
def test_labels_of_one_class_only_are_enough(name: str) -> None:
    pool = pool_of()
    pool = replace(pool, labels=np.where(pool.labelled, 2, -1))
    check(select(name, pool, 10, rng()), pool, 10)


@every
@pytest.mark.parametrize("certain", [False, True])
def test_a_pool_of_copies_is_ranked(name: str, certain: bool) -> None:
    pool = pool_of()
    probabilities = np.full_like(pool.probabilities, 0.25)
    if certain:
        probabilities[:] = [1, 0, 0, 0]
    pool = replace(pool, features=np.tile(pool.features[:1], (120, 1)), probabilities=probabilities)
    check(select(name, pool, 10, rng()), pool, 10)
    check(select(name, pool, 10, rng(), suppress_duplicates=False), pool, 10)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_features_that_are_no_numbers_are_refused_by_row(name: str, bad: float, kind: type[np.floating[Any]]) -> None:
    pool = pool_of()
    features = pool.features.astype(kind)
    features[57, 3] = bad
    with pytest.raises(InvalidInputError, match="features of row 57 are not finite"):
        select(name, replace(pool, features=features), 5, rng())


@every
def test_probabilities_that_are_no_numbers_are_refused_by_row(name: str) -> None:
    pool = pool_of()
    assert pool.probabilities is not None
    pool.probabilities[33, 1] = np.nan
    with pytest.raises(InvalidInputError, match="probabilities of row 33"):
        select(name, pool, 5, rng())


@every
def test_features_on_disk_give_what_features_in_memory_give(name: str, tmp_path: Path) -> None:
    pool = pool_of()
    np.save(tmp_path / "f.npy", pool.features)
    mapped = replace(pool, features=np.load(tmp_path / "f.npy", mmap_mode="r"))
    assert select(name, mapped, 12, rng()).rows.tolist() == select(name, pool, 12, rng()).rows.tolist()


@every
def test_a_sub_pool_is_drawn_and_only_it_is_ranked(name: str) -> None:
    pool = pool_of(rows=300)
    seen = {row for seed in range(4) for row in select(name, pool, 10, rng(seed), pool_size=20).rows.tolist()}
    check(select(name, pool, 10, rng(), pool_size=20), pool, 10)
    assert len(seen) > 20


@every
def test_only_candidates_are_picked(name: str) -> None:
    pool = pool_of()
    pool = replace(pool, candidates=np.arange(120) % 5 == 0)
    check(select(name, pool, 10, rng()), pool, 10)


@every
def test_noise_changes_the_query_and_keeps_the_contract(name: str) -> None:
    pool = pool_of(rows=300)
    queries = [select(name, pool, 10, rng(seed), power=1.0) for seed in range(3)]
    for query in queries:
        check(query, pool, 10)
    assert len({tuple(query.rows.tolist()) for query in queries}) > 1


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"random"}))
def test_of_a_group_only_one_is_asked_while_there_are_others(name: str) -> None:
    pool = pool_of(rows=120, labelled=0)
    pool = replace(pool, groups=np.arange(120) // 4)
    rows = select(name, pool, 20, rng()).rows
    assert len(set((rows // 4).tolist())) == 20
    check(select(name, pool, 60, rng()), pool, 60)


@every
def test_the_pool_is_left_as_it_was(name: str) -> None:
    pool, before = pool_of(), pool_of()
    select(name, pool, 10, rng(), power=2.0, pool_size=50)
    for column in ("features", "labelled", "labels", "ids", "probabilities"):
        np.testing.assert_array_equal(getattr(pool, column), getattr(before, column))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"no strategy 'margins'.*least_confidence, margin, entropy"):
        select("margins", pool_of(), 5, rng())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"pool_size": 3}, "pool_size"), ({"power": 0.0}, "power"), ({"power": float("nan")}, "power")],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        select("margin", pool_of(), 5, rng(), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.zeros(120, dtype=np.int64)}, "twice"),
        ({"labelled": np.zeros(3, dtype=bool)}, "labelled has 3"),
        ({"probabilities": np.zeros((120, 9), dtype=np.float32)}, "one column per class"),
        ({"features": np.zeros(120, dtype=np.float32)}, "table"),
        ({"features": np.zeros((120, 8), dtype=np.int32)}, "features are int32, not floating-point"),
        ({"probabilities": np.full((120, 4), 1.5, dtype=np.float32)}, "probabilities of row 0 are not from 0 to 1"),
        ({"probabilities": np.full((120, 4), -0.1, dtype=np.float32)}, "probabilities of row 0 are not from 0 to 1"),
        ({"labelled": np.arange(120) == 7, "labels": np.full(120, 4)}, "label of row 7 is 4, but there are 4 classes"),
    ],
)
def test_a_pool_that_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        select("margin", replace(pool_of(), **change), 5, rng())
