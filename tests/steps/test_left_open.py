"""What is measured where people leave hard held-out images open, skip or delete them, or whatever else happens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from ml_backend.commands.held_out import described
from ml_backend.errors import NothingToAskError
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps.choose import choose
from ml_backend.steps.hold_out import reserve
from tests.bench import Bench
from tests.labelling import Labelling, content, task

pytestmark = pytest.mark.slow


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", holdout_share=0.2, seed=3))
    yield opened
    opened.database.close()


def hard(task: int) -> bool:
    """A quarter of the images: whoever labels leaves, skips or deletes them."""
    return task % 4 == 0


def before_the_first_open(work: Labelling) -> list[int]:
    """Held-out tasks with an answer, in their order, up to one without."""
    return list(takewhile(lambda task: task in work.answers, work.in_order()))


def label_the_easy(work: Labelling, turns: int) -> list[int]:
    """So many queues, of which the hard held-out images stay open; returns those."""
    for _ in range(turns):
        round_ = work.turn()
        assert round_ is not None
        held = set(work.asked(round_, "holdout"))
        work.answer([task for task in work.asked(round_) if not (task in held and hard(task))])
    rows = work.corpus().rows
    return [int(task) for task in rows.ids[rows.holdout & (rows.reached > 0) & rows.waiting]]


def test_hard_images_that_are_left_open_do_not_bend_what_is_measured(services: Services) -> None:
    work = Labelling(services, 300)
    left = label_the_easy(work, 4)
    assert len(left) > 4
    assert work.measured() == sorted(before_the_first_open(work))
    counts = services.ledger.counts(work.project)
    assert counts.holdout_labelled > counts.holdout_measured + 10
    in_order = work.in_order()
    last = max(in_order.index(task) for task in in_order if task in work.answers)
    assert counts.holdout_open == sum(in_order.index(task) < last for task in left)
    work.answer(left)
    assert sorted(work.measured()) == sorted(before_the_first_open(work))
    assert sum(map(hard, work.measured())) >= len(left)


def test_a_label_that_waits_for_a_copy_of_its_own_image_is_told_that_one_is_open(services: Services) -> None:
    work = Labelling(services, 100)
    work.grow(100, contents=[content(i) for i in range(1, 101)])
    round_ = work.turn()
    assert round_ is not None
    asked = [task for task in work.in_order() if task in work.asked(round_)]
    last = max(place for place, task in enumerate(asked) if task - 100 in asked)
    work.answer(asked[:last])
    counts = services.ledger.counts(work.project)
    assert (counts.holdout_labelled, counts.holdout_measured, counts.holdout_open) == (last, last - 1, 1)


def test_images_that_are_left_open_come_first_in_every_queue_as_long_as_it_takes(services: Services) -> None:
    work = Labelling(services, 300)
    left = label_the_easy(work, 2)
    for _ in range(3):
        round_ = work.turn()
        assert round_ is not None
        asked = work.asked(round_)
        assert asked[2 : 3 * len(left) : 3] == [task for task in work.in_order() if task in left]
        work.answer([task for task in asked if task not in left and not hard(task)])


@pytest.mark.parametrize("hard_ones", ["skipped", "deleted"])
def test_hard_images_that_are_skipped_are_counted_and_those_deleted_open_the_way(
    services: Services, hard_ones: str
) -> None:
    work = Labelling(services, 300)
    left = label_the_easy(work, 4)
    if hard_ones == "skipped":
        work.answer(left, skip=True)
    else:
        services.ledger.reconcile(work.project, [], full=False, gone=left)
    counts = services.ledger.counts(work.project)
    assert counts.holdout_measured == counts.holdout_labelled > 10
    in_order = work.in_order()
    last = max(map(in_order.index, work.measured()))
    undecided = sum(in_order.index(task) < last for task in left) if hard_ones == "skipped" else 0
    assert (counts.holdout_open, counts.holdout_undecided) == (0, undecided)
    assert work.corpus().examples(held_out=True).undecided == undecided, "kept with each version"


def test_images_skipped_before_an_import_that_puts_them_beyond_what_is_measured_are_not_counted_with_it(
    services: Services,
) -> None:
    work = Labelling(services, 100)
    round_ = work.turn()
    assert round_ is not None
    asked = [task for task in work.in_order() if task in work.asked(round_)]
    work.answer(asked[::2])
    work.answer(asked[1::2], skip=True)
    work.grow(900)
    for _ in range(2):
        round_ = work.turn()
        assert round_ is not None
        work.answer([task for task in work.asked(round_) if task not in work.answers])
    rows = work.corpus().rows
    last = rows.places[rows.measured].max()
    assert 0 < (rows.skipped & (rows.places <= last)).sum() < (rows.skipped & rows.holdout).sum()
    assert work.corpus().examples(held_out=True).undecided == (rows.skipped & (rows.places <= last)).sum()
    assert services.ledger.counts(work.project).holdout_undecided == (rows.skipped & (rows.places <= last)).sum()


def measured(bench: Bench) -> list[int]:
    """On how many labels, the newest version first."""
    return [(version.meta.metrics.holdout or {})["n"] for version in bench.versions]


def test_an_image_settled_without_a_label_has_the_model_measured_on_the_labels_that_waited_for_it(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "bench", tasks=60)
    bench.label(*range(2, 21), *range(21, 51))
    bench.turn()
    assert measured(bench)[0] == 0, "task 1 comes first, and is open"
    bench.services.ledger.set_image_errors(bench.project, {1: "gone"})
    bench.turn()
    assert measured(bench) == [19, 0]
    bench.turn()
    assert len(bench.versions) == 2
    bench.services.database.close()


def test_labels_of_images_that_are_lost_are_not_counted_as_measured(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench", tasks=60)
    bench.label(*range(1, 51))
    bench.services.ledger.set_image_errors(bench.project, dict.fromkeys(range(1, 9), "gone"))
    bench.turn()
    counts = bench.services.ledger.counts(bench.project)
    assert measured(bench) == [12]
    assert (counts.holdout_measured, counts.holdout_labelled, counts.holdout_unreadable) == (12, 20, 8)
    assert described(vars(counts)) == "12 labels measured; 8 not, as their images cannot be read"
    bench.services.database.close()


def test_after_an_import_ten_times_as_large_what_is_measured_is_a_part_of_the_new_order(services: Services) -> None:
    work = Labelling(services, 60)
    for _ in range(2):
        round_ = work.turn()
        assert round_ is not None
        work.answer(work.asked(round_))
    before = len(work.measured())
    work.grow(600)
    for _ in range(3):
        round_ = work.turn()
        assert round_ is not None
        assert set(work.measured()) <= set(before_the_first_open(work))
        work.answer(work.asked(round_))
    assert work.measured() == sorted(before_the_first_open(work))
    assert len(work.measured()) > before
    assert sum(task <= 60 for task in work.measured()) < before / 2


def test_an_accepted_label_measures_nothing_and_opens_the_way_to_none_behind_it(services: Services) -> None:
    """Else those would measure whose neighbours in the order the model is sure of."""
    work = Labelling(services, 300)
    left = label_the_easy(work, 4)
    before, counts = work.measured(), services.ledger.counts(work.project)
    rest = [task for task in range(1, 301) if task not in work.answers]
    work.accept(rest)
    rows = work.corpus().rows
    assert not rows.waiting.any()
    assert work.measured() == before == sorted(before_the_first_open(work))
    after = services.ledger.counts(work.project)
    assert (after.holdout_measured, after.holdout_open) == (counts.holdout_measured, counts.holdout_open)
    assert (counts.holdout_accepted, after.holdout_accepted) == (0, after.holdout_open)
    assert (after.accepted, after.waiting, after.labelled) == (len(rest), 0, counts.labelled)
    work.project = reserve(work.project, services.ledger, services.versions, services.settings)
    with pytest.raises(NothingToAskError, match=rf"answered \({len(rest)} by labels accepted of the model\)"):
        choose(work.project, work.corpus(), None, services.ledger, services.settings)
    assert work.turn() is None
    assert work.measured() == before
    work.answer(left)
    assert sorted(work.measured()) == sorted(before_the_first_open(work))


def test_the_held_out_tasks_are_asked_for_in_their_order_whatever_is_accepted_and_taken_back(
    services: Services,
) -> None:
    work = Labelling(services, 300)
    order = work.in_order()
    work.accept(order[1:4])
    round_ = work.turn()
    assert round_ is not None
    asked = [task for task in order if task in work.asked(round_)]
    assert asked[0] == order[0]
    assert not set(asked) & set(order[1:4])
    assert not set(work.asked(round_, "strategy", "random")) & set(order)
    work.answer(asked)
    assert work.measured() == [order[0]], "those behind are labelled, and wait for what is open"
    work.take_back(order[1:4])
    assert work.measured() == [order[0]]
    work.answer(order[1:4])
    assert sorted(work.measured()) == sorted([*order[1:4], *asked])


def test_where_most_held_out_tasks_have_an_accepted_label_the_others_come_a_batch_at_a_time(
    services: Services,
) -> None:
    """Not one by one, with a turn to wait for after each."""
    work = Labelling(services, 2_000)
    round_ = work.turn()
    assert round_ is not None
    work.answer(work.asked(round_))
    order = work.in_order()
    open_ = [task for task in order if task not in work.answers][4::10]
    work.accept(set(range(1, 2_001)) - set(open_))
    assert len(open_) > services.settings.batch_size
    batches = []
    while (round_ := work.turn()) is not None:
        batches.append(work.asked(round_))
        work.answer(batches[-1])
    size = services.settings.batch_size
    assert batches == [open_[start : start + size] for start in range(0, len(open_), size)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_status_counts_what_is_measured(services: Services, seed: int) -> None:
    work, rng = Labelling(services, 80), np.random.default_rng(seed)
    for step in range(40):
        some_history(work, rng)
        rows = work.corpus().rows
        counts = services.ledger.counts(work.project)
        asked = rows.holdout & (rows.reached > 0)
        told = (counts.holdout_measured, counts.holdout_undecided)
        assert told == (rows.measured.sum(), rows.undecided.sum()), step
        assert counts.holdout_found == (rows.measured & rows.found).sum()
        assert len(work.corpus().examples(held_out=True).tasks) == counts.holdout_measured, "each has an image"
        assert counts.holdout_unreadable == (rows.holdout & rows.labelled & rows.failed).sum()
        late = (asked & rows.labelled & ~rows.failed & ~rows.measured).any()
        assert not late or 0 < counts.holdout_open <= (asked & rows.open).sum()
        first_open = rows.places[asked & rows.open].min(initial=1.0)
        assert (rows.places[rows.measured | rows.undecided] < first_open).all()


def some_history(work: Labelling, rng: np.random.Generator) -> None:
    """Something that people, programs or hosts do to a project."""
    ledger, ids = work.services.ledger, range(1, work.tasks + 1)
    some = rng.choice(ids, rng.integers(1, 12), replace=False).tolist()
    match rng.integers(10):
        case 0 | 1 | 2:
            round_ = work.turn()
            work.answer([task for task in work.asked(round_) if rng.random() < 0.7] if round_ else [])
        case 3:
            work.answer(some)
        case 4:
            work.answer(some, skip=True)
        case 5:
            ledger.reconcile(work.project, [(task(i), []) for i in some], full=False)
        case 6:
            ledger.reconcile(work.project, [], full=False, gone=some)
        case 7:
            ledger.set_image_errors(work.project, dict.fromkeys(some, "gone"))
        case 8:
            work.accept(some)
        case _:
            work.set(holdout_share=float(rng.choice([0.0, 0.2, 0.5])))
            work.grow(5)
