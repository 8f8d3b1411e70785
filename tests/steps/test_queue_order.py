"""What a person changes under Settings: the queue is not called verified while something else is served, and comes back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_backend.labelstudio.queue import UNCERTAINTY, bent_by, replaced_by
from ml_backend.records import Query
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from ml_backend.web.app import create_app
from ml_backend.worker.loop import Worker
from tests.web.test_app import CONFIG

SETTINGS = {
    "id": 3, "model_version": "v0-r1", "sampling": UNCERTAINTY, "maximum_annotations": 1, "show_overlap_first": False,
    "overlap_cohort_percentage": 100, "annotator_evaluation_enabled": False, "label_config": CONFIG,
}  # fmt: skip
BENT: list[dict[str, Any]] = [
    {"show_overlap_first": True, "maximum_annotations": 2, "overlap_cohort_percentage": 30},
    {"annotator_evaluation_enabled": True},
]
STRAIGHT: list[dict[str, Any]] = [
    {},
    {"show_overlap_first": True},
    {"show_overlap_first": True, "maximum_annotations": 2},
    {"maximum_annotations": 2, "overlap_cohort_percentage": 30},
]


@pytest.fixture
def project(services: Services) -> Project:
    """With nothing due, and the queue v0-r1 served and verified."""
    known = services.registry.register("http://localhost:8080", 3, CONFIG, created=None)
    query = Query(1, 0, "strategy", 0.0, "")
    round_ = services.ledger.open_round(known, version=0, strategy="auto", seed=0, queries=[query])
    services.ledger.mark_verified(services.ledger.mark_pushed(round_))
    assert services.jobs.cancel(known)
    return known


def told(services: Services, **changes: Any) -> None:
    client = TestClient(create_app(services), base_url="http://localhost")
    event = {"action": "PROJECT_UPDATED", "project": SETTINGS | changes}
    assert client.post("/webhook", json=event).status_code == 200


def last(services: Services, project: Project) -> Round:
    round_ = services.ledger.last_round(project)
    assert round_ is not None
    return round_


@pytest.mark.parametrize("settings", BENT)
def test_settings_that_put_other_tasks_before_the_queue_are_named(settings: dict[str, Any]) -> None:
    why = bent_by(SETTINGS | settings)
    assert why is not None
    assert next(iter(settings)) in why
    assert "/api/projects/3" in why


@pytest.mark.parametrize("settings", STRAIGHT)
def test_settings_that_leave_the_order_are_not(settings: dict[str, Any]) -> None:
    assert bent_by(SETTINGS | settings) is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model_version": "mine"}, "'mine' instead of 'v0-r1'"),
        ({"sampling": "Sequential sampling"}, "'Sequential sampling'"),
        (BENT[0], "show_overlap_first"),
    ],
)
def test_a_queue_that_a_person_replaced_is_not_verified_from_the_event_on_and_a_turn_is_due_at_once(
    services: Services, project: Project, changes: dict[str, Any], part: str
) -> None:
    told(services, **changes)
    assert last(services, project).state == "pushed"
    status = services.status.of(project)
    assert status["queue"]["state"] == "pushed"
    assert any(part in problem for problem in status["problems"])
    assert services.jobs.claim("worker") is not None


def test_our_own_push_is_no_reason_for_a_turn(services: Services, project: Project) -> None:
    told(services)
    assert last(services, project).state == "verified"
    assert services.jobs.status(project).due is None


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, [], {}, "x" * 100_000, 10**400, True])
def test_settings_that_no_label_studio_would_send_are_no_error(
    services: Services, project: Project, value: object
) -> None:
    names = ("model_version", "sampling", "maximum_annotations", "show_overlap_first", "overlap_cohort_percentage")
    for name in names:
        told(services, **{name: value})
    assert len(" ".join(services.status.of(project)["problems"])) < 2_000
    assert replaced_by({}, "v0-r1") is None


def test_what_no_event_told_of_is_looked_for_before_the_poll_interval_has_passed(
    services: Services, project: Project
) -> None:
    seen = services.ledger.clock()
    services.ledger.reconcile(project, [], full=True, now=seen)
    every = services.settings.poll_seconds
    for seconds, due in ((0.5 * every, False), (0.85 * every, True)):
        ago = seen - timedelta(seconds=seconds)
        services.ledger.reconcile(project, [], full=True, now=ago)
        Worker(services)._poll()
        assert (services.jobs.status(project).due is not None) is due
