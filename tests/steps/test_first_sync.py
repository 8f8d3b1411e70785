"""A first turn that is cut short: what it left undone, the next one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_backend import cycle
from ml_backend.errors import LabelStudioUnavailableError
from ml_backend.records import Annotation, LabelSchema, Task
from ml_backend.services import Services
from tests.steps import test_large_projects as large
from tests.steps.test_large_projects import Host, connected, services_in

pytestmark = pytest.mark.slow


@dataclass
class CutShort(Host):
    """A Label Studio whose listing breaks off."""

    after: int | None = None

    def tasks(self, project_id: int, *, schema: LabelSchema) -> Iterator[Task]:
        for number, task in enumerate(super().tasks(project_id, schema=schema)):
            if number == self.after:
                raise LabelStudioUnavailableError("Label Studio went away.")
            yield task


class Distinct:
    """In place of the image reader: a picture of its own for each task; it may break off as well."""

    def __init__(self) -> None:
        self.after: int | None = None

    def read(self, task: Task) -> bytes:
        if self.after is not None and task.id > self.after:
            raise LabelStudioUnavailableError("Label Studio went away.")
        return large.picture(task.id)


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    opened = services_in(tmp_path)
    for name, instead in (
        ("steps.push_queue.QueuePusher.serve", large.served),
        ("steps.push_queue.QueuePusher.tidy", lambda *_, **__: None),
        ("steps.repair_webhooks.watch", lambda *_, **__: None),
        ("project_encoders.ProjectEncoders.of", lambda *_: large.encoder()),
    ):
        monkeypatch.setattr(f"ml_backend.{name}", instead)
    yield opened
    opened.database.close()


@pytest.mark.parametrize("cut", ["while its tasks are listed", "while its images are read"])
def test_a_first_sync_cut_short_leaves_no_project_without_a_held_out_slice(services: Services, cut: str) -> None:
    host, pictures = CutShort(200, labelled=30), Distinct()
    project = connected(services, host)
    services.hosts._readers[large.HOST] = pictures  # type: ignore[assignment]
    host.after, pictures.after = (15, None) if "tasks" in cut else (None, 15)
    with pytest.raises(LabelStudioUnavailableError):
        cycle.run(project, services, lambda *_: None)
    host.after = pictures.after = None
    host.labelled = 60
    cycle.run(services.ledger.project(project.key), services, lambda *_: None)
    whole = held_out(services)
    assert len(whole) > 5
    assert services.ledger.counts(services.ledger.project(project.key)).holdout_labelled > 0

    again = services_in(services.settings.data_dir / "uncut")
    again.hosts._readers[large.HOST] = Distinct()  # type: ignore[assignment]
    cycle.run(connected(again, Host(200, labelled=60)), again, lambda *_: None)
    assert held_out(again) == whole, "the same tasks as where nothing was cut short"
    again.database.close()


def held_out(services: Services) -> list[int]:
    (project,) = services.ledger.projects()
    rows = services.ledger.pool(project)
    return [int(task) for task in rows.ids[rows.holdout]]


@pytest.mark.parametrize("name", ["encoder.json", "encoder.safetensors"])
def test_a_damaged_encoder_is_set_aside_and_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A power cut leaves files of no length; the same pictures and seed give the same encoder, so its vectors still hold."""
    services = services_in(tmp_path)
    services.hosts._readers[large.HOST] = Distinct()  # type: ignore[assignment]
    project = connected(services, Host(30))
    listing: list[tuple[Task, list[Annotation]]] = [(task, []) for task in Host(30).tasks(1, schema=project.schema)]
    services.ledger.reconcile(project, listing, full=True)
    before = services.encoders.of(project)
    (folder,) = services.encoders.built
    (folder / name).write_bytes(b"")
    services.encoders.built.clear()
    assert services.encoders.of(project).id == before.id
    assert [record.message for record in caplog.records if str(folder) in record.message]
    services.encoders.built.clear()
    assert services.encoders.of(project).id == before.id
    services.database.close()
