"""The pool, what is held out, and the rounds asked for."""

from __future__ import annotations

from ml_backend.records import LabelSchema, Query
from ml_backend.store.ledger import Ledger
from tests.conftest import full, known
from tests.fakes import FakeClock, FakeLabelStudio
from tests.readings import held_out_tasks
from tests.slices import held_out


def test_the_pool_has_a_row_for_every_task_that_is_there(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    cat, dog, skipped, odd, plain, gone, held = (studio.create_task(1).id for _ in range(7))
    full(ledger, project, studio)
    project = held_out(ledger, project, held)
    studio.annotate(cat, "cat")
    studio.annotate(dog, "dog")
    studio.annotate(skipped, skip=True)
    studio.annotate(odd, "fox")
    studio.annotate(held, "cat")
    studio.delete_task(gone)
    full(ledger, project, studio)
    ledger.set_content_hash(project, {cat: "ab" * 32})
    ledger.set_image_errors(project, {plain: "truncated"})
    pool = ledger.pool(project)
    assert pool.ids.tolist() == [cat, dog, skipped, odd, plain, held]
    assert pool.hashes.tolist() == [b"ab" * 32, b"", b"", b"", b"", b""]
    assert pool.labels.tolist() == [0, 1, -1, -1, -1, 0]
    assert pool.labelled.tolist() == [True, True, False, False, False, True]
    assert pool.answered.tolist() == [True, True, False, True, False, True]
    assert pool.skipped.tolist() == [False, False, True, False, False, False]
    assert pool.holdout.tolist() == [False, False, False, False, False, True]
    assert pool.reached.tolist() == [0, 0, 0, 0, 0, 1]
    assert pool.measured.tolist() == pool.holdout.tolist()
    assert pool.waiting.tolist() == [False] * 6
    assert pool.failed.tolist() == [False, False, False, False, True, False]
    assert pool.pairs.tolist() == [[0, 0], [1, 1], [5, 0]]


def test_the_pool_of_an_empty_project_is_empty_arrays(ledger: Ledger) -> None:
    pool = ledger.pool(known(ledger))
    assert len(pool.ids) == len(pool.hashes) == len(pool.labels) == 0
    assert pool.pairs.shape == (0, 2)


def test_the_pool_tells_every_label_of_a_multi_label_task(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=LabelSchema("choice", "image", "image", ("cat", "dog", "owl"), multiple=True))
    studio.create_task(1)
    studio.annotate(studio.create_task(1).id, "owl", "dog")
    full(ledger, project, studio)
    pool = ledger.pool(project)
    assert pool.pairs.tolist() == [[1, 1], [1, 2]]
    assert pool.labels.tolist() == [-1, 1]


def test_a_held_out_task_stays_held_out_labelled_deleted_and_back_again(
    ledger: Ledger, studio: FakeLabelStudio
) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    full(ledger, project, studio)
    project = held_out(ledger, project, task.id)
    studio.annotate(task.id, "cat")
    full(ledger, project, studio)
    assert [label.task_id for label in ledger.labels(project, split="holdout")] == [task.id]
    assert ledger.labels(project, split="train") == []
    ledger.reconcile(project, [], full=True)
    assert held_out_tasks(ledger, project) == []
    full(ledger, project, studio)
    assert held_out_tasks(ledger, project) == [task.id]


def test_a_round_is_computed_pushed_and_verified_under_a_name_of_its_own(
    ledger: Ledger, studio: FakeLabelStudio, clock: FakeClock
) -> None:
    project = known(ledger)
    first, second, third = (studio.create_task(1).id for _ in range(3))
    full(ledger, project, studio)
    asked = [
        Query(second, 0, "strategy", 0.9, "between cat and dog", 0.55, ("cat",)),
        Query(first, 1, "holdout", 0.0, "drawn at random"),
    ]
    one = ledger.open_round(project, version=0, strategy="herding", seed=7, queries=asked, params={"query_size": 2})
    assert (one.number, one.served_name, one.state) == (1, "v0-r1", "computed")
    assert ledger.queries(one) == asked
    assert ledger.current_round(project) is None
    ledger.mark_pushed(one)
    assert ledger.mark_verified(one).state == "verified"
    two = ledger.open_round(project, version=1, strategy="margin", seed=8, queries=[Query(third, 0, "random", 0.1, "")])
    failed = ledger.mark_failed(two, "Label Studio is away")
    assert (failed.served_name, failed.state, failed.error) == ("v1-r2", "failed", "Label Studio is away")
    assert ledger.current_round(project) == ledger.round(project, 1)
    assert ledger.last_round(project) == failed
    assert [r.number for r in ledger.rounds(project)] == [2, 1]


def test_the_rows_have_all_an_export_needs(ledger: Ledger, studio: FakeLabelStudio, clock: FakeClock) -> None:
    project = known(ledger)
    asked, other = studio.create_task(1, "/a.png"), studio.create_task(1, "/b.png")
    full(ledger, project, studio)
    queried_at = clock.advance(5)
    ledger.open_round(
        project,
        version=3,
        strategy="margin",
        seed=11,
        queries=[Query(asked.id, 0, "strategy", 0.9, "close", 0.55, ("dog",))],
    )
    annotation = studio.annotate(asked.id, "cat", annotator=5)
    full(ledger, project, studio)
    row, plain = ledger.rows(project)
    assert row.task.image == "/a.png"
    assert row.label is not None
    assert (row.label.labels, row.label.annotation_id, row.label.annotators) == (("cat",), annotation.id, (5,))
    assert (row.round, row.version, row.strategy, row.seed, row.queried_at) == (1, 3, "margin", 11, queried_at)
    assert (row.rank, row.acquisition, row.confidence, row.prediction) == (0, 0.9, 0.55, ("dog",))
    assert (plain.task.id, plain.label, plain.round, plain.prediction, plain.split) == (
        other.id,
        None,
        None,
        (),
        "train",
    )
