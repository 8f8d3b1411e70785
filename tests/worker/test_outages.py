"""The worker while its store is away, full or read-only, or its process is asked to end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cycle
from ml_backend.errors import StoreAwayError
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store import faults
from ml_backend.store.job import Job
from ml_backend.store.projects import Project
from ml_backend.worker import heartbeat
from ml_backend.worker.heartbeat import Heartbeat, JobLostError
from ml_backend.worker.loop import Worker
from ml_backend.worker.supervisor import CANNOT_HEAL
from tests.postgresql import restartable

HOST = "http://localhost:8080"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
PATIENCE = 240.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(faults, "LONGEST_PAUSE", 0.2)


def claimed(services: Services) -> tuple[Project, Job]:
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    job = services.jobs.claim("worker")
    assert job is not None
    return project, job


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def working(services: Services, name: str) -> Iterator[Worker]:
    """A worker at work, in a thread."""
    at_work = Worker(services, name)
    thread = threading.Thread(target=at_work.run, name=name, daemon=True)
    thread.start()
    try:
        yield at_work
    finally:
        at_work.stopping.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


# -- the heartbeat, and how jobs end ----------------------------------------------------------------------------------


def test_the_heartbeat_outlives_a_store_that_is_away(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project, job = claimed(services)
    tries = away(services, monkeypatch, "heartbeat", 3)
    with Heartbeat(services, job) as _, caplog.at_level(logging.WARNING):
        until(lambda: len(tries) > 4)
    running = services.jobs.status(project).running
    assert running is not None
    assert running.heartbeat_at != job.heartbeat_at
    assert len(caplog.messages) == 1, "an outage is told once"


def test_a_worker_that_cannot_renew_its_claim_stops_before_another_one_starts_the_same(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job = claimed(services)
    away(services, monkeypatch, "heartbeat", 10**6)
    monkeypatch.setattr(heartbeat, "HOLD", 0.0)
    beat = Heartbeat(services, job)
    with beat:
        until(lambda: beat._ended)
        with pytest.raises(JobLostError):
            beat.progress(0.5, "training")


def test_a_job_taken_over_by_another_worker_does_not_kill_the_one_that_had_it(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    mine = Worker(services, "mine")

    def lose(*_: Any, **__: Any) -> cycle.Outcome:
        services.jobs.abandon("mine")
        assert services.jobs.claim("other") is not None
        return cycle.Outcome()

    monkeypatch.setattr(cycle, "run", lose)
    assert mine.work()
    running = services.jobs.status(project).running
    assert running is not None
    assert running.worker == "other"


def test_the_end_of_a_job_is_written_as_soon_as_the_store_is_back(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    monkeypatch.setattr(cycle, "run", lambda *_, **__: cycle.Outcome())
    tries = away(services, monkeypatch, "finish", 3)
    with caplog.at_level(logging.INFO):
        assert Worker(services, "mine").work()
    assert len(tries) == 4
    assert job_of(services, project).state == "done"
    assert sum("away" in message for message in caplog.messages) == 1


@pytest.mark.e2e
def test_the_worker_outlives_its_databases_restart_and_runs_no_job_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on one PostgreSQL, stopped and started in the middle of a turn, and in the middle of a transaction."""
    with restartable() as server:
        settings = Settings(data_dir=tmp_path, database_url=server.url, label_studio_api_key="k")
        one, two = Services.open(settings), Services.open(settings)
        project = one.registry.register(HOST, 1, CONFIG, created=None)
        lock, inside, most, turns = threading.Lock(), [0], [0], [0]

        def turn(_project: Project, services: Services, progress: cycle.Progress, **_: Any) -> cycle.Outcome:
            with lock:
                inside[0] += 1
                most[0], turns[0] = max(most[0], inside[0]), turns[0] + 1
            try:
                progress(0.1, "half-way")
                if turns[0] == 1:
                    with services.database.write() as connection:
                        connection.exec_driver_sql("SELECT 1")
                        server.stop()
                        threading.Timer(1.0, server.start).start()
                progress(0.9, "nearly there")
                services.ledger.counts(project)
                return cycle.Outcome()
            finally:
                with lock:
                    inside[0] -= 1

        monkeypatch.setattr(cycle, "run", turn)
        with working(one, "one"), working(two, "two"):
            until(lambda: _state(one, project) == "done")
            one.jobs.mark_due(project, immediately=True, reason="test")
            until(lambda: turns[0] > 2 and _state(one, project) == "done")
        assert most[0] == 1
        for services in (one, two):
            services.database.close()


# -- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_full_disk_is_told_once_backed_off_from_and_healed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cycle, "run", keeps_vectors)
    with small_disk(tmp_path / "small") as disk:
        services = Services.open(Settings(data_dir=disk, label_studio_api_key="k"))
        project = services.registry.register(HOST, 1, CONFIG, created=None)
        fill(disk)
        with caplog.at_level(logging.INFO), working(services, "one"):
            until(lambda: any("No space is left" in message for message in caplog.messages))
            time.sleep(1.0)  # several tries
            problems = services.status.of(project)["problems"]
            assert any("No space is left" in problem for problem in problems), problems
            shown = status_command(disk)
            assert "No space is left" in shown, shown
            assert len(caplog.messages) <= 3, caplog.messages
            (disk / "ballast").unlink()
            until(lambda: _state(services, project) == "done")
        assert not [problem for problem in services.status.of(project)["problems"] if "space" in problem]
        services.database.close()


@pytest.mark.e2e
def test_a_read_only_data_folder_ends_the_service_with_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        services = Services.open(Settings(data_dir=disk, label_studio_api_key="k"))
        services.registry.register(HOST, 1, CONFIG, created=None)
        services.database.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        process = subprocess.run(
            [sys.executable, "-m", "ml_backend.worker.loop"],
            env={**os.environ, "ML_BACKEND_DATA_DIR": str(disk), "LABEL_STUDIO_API_KEY": "k"},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert process.returncode == CANNOT_HEAL
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert str(disk) in process.stderr
    assert "make it writable" in process.stderr


def test_a_full_disk_is_no_failure_of_the_job(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    project = services.registry.register(HOST, 1, CONFIG, created=None)

    def full(*_: Any, **__: Any) -> cycle.Outcome:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cycle, "run", full)
    assert Worker(services, "mine").work()
    due = services.jobs.status(project).due
    assert due is not None
    assert (due.failures, due.delays) == (0, 1)
    assert "No space is left" in services.status.of(project)["problems"][0]


# -- the end of the process -------------------------------------------------------------------------------------------

STUCK = """
import sys, time
from ml_backend import cycle
from ml_backend.worker import loop
def stuck(project, services, progress, **_):
    progress(0.5, "in a library")
    print("stuck", flush=True)
    time.sleep(60)
cycle.run = stuck
sys.exit(loop.main())
"""


@pytest.mark.slow
def test_a_worker_in_a_long_step_ends_soon_and_hands_its_job_back(services: Services, tmp_path: Path) -> None:
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        env={**os.environ, "ML_BACKEND_DATA_DIR": str(tmp_path), "LABEL_STUDIO_API_KEY": "k"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"stuck\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert time.monotonic() - began < 40.0  # five on a quiet machine; by itself it would sleep for sixty
    finally:
        process.kill()
        process.communicate()
    due = services.jobs.status(project).due
    assert due is not None
    assert (due.crashes, due.failures) == (0, 0)


def away(services: Services, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[object]:
    """Let a method of the jobs fail as often, as if the database were away; returns the list of its calls."""
    really = getattr(services.jobs, name)
    calls: list[object] = []

    def attempt(*given: Any) -> object:
        calls.append(given)
        if len(calls) <= times:
            raise StoreAwayError("The database is away.")
        return really(*given)

    monkeypatch.setattr(services.jobs, name, attempt)
    return calls


def job_of(services: Services, project: Project) -> Job:
    last = services.jobs.status(project).last
    assert last is not None
    return last


def _state(services: Services, project: Project) -> str | None:
    try:
        status = services.jobs.status(project)
    except StoreAwayError:
        return None
    return None if status.due or status.running or status.last is None else status.last.state


def keeps_vectors(_project: Project, services: Services, progress: cycle.Progress, **_: Any) -> cycle.Outcome:
    import numpy as np

    progress(0.1, "features")
    hashes = [f"{number:064x}" for number in range(200)]
    services.features.append("encoder", hashes, np.ones((200, 512), np.float32))
    return cycle.Outcome()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (2**20, 4096):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def status_command(disk: Path) -> str:
    environment = {
        **os.environ,
        "ML_BACKEND_DATA_DIR": str(disk),
        "LABEL_STUDIO_API_KEY": "k",
        "LABEL_STUDIO_URL": HOST,
    }
    command = [sys.executable, "-m", "ml_backend.cli", "sync", "status"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout + done.stderr
