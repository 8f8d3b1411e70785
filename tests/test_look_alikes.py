"""Which tasks stand together on a page of the grid, and for which no guess is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import ConflictError, NotFoundError
from ml_backend.look_alikes import CHUNK, Guesses, LookAlikes, must_stay_blind, similar
from ml_backend.records import Query
from tests.bench import Bench


def guesses(angles: list[float], classes: list[int], confidence: list[float]) -> Guesses:
    """Tasks 1, 2, ... whose vectors stand at these angles."""
    matrix = np.array([[np.cos(a), np.sin(a)] for a in angles], np.float16)
    count = len(angles)
    return Guesses(
        ("cat", "dog"),
        np.arange(1, count + 1),
        np.array(classes),
        np.array(confidence, np.float32),
        np.arange(count),
        matrix,
    )


def test_a_page_begins_with_the_surest_task_and_goes_on_with_its_nearest_neighbours() -> None:
    found = guesses([0.0, 1.0, 0.1, 0.5, 0.02], [0, 0, 0, 0, 1], [0.6, 0.7, 0.9, 0.8, 1.0])
    assert found.alike("cat", [], 10) == [3, 1, 4, 2]
    assert found.alike("cat", [], 2) == [3, 1]
    assert found.alike("dog", [], 10) == [5]


def test_what_is_left_out_neither_leads_nor_follows() -> None:
    found = guesses([0.0, 1.0, 0.1, 0.5], [0, 0, 0, 0], [0.6, 0.7, 0.9, 0.8])
    assert found.alike("cat", {3, 1}, 10) == [4, 2]
    assert found.alike("cat", {1, 2, 3, 4}, 10) == []


def test_equal_images_stand_together_by_task_number() -> None:
    found = guesses([0.3, 0.0, 0.3, 0.3, 0.0], [0] * 5, [0.5, 0.4, 0.9, 0.5, 0.4])
    assert found.alike("cat", [], 10) == [3, 1, 4, 2, 5]


def test_each_class_counts_what_may_be_shown_of_it() -> None:
    found = guesses([0.0] * 5, [0, 0, 0, 1, 1], [0.5] * 5)
    assert found.counts() == {"cat": 3, "dog": 2}
    assert found.counts({1, 4}) == {"cat": 2, "dog": 1}
    refused = {"cat": {2, 4}, "dog": {4}, "a label of before": {5}}
    assert found.counts({1, 4}, refused) == {"cat": 1, "dog": 1}


def test_more_tasks_than_are_compared_at_a_time_are_all_compared() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(CHUNK + 5, 3)).astype(np.float16)
    at = np.arange(len(matrix))[::-1].copy()
    expected = matrix[at].astype(np.float32) @ matrix[7].astype(np.float32)
    assert similar(matrix, at, matrix[7]) == pytest.approx(expected, abs=1e-3)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Tasks 1 to 120 with a model; 1 to 20 are held out, 21 to 60 labelled."""
    made = Bench(tmp_path / "data")
    made.label(*range(21, 61))
    made.turn()
    yield made
    made.services.database.close()


def look_alikes(bench: Bench) -> LookAlikes:
    services = bench.services
    return LookAlikes(services.ledger, services.features, services.predictor, services.settings, services.acceptances)


def test_held_out_labelled_and_audited_tasks_are_never_shown(bench: Bench) -> None:
    audited = [Query(task, rank, "audit", 0.0, "drawn blind") for rank, task in enumerate((70, 80))]
    bench.services.ledger.open_round(bench.project, version=1, strategy="audit", seed=0, queries=audited)
    found = look_alikes(bench).guesses(bench.project)
    assert set(found.ids.tolist()) == set(range(61, 121)) - {70, 80}
    assert look_alikes(bench).blind_among(bench.project, [5, 30, 70, 100]) == {5, 70}
    rows = bench.services.ledger.pool(bench.project)
    assert set(rows.ids[must_stay_blind(rows, {70})].tolist()) == {*range(1, 21), 70}


def test_while_an_audit_asks_nobody_is_shown_a_guess_and_nothing_that_was_shown_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.services.acceptances, "is_blind", lambda _: True)
    with pytest.raises(ConflictError, match=r"An audit .* is on"):
        look_alikes(bench).guesses(bench.project)
    with pytest.raises(ConflictError, match=r"accept status"):
        look_alikes(bench).require_shown(bench.project)


def test_the_guesses_are_those_that_people_see(bench: Bench) -> None:
    found = look_alikes(bench).guesses(bench.project)
    told = bench.guesses()
    assert {int(i): found.labels[c] for i, c in zip(found.ids, found.classes, strict=True)} == {
        i: told[i] for i in found.ids.tolist()
    }


def test_a_task_whose_image_was_not_read_yet_waits(bench: Bench) -> None:
    bench.ids += [121]
    bench.truth[121] = "cat"
    bench._read()
    assert 121 not in look_alikes(bench).guesses(bench.project).ids


def test_where_no_guess_is_to_be_shown_there_is_no_grid(bench: Bench) -> None:
    bench.services.ledger.configure(bench.project, overlap=2)
    with pytest.raises(ConflictError, match=r"labelled by 2 people on their own.*maximum_annotations"):
        look_alikes(bench).guesses(bench.project)
    bench.services.ledger.configure(bench.project, overlap=1)
    bench.set(prelabels="never")
    with pytest.raises(ConflictError, match="ML_BACKEND_PRELABELS=never"):
        look_alikes(bench).guesses(bench.project)


def test_several_choices_an_image_and_no_model_are_told(tmp_path: Path) -> None:
    several = Bench(tmp_path / "several", multiple=True, tasks=30, measured=5)
    with pytest.raises(ConflictError, match="one choice for each image"):
        look_alikes(several).guesses(several.project)
    fresh = Bench(tmp_path / "fresh", tasks=30, measured=5)
    with pytest.raises(NotFoundError, match="has no model that answers: label two images"):
        look_alikes(fresh).guesses(fresh.project)
    several.services.database.close()
    fresh.services.database.close()


def test_a_hundred_thousand_tasks_are_put_in_order_without_their_vectors_in_memory() -> None:
    """The vectors are a view of one row: copied, they would be 200 MB."""
    count = 100_000
    matrix = np.broadcast_to(np.full(1_000, 1_000**-0.5, np.float16), (count, 1_000))
    ids = np.arange(count)
    found = Guesses(("cat",), ids, np.zeros(count, np.int64), np.linspace(0, 1, count, dtype=np.float32), ids, matrix)
    assert found.alike("cat", set(range(100)), 60) == [count - 1, *range(100, 159)]
