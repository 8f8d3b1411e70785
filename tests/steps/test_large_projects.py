"""A project may have any number of tasks: no statement names more of them than a database takes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from ml_backend import cycle
from ml_backend.encoders.encoder import Encoder
from ml_backend.encoders.patches import fit_patches
from ml_backend.records import Annotation, LabelSchema, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps.push_queue import QueuePusher
from ml_backend.store.database import Database
from ml_backend.store.events import MOST_NAMED
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from tests.postgresql import cluster

HOST = "http://localhost:8080"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="dark"/><Choice value="light"/></Choices></View>"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 1_100
"""Parameters of one statement. Both databases take far more, and this stays whatever a project has."""
KINDS = 8


@dataclass
class Host:
    """A Label Studio as large as wanted, as far as a turn asks it; `gone` tasks were deleted, the first are labelled."""

    size: int
    labelled: int = 0
    gone: set[int] = field(default_factory=set)

    def get_project(self, _project_id: int) -> dict[str, Any]:
        return {"id": 1, "title": "Pets", "label_config": CONFIG, "maximum_annotations": 1}

    def clock(self) -> datetime:
        return NOW

    def tasks(self, _project_id: int, *, schema: LabelSchema) -> Iterator[Task]:
        return (_task(i, schema) for i in range(1, self.size + 1) if i not in self.gone)

    def annotated(
        self, _project_id: int, *, schema: LabelSchema, updated_since: datetime | None = None
    ) -> Iterator[tuple[Task, list[Annotation]]]:
        for i in range(1, self.labelled + 1):
            if i not in self.gone:
                yield _task(i, schema), [Annotation(i, i, (schema.labels[i % 2],), False, False, 1, NOW, NOW)]

    def existing(self, _project_id: int, task_ids: Sequence[int]) -> set[int]:
        return set(task_ids) - self.gone

    def unlabelled(self, _project_id: int, *_: object) -> int:
        return self.size - self.labelled

    def unlabelled_at(self, _project_id: int, places: Sequence[int], *, schema: LabelSchema) -> list[Task]:
        return [_task(self.labelled + 1 + place, schema) for place in places]


class Pictures:
    """In place of the image reader: a few pictures, dark and light by turns."""

    def read(self, task: Task) -> bytes:
        return picture(task.id % KINDS)


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    opened = services_in(tmp_path)
    monkeypatch.setattr("ml_backend.steps.push_queue.QueuePusher.serve", served)
    monkeypatch.setattr("ml_backend.steps.push_queue.QueuePusher.tidy", lambda *_, **__: None)
    monkeypatch.setattr("ml_backend.steps.repair_webhooks.watch", lambda *_, **__: None)
    monkeypatch.setattr("ml_backend.project_encoders.ProjectEncoders.of", lambda *_: encoder())
    yield opened
    opened.database.close()


def services_in(folder: Path, database_url: str = "") -> Services:
    settings = Settings(data_dir=folder, database_url=database_url, label_studio_api_key="k", batch_size=20)
    services = Services.open(settings)
    services.hosts._readers[HOST] = Pictures()  # type: ignore[assignment]
    return services


def connected(services: Services, host: Host) -> Project:
    services.hosts._clients[HOST] = host  # type: ignore[assignment]
    return services.registry.register(HOST, 1, CONFIG, created=None)


@pytest.mark.slow
def test_no_statement_of_a_turn_or_a_command_grows_with_the_project(services: Services) -> None:
    host = Host(1_500)
    project = connected(services, host)
    with largest(services.database) as found:
        cycle.run(project, services, lambda *_: None)
        host.labelled, host.gone = 1_400, set(range(50, 1_300))
        touch(services, project, range(1, host.size + 1))
        cycle.run(services.ledger.project(project.key), services, lambda *_: None, full=True)
        project = services.ledger.project(project.key)
        tasks = list(services.ledger.tasks(project))
        host.gone = set()
        touch(services, project, range(1, host.size + 1))
        services.label_sync.sync(project, full=False)
        services.predictor.predict(project, [{"id": task.id, "data": task.data} for task in tasks])
        services.ledger.content_hashes(project, [_task(i, project.schema) for i in range(1, host.size + 1)])
        services.manual_queue.batch(project, dict.fromkeys(range(1, host.size + 1), 1.0))
        list(services.ledger.tasks(project, range(1, host.size + 1)))
        services.ledger.held_out(project, range(1, host.size + 1))
    assert max(found) < LIMIT


def first_sync(services: Services) -> None:
    size = 300_000
    project = connected(services, Host(size, labelled=70_000))
    everything = range(1, size + 1)
    with largest(services.database) as found:
        services.label_sync.sync(project, full=True)
        touch(services, project, everything)
        project, report = services.label_sync.sync(services.ledger.project(project.key), full=False)
        assert (services.ledger.counts(project).tasks, report.added) == (size, 0)
        assert sum(1 for _ in services.ledger.tasks(project, everything)) == size
        assert services.ledger.content_hashes(project, [Task(i, "/") for i in everything]) == {}
        assert len(services.ledger.held_out(project, everything)) == services.ledger.counts(project).holdout
    assert max(found) < LIMIT


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_first_sync_of_300000_tasks_ends(services: Services) -> None:
    first_sync(services)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("services")
def test_a_first_sync_of_300000_tasks_ends_on_postgresql(tmp_path: Path) -> None:
    with cluster() as server:
        services = services_in(tmp_path / "other", server)
        first_sync(services)
        services.database.close()


def touch(services: Services, project: Project, task_ids: Sequence[int]) -> None:
    for start in range(0, len(task_ids), MOST_NAMED):
        named = [{"id": i} for i in task_ids[start : start + MOST_NAMED]]
        services.inbox.record(project.key, "TASKS_CREATED", {"tasks": named})


@contextmanager
def largest(database: Database) -> Iterator[set[int]]:
    """Numbers of parameters of every statement meanwhile."""
    found: set[int] = set()

    def note(_c: Any, _cursor: Any, _statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
        found.update(map(len, parameters) if executemany else [len(parameters)])

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


def served(pusher: QueuePusher, _project: Project, round_: Round, _spare: Sequence[int] = ()) -> Round:
    return pusher.ledger.mark_verified(pusher.ledger.mark_pushed(round_))


def _task(number: int, schema: LabelSchema) -> Task:
    image = f"/{number}.png"
    return Task(number, image, {schema.image_key: image}, NOW)


@cache
def picture(kind: int) -> bytes:
    noise = np.random.default_rng(kind).integers(0, 60, (12, 12, 3)) + 190 * (kind % 2)
    file = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@cache
def encoder() -> Encoder:
    return fit_patches([Image.open(io.BytesIO(picture(kind))) for kind in range(KINDS)], seed=0)
