from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_backend.errors import InvalidInputError, NotFoundError, TooLargeError
from ml_backend.records import ProjectKey
from ml_backend.store.database import Database
from ml_backend.store.events import MOST_NAMED, READERS, Inbox
from ml_backend.store.job import Job
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from tests.conftest import KEY
from tests.fakes import FakeClock, FakeLabelStudio


@pytest.fixture
def inbox(database: Database, jobs: Jobs, clock: FakeClock) -> Inbox:
    return Inbox(database, jobs, clock=clock)


def due(jobs: Jobs, project: Project) -> Job:
    found = jobs.status(project).due
    assert found is not None
    return found


def annotation(number: int, *, task: int = 7, at: str = "2026-01-01T00:00:00Z", skip: bool = False) -> dict[str, Any]:
    return {"id": number, "task": task, "was_cancelled": skip, "updated_at": at, "result": []}


def test_a_created_annotation_counts_one_label_and_names_its_task(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    receipt = inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)})
    assert (receipt.known, receipt.duplicate, receipt.labels) == (True, False, 1)
    assert inbox.pending(project).task_ids == {7}
    assert due(jobs, project).labels == 1


def test_an_event_writes_no_label(inbox: Inbox, ledger: Ledger, project: Project) -> None:
    inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)})
    assert ledger.labels(project) == []
    assert ledger.counts(project).tasks == 0


def test_a_bulk_event_counts_every_label_in_it_but_no_skip(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    bulk = [annotation(n, task=n, skip=n % 5 == 0) for n in range(5000)]
    assert inbox.record(KEY, "ANNOTATIONS_CREATED", {"annotation": bulk}).labels == 4000
    assert len(inbox.pending(project).task_ids) == 5000
    assert jobs.claim("worker") is not None


def test_what_is_accepted_of_a_model_hurries_nothing_and_is_read_in_the_end(
    inbox: Inbox, jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    accepted = {"result": [{"id": "accepted-c1-000000000000", "value": {"choices": ["cat"]}}]}
    bulk = [annotation(n, task=n) | accepted for n in range(5000)]
    assert inbox.record(KEY, "ANNOTATIONS_CREATED", {"annotation": bulk}).labels == 0
    for _ in range(20):  # as our own webhook sends them: without a payload
        inbox.record(KEY, "ANNOTATIONS_CREATED", {})
    assert jobs.claim("worker") is None
    clock.advance(jobs.debounce.quiet.total_seconds() + 1)
    assert jobs.claim("worker") is not None
    assert len(inbox.pending(project).task_ids) == 5000
    hostile: list[dict[str, Any]] = [
        {"result": [None]},
        {"result": "accepted-"},
        {"result": {"id": 1}},
        {"result": [{"id": None}]},
    ]
    odd = [annotation(n) | given for n, given in enumerate(hostile, start=9000)]
    assert inbox.record(KEY, "ANNOTATIONS_CREATED", {"annotation": odd}).labels == len(hostile)


def test_the_same_delivery_twice_counts_once(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    for action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
        assert not inbox.record(KEY, action, {"annotation": annotation(5)}).duplicate
        assert inbox.record(KEY, action, {"annotation": annotation(5)}).duplicate
    assert due(jobs, project).labels == 2


def test_a_second_update_of_the_same_annotation_counts_again(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    inbox.record(KEY, "ANNOTATION_UPDATED", {"annotation": annotation(5, at="2026-01-01T00:00:00Z")})
    inbox.record(KEY, "ANNOTATION_UPDATED", {"annotation": annotation(5, at="2026-01-01T00:00:01Z")})
    assert due(jobs, project).labels == 2


def test_updates_that_do_not_say_when_are_never_taken_for_doubled(inbox: Inbox, project: Project) -> None:
    unstamped = {"annotation": {"id": 5, "task": 7}}
    assert not inbox.record(KEY, "ANNOTATION_UPDATED", unstamped).duplicate
    assert not inbox.record(KEY, "ANNOTATION_UPDATED", unstamped).duplicate


def test_a_skip_is_no_label_but_turning_a_label_into_a_skip_is_a_change(inbox: Inbox, project: Project) -> None:
    assert inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5, skip=True)}).labels == 0
    assert inbox.record(KEY, "ANNOTATION_UPDATED", {"annotation": annotation(6, skip=True)}).labels == 1


def test_deleted_annotations_name_the_tasks_the_ledger_knows_them_by(
    inbox: Inbox, ledger: Ledger, project: Project, clock: FakeClock
) -> None:
    studio = FakeLabelStudio(clock)
    task = studio.create_task(1)
    made = studio.annotate(task.id, "cat")
    ledger.reconcile(project, studio.listing(1), full=True)
    receipt = inbox.record(KEY, "ANNOTATIONS_DELETED", {"annotations": [{"id": made.id}, {"id": 999}]})
    assert receipt.labels == 2
    assert inbox.pending(project).task_ids == {task.id}


def test_created_and_deleted_tasks_are_named_and_make_a_job_due_without_labels(
    inbox: Inbox, jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    inbox.record(KEY, "TASKS_CREATED", {"tasks": [{"id": 1, "data": {}}, {"id": 2, "data": {}}]})
    inbox.record(KEY, "TASKS_DELETED", {"tasks": [{"id": 3}]})
    assert inbox.pending(project).task_ids == {1, 2, 3}
    assert jobs.claim("worker") is None
    clock.advance(30)
    assert jobs.claim("worker") is not None


def test_start_training_is_due_at_once_every_time(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    for _ in range(2):
        assert not inbox.record(KEY, "START_TRAINING", {"project": {"id": 1}}).duplicate
        job = jobs.claim("worker")
        assert job is not None
        jobs.finish(job)


def test_our_own_push_updates_the_project_and_must_not_call_for_the_next_one(
    inbox: Inbox, jobs: Jobs, project: Project
) -> None:
    inbox.record(KEY, "PROJECT_UPDATED", {"project": {"id": 1, "label_config": "<View/>", "model_version": "v3-r7"}})
    assert jobs.status(project).due is None


def test_a_changed_label_config_does_call_for_a_job(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    inbox.record(KEY, "PROJECT_UPDATED", {"project": {"id": 1, "label_config": "<View><Image/></View>"}})
    assert jobs.status(project).due is not None


def test_a_deleted_project_is_looked_at_at_once(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    inbox.record(KEY, "PROJECT_DELETED", {"project": {"id": 1}})
    assert jobs.claim("worker") is not None


def test_unknown_actions_are_accepted_ignored_and_counted(inbox: Inbox, jobs: Jobs, project: Project) -> None:
    for _ in range(3):
        receipt = inbox.record(KEY, "LABEL_LINK_CREATED", {"anything": [1]})
        assert not receipt.known
    assert inbox.ignored(project) == {"LABEL_LINK_CREATED": 3}
    assert jobs.status(project).due is None
    assert inbox.pending(project).events == 0


def test_invented_actions_cost_one_row_however_many_there_are(inbox: Inbox, project: Project) -> None:
    for number in range(50):
        inbox.record(project.key, f"INVENTED_{number}", {})
    assert inbox.ignored(project) == {"other": 50}


def test_an_event_that_names_more_than_label_studio_ever_does_is_refused(inbox: Inbox, project: Project) -> None:
    tasks = [{"id": number} for number in range(MOST_NAMED + 1)]
    with pytest.raises(TooLargeError, match="at most 10,000"):
        inbox.record(project.key, "TASKS_CREATED", {"tasks": tasks})
    assert inbox.record(project.key, "TASKS_CREATED", {"tasks": tasks[1:]}).known


def test_hints_beyond_a_number_make_the_project_due_and_are_not_kept(
    inbox: Inbox, jobs: Jobs, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.store.events.MOST_WAITING", 3)
    for _ in range(5):
        assert inbox.record(project.key, "ANNOTATION_CREATED", {"action": "ANNOTATION_CREATED"}).known
    touched = inbox.pending(project)
    due = jobs.status(project).due
    assert touched.events == 3
    assert due is not None
    assert due.labels == 5
    inbox.acknowledge(project, touched)
    inbox.record(project.key, "ANNOTATION_CREATED", {"action": "ANNOTATION_CREATED"})
    assert inbox.pending(project).events == 1


def test_an_unknown_project_says_how_to_set_it_up(inbox: Inbox, project: Project) -> None:
    with pytest.raises(NotFoundError, match="setup-project"):
        inbox.record(ProjectKey("http://elsewhere", 1), "START_TRAINING", {})


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("TASKS_CREATED", {}),
        ("ANNOTATION_CREATED", {"annotation": None}),
        ("ANNOTATION_CREATED", {"annotation": "5"}),
        ("ANNOTATION_CREATED", {"annotation": {"task": 7}}),
        ("ANNOTATION_CREATED", {"annotation": {"id": "5", "task": 7}}),
        ("ANNOTATION_CREATED", {"annotation": {"id": True, "task": 7}}),
        ("ANNOTATIONS_CREATED", {"annotation": [{"id": 5, "task": 7}, 6]}),
        ("ANNOTATIONS_DELETED", {"annotations": [{"id": -1}]}),
        ("ANNOTATIONS_DELETED", {"annotations": [{"id": 2**63}]}),
        ("TASKS_CREATED", {"tasks": {"id": 1.5}}),
    ],
)
def test_a_payload_that_is_not_label_studios_is_refused_and_leaves_nothing(
    inbox: Inbox, jobs: Jobs, project: Project, action: str, payload: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        inbox.record(KEY, action, payload)
    assert inbox.pending(project).events == 0
    assert jobs.status(project).due is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
payloads = st.dictionaries(
    st.sampled_from(["annotation", "annotations", "tasks", "project", "id"]),
    json_values | st.dictionaries(st.sampled_from(["id", "task", "updated_at", "was_cancelled"]), json_values),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
@given(action=st.sampled_from([*READERS, "SOMETHING_ELSE"]), payload=payloads)
def test_any_json_is_kept_or_refused_and_nothing_else_is_raised(
    inbox: Inbox, project: Project, action: str, payload: dict[str, Any]
) -> None:
    with suppress(InvalidInputError):
        assert inbox.record(KEY, action, payload).labels >= 0


def test_settling_forgets_what_was_read_but_not_what_came_after(inbox: Inbox, project: Project) -> None:
    inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5, task=1)})
    touched = inbox.pending(project)
    inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(6, task=2)})
    inbox.acknowledge(project, touched)
    assert inbox.pending(project).task_ids == {2}


def test_a_settled_event_is_still_known_when_it_is_delivered_again(inbox: Inbox, project: Project) -> None:
    inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)})
    inbox.acknowledge(project, inbox.pending(project))
    assert inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)}).duplicate


def test_settled_events_do_not_pile_up(inbox: Inbox, project: Project, clock: FakeClock, database: Database) -> None:
    inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)})
    inbox.acknowledge(project, inbox.pending(project))
    clock.advance(timedelta(days=2).total_seconds())
    inbox.acknowledge(project, inbox.pending(project))
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == 0


def test_an_event_and_the_job_it_asks_for_are_kept_together_or_not_at_all(
    inbox: Inbox, jobs: Jobs, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(jobs, "mark_due_in", fails)
    with pytest.raises(RuntimeError):
        inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)})
    monkeypatch.undo()
    assert inbox.pending(project).events == 0
    assert not inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation(5)}).duplicate
    assert jobs.status(project).due is not None


@pytest.mark.usefixtures("project")
def test_a_project_without_a_queue_waits_two_seconds_for_the_rest_of_an_import(
    inbox: Inbox, jobs: Jobs, clock: FakeClock
) -> None:
    for piece in range(3):
        inbox.record(KEY, "TASKS_CREATED", {"tasks": [{"id": piece + 1, "data": {}}]})
        clock.advance(1.9)
        assert jobs.claim("worker") is None
    clock.advance(0.1)
    assert jobs.claim("worker") is not None


@pytest.mark.usefixtures("project")
def test_an_import_that_does_not_end_keeps_a_project_without_a_queue_no_longer_than_another(
    inbox: Inbox, jobs: Jobs, clock: FakeClock
) -> None:
    for piece in range(30):
        assert jobs.claim("worker") is None
        inbox.record(KEY, "TASKS_CREATED", {"tasks": [{"id": piece + 1, "data": {}}]})
        clock.advance(1)
    assert jobs.claim("worker") is not None


def test_new_tasks_of_a_project_with_a_queue_wait_for_quiet(
    inbox: Inbox, jobs: Jobs, ledger: Ledger, project: Project, clock: FakeClock
) -> None:
    ledger.mark_pushed(ledger.open_round(project, version=0, strategy="auto", seed=0, queries=[]))
    inbox.record(KEY, "TASKS_CREATED", {"tasks": [{"id": 1, "data": {}}]})
    clock.advance(29)
    assert jobs.claim("worker") is None
