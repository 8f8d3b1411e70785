"""What of a project a strategy is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_backend.services import Services
from ml_backend.steps.choose import build_pool
from ml_backend.steps.table_rows import rows_of
from ml_backend.strategies import select
from tests.labelling import Labelling, content


def test_no_vector_is_copied_into_the_pool(services: Services) -> None:
    """Half of the tasks are held out, one image is there twice and one vector belongs to no task."""
    labelling = Labelling(services, 40)
    labelling.set(holdout_first=20)
    labelling.turn()
    corpus = labelling.corpus()
    pool = build_pool(corpus, None)
    assert pool is not None
    assert corpus.rows.holdout.any()
    assert np.shares_memory(pool.features, corpus.matrix)
    services.features.append("encoder", [content(999)], np.ones((1, 4), np.float32))
    labelling.grow(3, [content(i) for i in (7, 1000, 1001)])
    corpus = labelling.corpus()
    pool = build_pool(corpus, None)
    assert pool is not None
    assert pool.features.table is corpus.matrix  # type: ignore[attr-defined]
    assert len(select("auto", pool, 3, np.random.default_rng(0)).rows) == 3, "a strategy reads it"
    for task, vector in zip(pool.ids, pool.features[:], strict=True):
        np.testing.assert_array_equal(vector, corpus.matrix[corpus.at[corpus.rows.ids == task][0]])


def test_held_out_tasks_are_never_candidates_and_what_is_known_of_them_is_not_told(services: Services) -> None:
    """Whatever depended on their labels would leave what resembles them less well known than the rest."""
    labelling = Labelling(services, 40)
    labelling.set(holdout_first=20)
    held = labelling.in_order()
    before = build_pool(labelling.corpus(), None)
    labelling.answer(held[:3])
    labelling.answer(held[3:5], skip=True)
    pool = build_pool(labelling.corpus(), None)
    assert before is not None
    assert pool is not None
    at = np.isin(pool.ids, held)
    assert pool.candidates is not None
    assert not pool.candidates[at].any()
    assert pool.candidates[~at].all()
    for column in ("ids", "features", "labelled", "labels", "candidates", "skipped"):
        np.testing.assert_array_equal(getattr(pool, column), getattr(before, column), column)


def test_the_labels_of_held_out_images_are_no_pairs_either(services: Services) -> None:
    labelling = Labelling(services, 40)
    labelling.set(holdout_first=20)
    held, others = labelling.in_order(), [task for task in range(1, 41) if task not in labelling.in_order()]
    labelling.answer([*held[:3], others[0]])
    corpus = labelling.corpus()
    known = np.flatnonzero(corpus.rows.labelled)
    rows = replace(corpus.rows, pairs=np.column_stack([known, np.zeros(len(known), np.int64)]))
    pool = build_pool(replace(corpus, rows=rows, multiple=True), None)
    assert pool is not None
    assert pool.pairs is not None
    assert pool.ids[pool.pairs[:, 0]].tolist() == others[:1]


def test_what_was_skipped_is_told_to_the_strategy(services: Services) -> None:
    labelling = Labelling(services, 12)
    labelling.answer([4, 5], skip=True)
    labelling.answer([6])
    pool = build_pool(labelling.corpus(), None)
    assert pool is not None
    assert pool.skipped is not None
    assert pool.ids[pool.skipped].tolist() == [4, 5]


def test_every_label_of_an_image_is_told(services: Services) -> None:
    labelling = Labelling(services, 6)
    corpus = labelling.corpus()
    rows = replace(corpus.rows, labelled=np.arange(6) == 2, pairs=np.array([(2, 0), (2, 1)]))
    pool = build_pool(replace(corpus, rows=rows, multiple=True, at=corpus.at[::-1].copy()), None)
    assert pool is not None
    assert pool.pairs is not None
    assert [(int(pool.ids[row]), int(c)) for row, c in pool.pairs] == [(3, 0), (3, 1)]


@pytest.mark.parametrize("at", [[2, 3, 4], [4, 2, 2, 9], []])
def test_rows_of_a_table_read_as_the_array_they_stand_for(at: list[int]) -> None:
    table = np.arange(60, dtype=np.float16).reshape(20, 3)
    rows, plain = rows_of(table, np.array(at, dtype=np.int64)), table[at]
    assert (len(rows), rows.shape, rows.ndim, rows.itemsize) == (len(plain), plain.shape, 2, 2)
    assert rows.dtype == plain.dtype
    np.testing.assert_array_equal(rows[:], plain)
    np.testing.assert_array_equal(rows[1:2], plain[1:2])
    np.testing.assert_array_equal(np.asarray(rows), plain)
    if at:
        np.testing.assert_array_equal(rows[np.array([1, 0])], plain[[1, 0]])
