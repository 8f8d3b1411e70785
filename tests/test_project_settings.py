"""A project's own settings: what is taken for them, and that all that asks for tasks goes by them."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend import cycle, dry_run
from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.manual_queue import QueryOptions
from ml_backend.project_settings import changes, checked, settings_of
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.worker import accepting, foreground
from ml_backend.worker.loop import Worker
from tests.other_settings import use
from tests.steps import test_large_projects as large
from tests.steps.test_large_projects import Host, connected

services = large.services


def turn(services: Services, project: Project) -> cycle.Outcome:
    return cycle.run(services.ledger.project(project.key), services, lambda *_: None)


def test_a_changed_batch_size_and_strategy_are_those_of_the_next_queue(services: Services) -> None:
    """And of what `sync query` computes where nothing is said; taken back, they are the service's again."""
    use(services, holdout_share=0.0)
    project = connected(services, Host(60, labelled=24))
    first = turn(services, project).round
    services.tuning.choose(project, batch_size=7, strategy="margin")
    second = turn(services, project).round
    assert first is not None
    assert second is not None
    assert (first.strategy, len(services.ledger.queries(first))) == ("auto", 20)
    assert (second.strategy, len(services.ledger.queries(second))) == ("margin", 7)
    batch = services.manual_queue.query(project, QueryOptions())
    assert (batch.strategy, len(batch.queries)) == ("margin", 7)
    services.tuning.choose(project, batch_size=None, strategy=None)
    third = turn(services, project).round
    assert third is not None
    assert (third.strategy, len(services.ledger.queries(third))) == ("auto", 20)


def test_the_first_order_is_as_long_as_the_project_s_batch(services: Services) -> None:
    project = connected(services, Host(60))
    services.tuning.choose(project, batch_size=5)
    services.first_order.serve(services.ledger.project(project.key))
    last = services.ledger.last_round(project)
    assert last is not None
    assert len(services.ledger.queries(last)) == 5


def test_what_is_changed_while_a_turn_reads_images_counts_in_that_turn(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = connected(services, Host(60, labelled=24))
    read = cycle._read

    def and_changed(*arguments: Any, **more: Any) -> Any:
        found = read(*arguments, **more)
        services.tuning.choose(project, strategy="entropy")
        return found

    monkeypatch.setattr(cycle, "_read", and_changed)
    round_ = turn(services, project).round
    assert round_ is not None
    assert round_.strategy == "entropy"


@pytest.mark.parametrize(
    "given",
    [
        {"strategy": "<script>alert(1)</script>"},
        {"strategy": "__class__"},
        {"strategy": "margin\x00"},
        {"batch_size": 10**9},
        {"batch_size": "0"},
        {"batch_size": "7.5"},
        {"batch_size": True, "train_after_labels": 0},
        {"train_after_labels": 10**9},
        {"train_after_seconds": "inf"},
        {"train_after_seconds": "nan"},
        {"train_after_seconds": -1},
        {"train_after_seconds": 10**9},
        {"password": "mine"},
        {"seed": 3},
    ],
)
def test_what_no_setting_can_be_is_refused_in_a_sentence_that_does_not_repeat_it(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"^Nothing was changed: .*(must|is no setting)") as refused:
        checked(given)
    assert "<script>" not in str(refused.value)


def test_what_is_given_as_text_is_read_and_nothing_goes_back_to_the_service(services: Services) -> None:
    project = connected(services, Host(3))
    read = checked({"batch_size": "50", "train_after_seconds": "2.5", "strategy": None})
    assert read == {"batch_size": 50, "train_after_seconds": 2.5, "strategy": None}
    _, project = services.tuning.choose(project, strategy="margin", **{k: v for k, v in read.items() if v})
    assert settings_of(project, services.settings).batch_size == 50
    _, project = services.tuning.choose(project, **dict.fromkeys(read))
    assert settings_of(project, services.settings) == services.settings


def test_a_change_is_told_in_words_and_so_is_that_there_is_none(services: Services) -> None:
    project = connected(services, Host(3))
    before, after = services.tuning.choose(project, batch_size=50)
    assert changes(before, after, services.settings)[0] == "Batch size: 50 instead of 20."
    assert "made anew at once" in changes(before, after, services.settings)[1]
    assert changes(after, after, services.settings) == []
    before, after = services.tuning.pause(project)
    assert "A turn that is under way ends." in changes(before, after, services.settings)[0]


def test_while_paused_who_asks_for_a_turn_or_an_audit_is_told_so_and_status_says_how_to_go_on(
    services: Services,
) -> None:
    project = connected(services, Host(60, labelled=24))
    services.tuning.pause(project)
    resume = "`ml-backend settings resume` goes on"
    with pytest.raises(ConflictError, match=resume):
        foreground.run_turn(project, services, "sync run")
    with pytest.raises(ConflictError, match=resume):
        accepting.begin(project, services, 0.02, 0.95, by="somebody")
    told = services.status.of(services.ledger.project(project.key))
    assert resume in told["problems"][0]
    assert told["settings"]["paused"]
    worker = Worker(services)
    worker._poll()
    assert not worker.work()
    services.tuning.resume(project)
    assert foreground.run_turn(project, services, "sync run")["labelled"] == 24


def test_a_turn_under_way_ends_when_its_project_is_paused_and_the_next_does_not_begin(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = connected(services, Host(60, labelled=24))
    worker, run = Worker(services), cycle.run

    def paused_meanwhile(*arguments: Any, **more: Any) -> cycle.Outcome:
        services.tuning.pause(project)
        services.jobs.mark_due(project, labels=20, reason="labels meanwhile")
        return run(*arguments, **more)

    monkeypatch.setattr(cycle, "run", paused_meanwhile)
    assert worker.work()
    job = services.jobs.status(project)
    assert job.last is not None
    assert job.last.state == "done"
    assert not worker.work()


def test_a_dry_run_changes_the_copy_alone(services: Services) -> None:
    project = connected(services, Host(3))
    before = services.ledger.project(project.key)
    copy = dry_run.open_copy(services.settings)
    copy.tuning.choose(project, strategy="margin")
    copy.tuning.pause(project)
    copy.database.close()
    assert services.ledger.project(project.key) == before
    assert services.jobs.status(project).due is not None
