"""Work from the command line, beside a worker and without one: one job a project at a time."""

import socket
import threading
import time
from typing import Any

import pytest

from ml_backend import cycle
from ml_backend.cycle import Outcome
from ml_backend.errors import BackendError, ConflictError, NothingToAskError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.worker import foreground
from ml_backend.worker.loop import Worker

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
DEAD = 2**22 + 1  # above the largest process id Linux gives


@pytest.fixture
def project(services: Services) -> Project:
    return services.registry.register("http://localhost:8080", 1, CONFIG, created=1)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that ran a turn; the turn itself does nothing."""
    ran: list[str] = []

    def turn(_project: Project, _services: Services, progress: Any, **_: Any) -> Outcome:
        ran.append(threading.current_thread().name)
        progress(0.5, "halfway")
        return Outcome(labelled=7)

    monkeypatch.setattr(cycle, "run", turn)
    return ran


def test_without_a_worker_the_turn_runs_here_and_is_told_of(
    services: Services, project: Project, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 0.0)
    told: list[tuple[float, str]] = []
    summary = foreground.run_turn(project, services, "asked for", lambda share, text: told.append((share, text)))
    assert summary["labelled"] == 7
    assert turns == [threading.main_thread().name]
    assert (0.5, "halfway") in told


def test_beside_a_worker_the_worker_does_it(
    services: Services, project: Project, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 60.0)  # however busy this machine is
    worker = Worker(services, "the service's")
    thread = threading.Thread(target=worker.run, name="worker", daemon=True)
    thread.start()
    try:
        assert foreground.run_turn(project, services, "asked for")["labelled"] == 7
    finally:
        worker.stopping.set()
        thread.join()
    assert set(turns) == {"worker"}


def test_a_turn_that_fails_raises_its_reason(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Outcome:
        raise BackendError("the disk is full.")

    monkeypatch.setattr(cycle, "run", failing)
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 0.0)
    with pytest.raises(BackendError, match="the disk is full"):
        foreground.run_turn(project, services, "asked for")


def test_nothing_left_to_ask_for_is_no_failure(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(*_: Any, **__: Any) -> Outcome:
        raise NothingToAskError("every task is labelled.")

    monkeypatch.setattr(cycle, "run", done)
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 0.0)
    assert foreground.run_turn(project, services, "asked for") == {"note": "every task is labelled."}


def test_while_something_is_done_alone_no_turn_starts_and_the_due_one_is_kept(
    services: Services, project: Project, turns: list[str]
) -> None:
    with foreground.alone(project, services, "export"):
        assert services.jobs.claim("worker") is None
        with (
            pytest.raises(ConflictError, match="try again later"),
            foreground.alone(project, services, "export", wait=0.0),
        ):
            pytest.fail("two at once")
    assert services.jobs.claim("worker") is not None


def test_who_has_to_wait_is_told_once_for_what(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "TOLD_SECONDS", 0.0)
    with foreground.alone(project, services, "accept write"):
        assert capsys.readouterr().err == ""
        with (
            pytest.raises(ConflictError, match="try again later"),
            foreground.alone(project, services, "accept undo", wait=0.5),
        ):
            pytest.fail("two at once")
    said = capsys.readouterr()
    assert (said.err.count("Waiting: "), said.out) == (1, "")
    assert "(accept write" in said.err


def test_what_a_killed_command_left_running_is_taken_over_at_once(
    services: Services, project: Project, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 0.0)
    assert services.jobs.begin(project, f"{socket.gethostname()}:{DEAD}", "prioritize") is not None
    began = time.monotonic()
    with foreground.alone(project, services, "export", wait=5.0):
        pass
    assert services.jobs.begin(project, f"{socket.gethostname()}:{DEAD}", "prioritize") is not None
    assert foreground.run_turn(project, services, "asked for")["labelled"] == 7
    assert time.monotonic() - began < services.jobs.retry_policy.lease.total_seconds()


def test_work_of_another_machine_is_left_alone(services: Services, project: Project) -> None:
    assert services.jobs.begin(project, f"elsewhere:{DEAD}", "prioritize") is not None
    with pytest.raises(ConflictError), foreground.alone(project, services, "export", wait=0.2):
        pytest.fail("two at once")


def test_an_error_in_between_ends_the_job(services: Services, project: Project) -> None:
    with pytest.raises(ValueError, match="broken"), foreground.alone(project, services, "export"):
        raise ValueError("broken")
    assert services.jobs.status(project).running is None
