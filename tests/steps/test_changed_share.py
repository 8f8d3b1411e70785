"""Another share held out in mid-run, or fewer tasks: nothing that was answered with a guess in sight measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps.hold_out import reserve
from tests.labelling import Labelling

pytestmark = pytest.mark.slow


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", holdout_share=0.2, seed=3))
    yield opened
    opened.database.close()


def test_a_share_that_is_set_in_mid_run_measures_and_learns_by_the_new_split_alone(services: Services) -> None:
    work = Labelling(services, 300)
    work.set(holdout_share=0.0)
    for share in (0.0, 0.1, 0.3, 0.0, 0.3):
        work.set(holdout_share=share)
        for _ in range(2):
            round_ = work.turn()
            assert round_ is not None
            work.answer(work.asked(round_))
            order = work.in_order()
            assert bool(order) == bool(share)
            measured = work.measured()
            assert set(measured) == set(order[: len(measured)])
            corpus = work.corpus()
            apart = corpus.rows.ids[corpus.all_examples.tasks[corpus.folds(corpus.all_examples) >= 0]]
            assert set(measured) <= set(apart.tolist()) <= set(order)
    assert len(work.measured()) > 40


def with_a_model(services: Services, tasks: int, answers: int) -> Labelling:
    """A project with so many answers to held-out tasks and others, which show a guess."""
    work = Labelling(services, tasks)
    publish(work)
    while len(work.answers) < answers:
        round_ = work.turn()
        assert round_ is not None
        work.answer(work.asked(round_))
    return work


def publish(work: Labelling) -> None:
    services = work.services
    work.project = reserve(work.project, services.ledger, services.versions, services.settings)
    services.versions.publish(work.project, services.versions.next_number(work.project), lambda _folder: None)


def seen_with_a_guess(work: Labelling) -> set[int]:
    """Answered, and above what is held out."""
    return set(work.answers) - set(work.in_order())


def test_deleting_tasks_holds_none_out_that_was_answered_with_a_guess(services: Services) -> None:
    services.settings = services.settings.model_copy(update={"holdout_share": 0.1})
    work = with_a_model(services, 190, 60)
    seen = seen_with_a_guess(work)
    services.ledger.reconcile(work.project, [], full=False, gone=range(101, 191))
    for _ in range(3):
        round_ = work.turn()
        assert round_ is not None
        work.answer(work.asked(round_))
        assert not seen & set(work.in_order())
        assert not seen & set(work.measured())


@pytest.mark.parametrize("shares", [(0.4,), (0.4, 0.9), (0.1, 0.4), (0.0, 0.2)])
def test_another_share_holds_none_out_that_was_answered_with_a_guess(
    services: Services, shares: tuple[float, ...]
) -> None:
    work = with_a_model(services, 200, 60)
    for share in shares:
        seen = seen_with_a_guess(work)
        work.set(holdout_share=share)
        for _ in range(2):
            round_ = work.turn()
            assert round_ is not None
            work.answer(work.asked(round_))
        assert not seen & set(work.in_order())
        assert not seen & set(work.measured())


def test_a_larger_share_asks_for_more_of_what_is_held_out_and_says_that_no_more_is(services: Services) -> None:
    work = with_a_model(services, 200, 60)
    held, measured = work.in_order(), len(work.measured())
    work.set(holdout_share=0.5)
    round_ = work.turn()
    assert round_ is not None
    assert work.in_order() == held
    assert len(work.asked(round_, "holdout")) > measured / 2
    (told,) = [problem for problem in services.status.of(work.project)["problems"] if "held out" in problem]
    assert told == (
        "ML_BACKEND_HOLDOUT_SHARE asks for 50% of the images to be held out, and 20% are: the others were answered with a "
        "guess in sight or learned from, since there is a model. They stay 20%: set it to 0.2."
    )
