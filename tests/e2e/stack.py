"""The whole thing: a real Label Studio, and our service beside it as `ml-backend serve` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

from ml_backend import cycle
from ml_backend.demo.digits import CLASSES, write_digits
from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.hosts import host_slug
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.labelstudio.storage import add_local_storage
from ml_backend.records import LabelSchema
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from ml_backend.worker.supervisor import die_with_parent

T = TypeVar("T")
PATIENCE = 240.0


def wait_until(get: Callable[[], T | None], what: str, patience: float | None = None) -> T:
    """Return the first true value of `get`."""
    patience = PATIENCE if patience is None else patience
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = get()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} in {patience:.0f} s")


@dataclass
class Stack:
    """A connected project with its images, its truth, and a look into the service's own store."""

    client: LabelStudio
    services: Services
    settings: Settings
    project_id: int
    schema: LabelSchema
    truth: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    """What a command needs to work beside the service; empty where none runs."""

    @property
    def project(self) -> Project:
        return self.services.registry.find_project(host_slug(self.client.url), self.project_id, None)

    def ranking(self, round_: Round) -> list[int]:
        return [query.task_id for query in self.services.ledger.queries(round_)]

    def round_after(self, number: int) -> Round:
        """Return the first verified round after `number`, once no job is under way."""

        def look() -> Round | None:
            last = self.services.ledger.last_round(self.project)
            status = self.services.jobs.status(self.project)
            assert status.stopped is None, status.stopped
            ready = last is not None and last.number > number and last.state == "verified" and status.running is None
            return last if ready else None

        return wait_until(look, f"verified round after {number}")

    def turn(self) -> Round:
        """Turn the loop once, here; returns the round served."""
        outcome = cycle.run(self.project, self.services, lambda _share, _what: None)
        assert outcome.round is not None
        return outcome.round

    def label_next(self, client: LabelStudio | None = None) -> int:
        """Take the task that is served, label it truly, return its id."""
        who = client or self.client
        task = next_task(who, self.project_id)
        assert task is not None, "Label Studio serves nothing"
        submit(who, task, annotation_result(self.schema, [self.truth[task["data"]["filename"]]]))
        return int(task["id"])


def digits(server: EmbeddedLabelStudio, count: int) -> dict[str, str]:
    """Write the sample images where this Label Studio sees them; returns filename -> truth of the first `count`."""
    assert server.document_root is not None
    truth = write_digits(server.document_root / "samples" / "digits")
    return dict(list(truth.items())[:count])


def environment_of(server: EmbeddedLabelStudio, data_dir: Path, **more: str) -> dict[str, str]:
    """What a command, or the service, has to be told to work with this Label Studio and this store."""
    assert server.document_root is not None
    return {
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": server.token,
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(server.document_root),
        "ML_BACKEND_DATA_DIR": str(data_dir),
        **more,
    }


def of_service() -> dict[str, str]:
    """What the service has to be told beside that: a port that is free."""
    port = free_port()
    return {
        "ML_BACKEND_PORT": str(port),
        "ML_BACKEND_URL": f"http://127.0.0.1:{port}",
        "ML_BACKEND_LOG_LEVEL": "WARNING",
    }


def tell_commands(
    monkeypatch: pytest.MonkeyPatch, server: EmbeddedLabelStudio, data_dir: Path, **more: str
) -> dict[str, str]:
    """Have the commands of this process work with this Label Studio and this store; returns what they are told."""
    told = environment_of(server, data_dir, **more)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return told


@contextmanager
def inline(
    server: EmbeddedLabelStudio,
    client: LabelStudio,
    folder: Path,
    *,
    tasks: int = 200,
    config: str | None = None,
    **settings: Any,
) -> Iterator[Stack]:
    """The same project without any process of ours: the test itself turns the loop."""
    truth, root = digits(server, tasks), server.document_root
    chosen = Settings(
        label_studio_url=server.url,
        label_studio_api_key=server.token,
        document_root=root,
        data_dir=folder / "backend",
        **settings,
    )
    services = Services.open(chosen)
    project_id = import_digits(server, client, truth, config)
    services.registry.register(server.url, project_id, client.get_project(project_id)["label_config"], created=None)
    yield Stack(client, services, chosen, project_id, client.schema(project_id), truth)
    services.database.close()


def import_digits(
    server: EmbeddedLabelStudio, client: LabelStudio, truth: dict[str, str], config: str | None = None
) -> int:
    """Make a project of these images; returns its id."""
    assert server.document_root is not None
    project_id = int(client.create_project("digits", config or label_config(CLASSES))["id"])
    add_local_storage(client, project_id, server.document_root / "samples" / "digits")
    client.import_tasks(
        project_id, [{"image": f"/data/local-files/?d=samples/digits/{name}", "filename": name} for name in truth]
    )
    return project_id


@contextmanager
def running(
    server: EmbeddedLabelStudio, client: LabelStudio, folder: Path, *, tasks: int = 300, **environment: str
) -> Iterator[Stack]:
    """Start the service, make a project of digits, connect it."""
    truth = digits(server, tasks)
    own = environment_of(server, folder / "backend", **of_service()) | environment
    settings = Settings.from_environ(own)
    with service(own, settings):
        project_id = import_digits(server, client, truth)
        connect(client, project_id, f"{settings.url}/hosts/{host_slug(client.url)}")
        services = Services.open(settings)
        yield Stack(client, services, settings, project_id, client.schema(project_id), truth, own)
        services.database.close()


@contextmanager
def service(environment: dict[str, str], settings: Settings, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ml-backend serve` until the block ends."""
    command = [sys.executable, "-m", "ml_backend.cli", "serve", *options]
    process = subprocess.Popen(command, env={**os.environ, **environment}, preexec_fn=die_with_parent)  # noqa: PLW1509
    try:
        wait_until(lambda: _healthy(settings.url), "healthy service")
        yield process
    finally:
        ended(process)


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, and see that it does."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def _healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=1).ok
    except requests.RequestException:
        return False
