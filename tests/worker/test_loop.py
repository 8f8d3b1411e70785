"""The worker beside others: whose turn it is, what a killed one leaves, and a project that is no more."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ml_backend import cycle
from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.worker import time_slice
from ml_backend.worker.loop import Worker

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
HOST = "http://localhost:8080"


class Turns:
    """In place of the cycle: notes whose turn it was, and may do something in the middle of it."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.meanwhile: dict[int, Any] = {}
        self.check_paused: Callable[[], None] = lambda: None

    def run(
        self, project: Project, _services: Services, progress: cycle.Progress, *, check_paused: Callable[[], None]
    ) -> cycle.Outcome:
        self.taken.append(project.key.project_id)
        self.check_paused = check_paused
        progress(0.5, "half-way")
        self.meanwhile.get(project.key.project_id, lambda: None)()
        return cycle.Outcome()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    turns = Turns()
    monkeypatch.setattr(cycle, "run", turns.run)
    return turns


def test_two_projects_train_in_turn_however_many_labels_one_of_them_gets(services: Services, turns: Turns) -> None:
    busy, other = (services.registry.register(HOST, number, CONFIG, created=None) for number in (1, 2))
    for project in (busy, other):
        turns.meanwhile[project.key.project_id] = lambda: services.jobs.mark_due(busy, labels=100, reason="labels")
    worker = Worker(services)
    for _ in range(3):
        worker.work()
    services.jobs.mark_due(other, labels=10, reason="labels")
    worker.work()
    assert turns.taken == [1, 2, 1, 2]


def test_a_turn_that_encodes_for_long_lets_others_in_between_and_goes_on_afterwards(
    services: Services, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody told of them: what a poll would find is looked for meanwhile."""
    monkeypatch.setattr(time_slice, "SLICE_S", 0.0)
    monkeypatch.setattr(time_slice, "LOOK_S", 0.0)
    large, other = (services.registry.register(HOST, number, CONFIG, created=None) for number in (1, 2))
    assert services.jobs.cancel(other)  # nothing is due, and nothing has been looked at either
    worker, told = Worker(services), []

    def long_encoding() -> None:
        turns.meanwhile.clear()
        while True:
            told.append(services.status.of(other)["job"]["waiting_for"])
            turns.check_paused()

    turns.meanwhile[1] = long_encoding
    while worker.work():
        pass
    assert turns.taken == [1, 2, 1]
    assert told[0] is None, "not due yet"
    assert [job.state for job in services.jobs.history(large)] == ["done"]


def test_a_project_that_waits_for_the_turn_of_another_says_for_which(services: Services, turns: Turns) -> None:
    large, other = (services.registry.register(HOST, number, CONFIG, created=None) for number in (1, 2))
    told: list[Any] = []
    turns.meanwhile[1] = lambda: told.extend(services.status.of(p)["job"]["waiting_for"] for p in (other, large))
    assert Worker(services).work()
    assert [told[0]["project"], told[0]["title"]] == [str(large.key), large.title]
    assert told[1] is None
    assert services.status.of(other)["job"]["waiting_for"] is None


def test_a_turn_that_nobody_waits_for_is_not_interrupted(
    services: Services, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_slice, "SLICE_S", 0.0)
    monkeypatch.setattr(time_slice, "LOOK_S", 0.0)
    services.registry.register(HOST, 1, CONFIG, created=None)
    turns.meanwhile[1] = lambda: [turns.check_paused() for _ in range(5)]
    assert Worker(services).work()
    assert turns.taken == [1]


def test_the_job_of_a_killed_worker_is_taken_up_as_soon_as_the_next_one_starts(
    services: Services, turns: Turns
) -> None:
    services.registry.register(HOST, 1, CONFIG, created=None)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert services.jobs.claim(f"{socket.gethostname()}:{process.pid}") is not None
    worker = Worker(services)
    turns.meanwhile[1] = worker.stopping.set
    worker._take_over()
    assert not worker.work(), "its process lives"
    process.kill()
    process.communicate()
    worker.run()
    assert turns.taken == [1]


def test_a_job_left_under_the_same_name_is_taken_up_too_as_after_the_restart_of_a_container(
    services: Services, turns: Turns
) -> None:
    services.registry.register(HOST, 1, CONFIG, created=None)
    worker = Worker(services)
    assert services.jobs.claim(worker.name) is not None
    turns.meanwhile[1] = worker.stopping.set
    worker.run()
    assert turns.taken == [1]


def test_a_turn_is_logged_as_a_sentence(services: Services, turns: Turns, caplog: pytest.LogCaptureFixture) -> None:
    services.registry.register(HOST, 1, CONFIG, created=None)
    with caplog.at_level("INFO"):
        Worker(services).work()
    assert caplog.messages[-1].endswith("0 labels, no model yet, no queue; 0.0 s.")


class EmptyHost:
    """A Label Studio where the project was deleted, until it is put back."""

    def get_project(self, project_id: int) -> dict[str, Any]:
        raise NotFoundError(f"GET /api/projects/{project_id}/: not found")


def test_a_deleted_project_is_told_and_what_is_known_of_it_stays(services: Services) -> None:
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    services.hosts._clients[HOST] = EmptyHost()  # type: ignore[assignment]
    services.inbox.record(project.key, "PROJECT_DELETED", {"project": {"id": 1}})
    worker = Worker(services)
    assert worker.work()
    status = services.status.of(services.ledger.project(project.key))
    assert "no longer has this project" in status["problems"][0]
    assert status["job"]["stopped"] is None
    assert not worker.work(), "it is not tried again and again"
