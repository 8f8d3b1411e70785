"""What is chosen for one project while it runs: kept whole, by whoever changes it, and heeded by the job that waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.records import ProjectKey
from ml_backend.store import jobs as module
from ml_backend.store.database import Database
from ml_backend.store.events import Inbox
from ml_backend.store.job import Job
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.project_state import ChosenSettings
from ml_backend.store.projects import Project
from ml_backend.store.tuning import Tuning
from tests.conftest import KEY, known
from tests.fakes import FakeClock, quick_database
from tests.store.test_jobs import claimed, running

SECONDS = st.sampled_from([0.0, 5.0, 30.0, 600.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("label"), st.integers(1, 6)),
        st.tuples(st.just("pass"), st.sampled_from([1.0, 4.0, 20.0, 300.0])),
        st.tuples(st.just("labels"), st.sampled_from([None, 1, 5, 40])),
        st.tuples(st.just("seconds"), st.one_of(st.none(), SECONDS)),
    ),
    max_size=12,
)


@pytest.fixture
def tuning(database: Database, jobs: Jobs) -> Tuning:
    return Tuning(database, jobs)


@settings(max_examples=60)
@given(STEPS)
def test_a_job_is_due_when_the_project_has_its_labels_or_its_quiet_however_both_change_while_it_waits(
    steps: list[tuple[str, Any]],
) -> None:
    with TemporaryDirectory() as folder:
        database, clock = quick_database(Path(folder)), FakeClock()
        jobs, project = Jobs(database, clock=clock), known(Ledger(database, clock=clock))
        tuning, chosen = Tuning(database, jobs), {"labels": 10, "seconds": 30.0}
        total, last, due = 0, None, False
        for what, value in steps:
            if what == "label":
                due = due or (last is not None and clock() >= last + timedelta(seconds=chosen["seconds"]))
                jobs.mark_due(project, labels=value, reason="labels")
                total, last = total + value, clock()
            elif what == "pass":
                clock.advance(value)
            else:
                due = due or (last is not None and clock() >= last + timedelta(seconds=chosen["seconds"]))
                tuning.choose(project, **{f"train_after_{what}": value})
                chosen[what] = {"labels": 10, "seconds": 30.0}[what] if value is None else value
            quiet = last is not None and clock() >= last + timedelta(seconds=chosen["seconds"])
            due = due or (last is not None and (quiet or total >= chosen["labels"]))
            waiting = jobs.status(project).due
            assert (waiting is not None and waiting.due_at <= clock()) == due
        database.close()


def test_a_webhook_goes_by_the_project_s_own_number_of_labels(
    tuning: Tuning, jobs: Jobs, project: Project, ledger: Ledger, clock: FakeClock
) -> None:
    inbox, other = Inbox(jobs.database, jobs, clock=clock), known(ledger, 2)
    tuning.choose(project, train_after_labels=2, train_after_seconds=7200)
    for each in (project, other):
        for number in (1, 2):
            answer = {"id": number, "task": number, "updated_at": "now"}
            inbox.record(each.key, "ANNOTATION_CREATED", {"annotation": answer})
    first, second = (jobs.status(each).due for each in (project, other))
    assert first is not None
    assert second is not None
    assert first.due_at <= clock() < second.due_at


def test_a_quiet_longer_than_any_other_is_waited_for(
    tuning: Tuning, jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    tuning.choose(project, train_after_seconds=7200)
    jobs.mark_due(project, labels=1, reason="labels")
    clock.advance(7000)
    assert jobs.claim("worker") is None
    clock.advance(200)
    assert jobs.claim("worker") is not None


def test_a_job_that_waits_for_its_next_try_is_not_hurried_by_other_settings(
    tuning: Tuning, jobs: Jobs, project: Project
) -> None:
    waits = jobs.fail(running(jobs, project), "an error")
    tuning.choose(project, train_after_labels=1, train_after_seconds=0)
    assert jobs.status(project).due == waits


def test_another_strategy_is_a_reason_for_a_turn_at_once_and_the_same_again_is_none(
    tuning: Tuning, jobs: Jobs, project: Project
) -> None:
    before, after = tuning.choose(project, strategy="margin")
    assert (before.state.chosen.strategy, after.state.chosen.strategy) == (None, "margin")
    jobs.finish(claimed(jobs))
    before, after = tuning.choose(project, strategy="margin")
    assert before == after
    tuning.choose(project, train_after_labels=3)
    assert jobs.claim("worker") is None


def test_two_people_who_change_different_settings_at_once_both_have_their_way(
    tuning: Tuning, project: Project, ledger: Ledger
) -> None:
    changes: list[dict[str, Any]] = [{"strategy": "margin"}, {"batch_size": 50}, {"train_after_labels": 3}]
    changers = [threading.Thread(target=tuning.choose, args=(project,), kwargs=change) for change in changes]
    changers.append(threading.Thread(target=tuning.pause, args=(project,)))
    for changer in changers:
        changer.start()
    for changer in changers:
        changer.join()
    state = ledger.project(project.key).state
    assert state.chosen == ChosenSettings(strategy="margin", batch_size=50, train_after_labels=3)
    assert state.paused


def test_a_change_that_is_cut_off_leaves_settings_and_job_as_they_were(
    tuning: Tuning, jobs: Jobs, project: Project, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Jobs, "mark_due_in", killed)
    acts: list[Callable[[], object]] = [
        lambda: tuning.choose(project, strategy="margin"),
        lambda: tuning.resume(project),
    ]
    for act in acts:
        tuning.pause(project)
        before = ledger.project(project.key).state
        with pytest.raises(KeyboardInterrupt):
            act()
        assert ledger.project(project.key).state == before
        assert jobs.status(project).due is None


def test_while_paused_labels_are_noted_and_nobody_takes_the_job_until_it_is_resumed(
    tuning: Tuning, database: Database, jobs: Jobs, project: Project, ledger: Ledger, clock: FakeClock
) -> None:
    """Also another worker, a service that was started again, and one that claims for this project alone."""
    other = known(ledger, 2)
    tuning.pause(project)
    for each in (other, project):
        jobs.mark_due(each, labels=20, reason="ANNOTATIONS_CREATED")
    later = Jobs(database, clock=clock)
    taken = claimed(jobs)
    assert taken.project_id == other.id
    clock.advance(3600)
    assert later.claim("two", project=project) is None
    assert not later.others_wait(taken)
    waiting = later.status(project).due
    assert waiting is not None
    assert waiting.labels == 20
    tuning.resume(project)
    assert claimed(later).id == waiting.id


def test_a_worker_that_meets_the_pause_between_looking_and_taking_leaves_the_job(
    tuning: Tuning, jobs: Jobs, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.mark_due(project, immediately=True, reason="test")
    look = module._next
    looks: list[None] = []

    def then_paused(*arguments: Any) -> Any:
        looks.append(None)
        found = look(*arguments)
        if len(looks) == 1:
            tuning.pause(project)  # after the look that takes no lock
        return found

    monkeypatch.setattr(module, "_next", then_paused)
    assert jobs.claim("worker") is None


def test_a_turn_that_fails_or_dies_while_paused_is_not_tried_again_before_it_is_resumed(
    tuning: Tuning, jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    ends: list[Callable[[Job], object]] = [
        lambda job: jobs.fail(job, "an error"),
        lambda _: jobs.abandon("worker"),
        jobs.hand_back,
    ]
    for end in ends:
        job = running(jobs, project)
        tuning.pause(project)
        end(job)
        clock.advance(3600)
        assert jobs.claim("worker") is None
        tuning.resume(project)
        jobs.finish(claimed(jobs))


def test_the_project_that_takes_the_number_of_another_has_none_of_its_settings(
    tuning: Tuning, ledger: Ledger, project: Project
) -> None:
    tuning.choose(project, strategy="margin")
    tuning.pause(project)
    new = ledger.replace(project, title="Cars", label_config=project.label_config, schema=project.schema, created=2)
    assert new.key == ProjectKey(KEY.host, 1)
    assert (new.state.chosen, new.state.paused) == (ChosenSettings(), None)
