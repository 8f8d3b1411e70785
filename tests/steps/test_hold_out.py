"""What the accuracy is measured on: a random sample of the whole project, whoever labels what in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from ml_backend.learning.record import FOLDS
from ml_backend.records import Query
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.split import place, reserved_share
from ml_backend.steps.choose import spare
from tests.labelling import NOW, Labelling, content

pytestmark = pytest.mark.slow


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", holdout_share=0.2, seed=3))
    yield opened
    opened.database.close()


def test_places_are_even_and_another_seed_gives_others() -> None:
    places = np.array([place(content(i), 0) for i in range(4000)])
    assert np.abs(np.sort(places) - (np.arange(4000) + 0.5) / 4000).max() < 0.03  # Kolmogorov and Smirnov
    others = np.array([place(content(i), 1) for i in range(4000)])
    assert abs(np.corrcoef(places, others)[0, 1]) < 0.06


def test_a_small_project_holds_out_a_larger_share_and_none_where_none_is_wanted() -> None:
    assert [reserved_share(0.1, 20, tasks) for tasks in (0, 5, 100, 150, 1_000_000)] == [0.2, 0.2, 0.2, 20 / 150, 0.1]
    assert reserved_share(0.0, 20, 100) == 0.0


def test_every_task_is_asked_for_and_no_held_out_one_by_a_strategy(services: Services) -> None:
    work = Labelling(services, 150)
    turns = 0
    asked: Counter[int] = Counter()
    while (round_ := work.turn()) is not None:
        turns += 1
        reserved = set(work.in_order())
        assert not reserved & set(work.asked(round_, "strategy", "random"))
        assert set(work.asked(round_, "holdout")) <= reserved
        assert not reserved & set(spare(work.project, work.corpus(), round_, services.ledger, services.settings))
        picked = work.asked(round_)
        asked.update(picked)
        work.answer(picked)
        assert turns < 20
    assert sorted(asked) == list(range(1, 151))
    assert sorted(work.measured()) == sorted(work.in_order())
    folds = work.corpus().folds(work.corpus().all_examples)
    assert (np.flatnonzero(folds >= 0) + 1).tolist() == sorted(work.in_order()), "and each is kept apart by some fold"


def test_what_is_measured_is_the_first_part_of_the_order_of_the_split_whatever_is_labelled(services: Services) -> None:
    """The order is that of the images' hashes: no draw from what a strategy has left can come into it."""
    work = Labelling(services, 200)
    sizes = []
    for _ in range(8):
        round_ = work.turn()
        assert round_ is not None
        work.answer(work.asked(round_))
        measured = set(work.measured())
        assert measured == set(work.in_order()[: len(measured)])
        sizes.append(len(measured))
    assert sizes == sorted(sizes)
    assert sizes[0] == 20 < sizes[-1], "it grows with the labels"


def test_a_seed_that_is_changed_later_moves_nothing(services: Services) -> None:
    work = Labelling(services, 60)
    work.turn()
    before = work.in_order()
    assert before == sorted(before, key=lambda task: place(content(task), 3))
    services.ledger.seed = 9
    work.set(seed=9)
    work.project = services.registry.register("http://localhost:8080", 1, work.project.label_config, created=None)
    work.grow(60)
    work.turn()
    assert set(before) >= {task for task in work.in_order() if task <= 60}
    assert work.in_order() == sorted(work.in_order(), key=lambda task: place(content(task), 3))


def test_identical_images_are_on_one_side(services: Services) -> None:
    work = Labelling(services, 40)
    work.grow(40, contents=[content(i) for i in range(1, 41)])
    work.turn()
    held = set(work.in_order())
    assert held
    assert {i for i in held if i <= 40} == {i - 40 for i in held if i > 40}


@pytest.mark.parametrize("skew", [timedelta(minutes=-10), timedelta(minutes=10)])
def test_no_clock_has_a_say_in_what_is_measured(services: Services, skew: timedelta) -> None:
    work = Labelling(services, 100)
    round_ = work.turn()
    assert round_ is not None
    work.answer(work.asked(round_), at=NOW + skew)
    assert len(work.measured()) == len(work.asked(round_, "holdout")) > 5


def test_a_skipped_task_is_not_asked_for_again_and_the_next_takes_its_turn(services: Services) -> None:
    work = Labelling(services, 200)
    order = first_asked(work)
    work.answer(order[:3], skip=True)
    work.answer(order[3:])
    round_ = work.turn()
    assert round_ is not None
    following = work.in_order()[20:23]
    assert set(following) <= set(work.asked(round_, "holdout"))
    assert not set(order[:3]) & set(work.asked(round_))
    work.answer(following)
    assert sorted(work.measured()) == sorted([*order[3:], *following])


def first_asked(work: Labelling) -> list[int]:
    """The held-out tasks of the first round, in order."""
    round_ = work.turn()
    assert round_ is not None
    asked = set(work.asked(round_, "holdout"))
    return [task for task in work.in_order() if task in asked]


def test_a_task_that_was_skipped_is_not_drawn(services: Services) -> None:
    work = Labelling(services, 200)
    skipped = work.in_order()[:4]
    work.answer(skipped, skip=True)
    assert first_asked(work) == work.in_order()[4:24]


def test_labels_that_are_there_for_all_tasks_are_measured_on_at_once(services: Services) -> None:
    work = Labelling(services, 200)
    work.answer(range(1, 201))
    assert work.turn() is None
    assert sorted(work.measured()) == sorted(work.in_order())
    counts = services.ledger.counts(work.project)
    assert counts.holdout == counts.holdout_labelled == counts.holdout_measured == counts.holdout_found > 20


def test_labels_that_somebody_chose_count_once_the_rest_of_their_draw_is_labelled(services: Services) -> None:
    work = Labelling(services, 200)
    first = work.in_order()[:20]
    work.answer(first[:8])
    assert first_asked(work) == first[8:]
    counts = services.ledger.counts(work.project)
    assert (counts.holdout_labelled, counts.holdout_measured) == (8, 0)
    work.answer(first[8:19])
    assert work.measured() == []
    work.answer(first[19:], skip=True)
    assert sorted(work.measured()) == sorted(first[:19])
    counts = services.ledger.counts(work.project)
    assert (counts.holdout_measured, counts.holdout_found) == (19, 8)


def test_labels_of_the_first_random_order_measure_at_once(services: Services) -> None:
    work = Labelling(services, 200)
    first = work.in_order()[:20]
    queries = [Query(task, rank, "random", 0.0, "") for rank, task in enumerate(first[:3])]
    services.ledger.open_round(work.project, version=0, strategy="first_order", seed=0, queries=queries, first=True)
    work.answer(first[:3])
    assert first_asked(work) == first[3:]
    assert sorted(work.measured()) == sorted(first[:3])
    assert services.ledger.counts(work.project).holdout_found == 0


def test_held_out_tasks_take_every_third_place_until_all_of_them_are_labelled(services: Services) -> None:
    work = Labelling(services, 200)
    for left in (20, 17, 14, 11, 8, 5, 2):
        round_ = work.turn()
        assert round_ is not None
        asked, held = work.asked(round_), work.asked(round_, "holdout")
        assert asked[2:9:3][: len(held)] == held[:3]
        assert len(held) == left
        work.answer(asked[:10])
        services.ledger.configure(work.project, overlap=left)  # any change that calls for a new queue
        work.project = services.ledger.project(work.project.key)
    assert len(work.measured()) == 20


def test_a_later_draw_with_chosen_labels_does_not_hold_back_an_earlier_one(services: Services) -> None:
    work = Labelling(services, 200)
    order = work.in_order()
    round_ = work.turn()
    assert round_ is not None
    work.answer(work.asked(round_))
    work.answer([*order[20:22], *[i for i in range(1, 120) if i not in order]])
    work.turn()
    asked = int((work.corpus().rows.reached > 0).sum())
    assert asked > 22
    assert sorted(work.measured()) == sorted(order[:20])
    work.answer(order[22:asked])
    assert sorted(work.measured()) == sorted(order[:asked])


def test_a_chosen_label_is_not_measured_before_and_kept_apart_for_then(services: Services) -> None:
    work = Labelling(services, 200)
    chosen = work.in_order()[:3]
    work.answer([*chosen, *(i for i in range(1, 60) if i not in work.in_order())])
    work.turn()
    corpus = work.corpus()
    assert not set(work.measured()) & set(chosen)
    examples = corpus.all_examples
    of_fold = dict(zip(corpus.rows.ids[examples.tasks].tolist(), corpus.folds(examples).tolist(), strict=True))
    assert [of_fold[task] for task in chosen] == [task % FOLDS for task in chosen]


@pytest.mark.parametrize("imported", [0.2, 0.8])
def test_an_import_of_the_hard_images_alone_does_not_bend_what_is_measured(services: Services, imported: float) -> None:
    """Half the images are hard; whoever prepared the import labelled some of those, and no easy one."""
    work = Labelling(services, 150)
    hard = [i for i in range(1, 151) if i % 2]
    work.answer(hard[: int(imported * len(hard))])
    while (round_ := work.turn()) is not None:
        measured = work.measured()
        order = work.in_order()
        assert set(measured) == set(order[: len(measured)]), "a part of the order, so no choice of anybody's"
        work.answer(work.asked(round_))
    assert sorted(work.measured()) == sorted(work.in_order())


def test_what_is_measured_is_a_sample_of_the_project_as_it_has_become(services: Services) -> None:
    """Tasks that come later are asked for in their turn, and until then those whose turn is later do not count."""
    work = Labelling(services, 150)
    for _ in range(2):
        round_ = work.turn()
        assert round_ is not None
        work.answer(work.asked(round_))
    work.grow(150)
    for _ in range(4):
        round_ = work.turn()
        assert round_ is not None
        measured = work.measured()
        assert set(measured) <= set(work.in_order()[: max(20, len(work.answers))])
        work.answer(work.asked(round_))
        measured = work.measured()
        assert set(measured) == set(work.in_order()[: len(measured)])
    old = sum(task <= 150 for task in measured)
    assert 0.25 < old / len(measured) < 0.75


def test_only_the_first_order_is_no_choice_of_anybodys(services: Services) -> None:
    work = Labelling(services, 200)
    first = work.in_order()[:20]
    queries = [Query(task, rank, "random", 0.0, "") for rank, task in enumerate(first[:3])]
    services.ledger.open_round(work.project, version=1, strategy="auto", seed=0, queries=queries)
    work.answer(first[:3])
    first_asked(work)
    assert work.measured() == [], "the random arm of a later round is one of what the strategy has left"


def test_what_a_version_learned_from_changes_with_the_split(services: Services) -> None:
    work = Labelling(services, 200)
    work.answer(range(1, 101))
    work.turn()
    before = services.ledger.label_digest(work.project)
    work.turn()
    assert services.ledger.label_digest(work.project) == before
    work.set(holdout_share=0.5)
    work.turn()
    assert services.ledger.label_digest(work.project) != before


def test_an_image_that_cannot_be_read_any_more_stays_held_out_and_is_waited_for_no_longer(services: Services) -> None:
    work = Labelling(services, 200)
    asked = first_asked(work)
    services.ledger.set_image_errors(work.project, {asked[0]: "gone"})
    assert asked[0] in work.in_order()
    work.answer(asked[1:])
    round_ = work.turn()
    assert round_ is not None
    assert asked[0] not in work.asked(round_)
    services.ledger.set_content_hash(work.project, {asked[0]: content(asked[0])})
    round_ = work.turn()
    assert round_ is not None
    work.answer([asked[0]])
    assert asked[0] in work.measured()


def test_another_image_in_a_task_is_another_draw(services: Services) -> None:
    work = Labelling(services, 200)
    asked = first_asked(work)
    work.answer(asked)
    services.ledger.set_content_hash(work.project, {asked[0]: content(10_000)})
    rows = work.corpus().rows
    (row,) = np.flatnonzero(rows.ids == asked[0])
    assert rows.places[row] == place(content(10_000), 3)
    assert (rows.reached[row], asked[0] in work.measured()) == (0, False)


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_a_handful_of_tasks_is_labelled_to_the_end(services: Services, tasks: int) -> None:
    work = Labelling(services, tasks)
    while (round_ := work.turn()) is not None:
        work.answer(work.asked(round_))
    assert len(work.answers) == tasks


@pytest.mark.parametrize("chosen", [0, 12, 40])
def test_the_status_counts_by_the_rule_that_measures(services: Services, chosen: int) -> None:
    work = Labelling(services, 150)
    rng = np.random.default_rng(chosen)
    work.answer(rng.permutation(np.arange(1, 151))[:chosen].tolist())
    for _ in range(3):
        round_ = work.turn()
        assert round_ is not None
        asked = work.asked(round_)
        work.answer(rng.permutation(asked)[: len(asked) * 2 // 3].tolist())
        rows, counts = work.corpus().rows, services.ledger.counts(work.project)
        assert counts.holdout_measured == rows.measured.sum()
        assert counts.holdout_found == (rows.measured & rows.found).sum()
        assert counts.holdout == rows.holdout.sum()
