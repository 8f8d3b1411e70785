"""A cancelled job ends within seconds, whatever it is at, and nothing is published or served after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, headless, new_network
from ml_backend.learning.finetuning import finetune
from ml_backend.learning.tuning_run import Recipe
from ml_backend.records import Task
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.version import Verdict
from ml_backend.worker import heartbeat
from ml_backend.worker.loop import Worker
from tests.steps import test_large_projects as large
from tests.steps.test_large_projects import Host, connected, services_in

WITHIN = 20.0  # five on a quiet machine; to the end each would take a minute and more
PATIENCE = 300.0


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    opened = services_in(tmp_path)
    for name in ("push_queue.QueuePusher.serve", "push_queue.QueuePusher.tidy", "repair_webhooks.watch"):
        monkeypatch.setattr(
            f"ml_backend.steps.{name}",
            large.served if name == "push_queue.QueuePusher.serve" else lambda *_, **__: None,
        )
    yield opened
    opened.database.close()


@dataclass
class At:
    """Waits until the worker is at something."""

    reached: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE)


def network(side: int) -> NetworkEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network("resnet18"))
    return NetworkEncoder("resnet18", body, dim, Preprocessing(resize=side, crop=side))


@pytest.mark.slow
def test_fine_tuning_can_be_ended_within_a_batch() -> None:
    """A batch takes a CPU ten seconds: it is left between two layers, on the way forward and on the way back."""
    encoder = network(32)
    pixels = np.zeros((64, 32, 32, 3), np.uint8)
    whole = calls_of(encoder, pixels, None)
    layers = sum(1 for module in encoder.module().modules() if not list(module.children()))
    assert whole > 2 * layers, "each layer is watched, forwards and backwards"
    for ended_at in (2, layers + 3, 2 * layers):
        assert calls_of(encoder, pixels, ended_at) == ended_at


def calls_of(encoder: NetworkEncoder, pixels: Any, ended_at: int | None) -> int:
    """How often a fine-tuning of one batch asked whether to go on; at the given time it is told not to."""
    calls = 0

    class EndedError(Exception):
        pass

    def on_progress(_share: float, _doing: str) -> None:
        nonlocal calls
        calls += 1
        if calls == ended_at:
            raise EndedError

    labels, recipe = np.arange(len(pixels)) % 2, Recipe(epochs=1, batch_size=64)
    try:
        finetune(encoder, pixels, labels, ("a", "b"), seed=0, recipe=recipe, on_progress=on_progress)
    except EndedError:
        assert ended_at is not None
    return calls


@pytest.mark.slow
def test_cancelled_while_fine_tuning_nothing_is_published_and_the_queued_job_stays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(services.settings, "mode", "finetune")
    monkeypatch.setattr("ml_backend.project_encoders.ProjectEncoders.of", lambda *_: network(224))
    project = connected(services, Host(80, labelled=70))
    tuning, calls = At(), 0
    really = heartbeat.Heartbeat.progress

    def progress(beat: Any, share: float, message: str) -> None:
        nonlocal calls
        really(beat, share, message)
        calls += message.startswith("fine-tuning")
        if calls > 100:
            tuning.reached.set()

    monkeypatch.setattr(heartbeat.Heartbeat, "progress", progress)
    cancelled_soon(services, project, tuning)
    ended_well(services, project)


def test_cancelled_while_images_are_encoded_the_job_ends(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    project = connected(services, Host(6_000))
    monkeypatch.setattr("ml_backend.project_encoders.ProjectEncoders.of", lambda *_: large.encoder())
    services.hosts._readers[large.HOST] = Slow(at := At())  # type: ignore[assignment]
    cancelled_soon(services, project, at)
    ended_well(services, project)


def test_cancelled_at_the_last_moment_nothing_is_published(services: Services) -> None:
    project = connected(services, Host(1))
    job = services.jobs.claim("worker")
    assert job is not None
    beat = heartbeat.Heartbeat(services, job)

    def write(_folder: Path) -> None:
        services.jobs.cancel(project)

    with pytest.raises(heartbeat.JobCancelledError):
        services.versions.publish(project, 1, write, verdict=Verdict(None), check=lambda: beat.progress(0.6, "publish"))
    assert not services.versions.list(project)
    assert not services.versions.folders.there(project.id, 1)


class Slow:
    """In place of the image reader: one picture after another, each different, far too many to wait for."""

    def __init__(self, at: At) -> None:
        self.at = at

    def read(self, task: Task) -> bytes:
        if task.id > 200:
            self.at.reached.set()
            time.sleep(0.2)
        return large.picture(task.id)


def cancelled_soon(services: Services, project: Project, at: At) -> None:
    """Cancel the job once it is at something, and see it end; a label has come in meanwhile.

    Where the machine is so busy that it took longer than that to get there, it may take as long: most is still to do then.
    """
    worker = Worker(services, "mine")
    thread = threading.Thread(target=worker.work, daemon=True)
    started = time.monotonic()
    thread.start()
    at.wait()
    services.jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    began = time.monotonic()
    assert services.jobs.cancel(project)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert time.monotonic() - began < max(WITHIN, began - started)


def ended_well(services: Services, project: Project) -> None:
    status = services.jobs.status(project)
    assert status.last is not None
    assert (status.last.state, status.running) == ("cancelled", None)
    assert status.due is not None
    assert not services.versions.list(project)
    assert services.versions.current(project) is None
