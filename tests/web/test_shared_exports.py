"""`GET /projects/N/model.pt2`: one export, however many ask for it at once."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import httpx
import numpy as np
import pytest

from ml_backend import cli
from ml_backend.commands import import_model
from ml_backend.errors import InvalidInputError
from ml_backend.learning.head import Head
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.store.version_meta import EncoderMeta, VersionMeta
from ml_backend.web import shared_exports
from ml_backend.web.app import create_app
from ml_backend.web.shared_exports import Kind
from tests.steps.test_large_projects import CONFIG, HOST, NOW, encoder, picture

MADE = b"a model"


@pytest.fixture
def project(services: Services) -> Project:
    """With a model that serves, and pictures that any process can read."""
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    listing: list[tuple[Task, list[Annotation]]] = []
    for number in range(1, 9):
        image = "data:image/png;base64," + base64.b64encode(picture(number)).decode()
        listing.append((Task(number, image, {"image": image}, NOW), []))
    services.ledger.reconcile(project, listing, full=True)
    head = Head(
        project.schema.labels, np.random.default_rng(0).normal(size=(2, encoder().dim)).astype(np.float32), np.zeros(2, np.float32)
    )  # fmt: skip

    def write(folder: Path) -> None:
        head.save(folder)
        encoder().save(folder)

    meta = VersionMeta(
        classes=head.classes, encoder=EncoderMeta(name=encoder().name, id=encoder().id, dim=encoder().dim)
    )
    services.versions.publish(project, 1, write, meta)
    services.versions.promote(project, 1)
    return project


def three_at_once(services: Services, project: Project) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            path = f"/projects/{project.id}/model.pt2"
            return await asyncio.gather(*(http.get(path, timeout=120) for _ in range(3)))

    return asyncio.run(ask())


def test_three_who_ask_at_once_get_the_one_file_that_is_made(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def make(_settings: Settings, _project: int, _version: int, _kind: Kind, path: Path) -> None:
        nonlocal made
        made += 1
        path.parent.mkdir(parents=True)
        path.write_bytes(MADE)

    monkeypatch.setattr(shared_exports, "_make", make)
    assert [answer.content for answer in three_at_once(services, project)] == [MADE] * 3
    assert made == 1


def test_where_it_cannot_be_made_each_of_them_is_told_why(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InvalidInputError("there are no images.")

    monkeypatch.setattr(shared_exports, "_make", refuse)
    answers = three_at_once(services, project)
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [(422, "there are no images.")] * 3


@pytest.mark.slow
def test_the_file_is_made_in_a_process_of_its_own_and_checked(services: Services, project: Project) -> None:
    answers = three_at_once(services, project)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].content.startswith(b"PK")


@pytest.mark.slow
def test_what_goes_wrong_in_that_process_comes_back_as_it_was(services: Services, project: Project) -> None:
    services.ledger.reconcile(project, [], full=True)
    answers = three_at_once(services, project)
    assert [answer.status_code for answer in answers] == [422] * 3
    assert "none that can be read" in answers[0].json()["error"]


def test_a_model_is_imported_while_no_turn_runs(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It promotes, and sets what the next turn starts from, which a turn under way would not see."""
    meanwhile = []

    def start(*_: object, **__: object) -> None:
        running = services.jobs.status(project).running
        meanwhile.append((running and running.reason, services.jobs.claim("worker")))
        raise InvalidInputError("no such model.")

    monkeypatch.setattr(import_model, "open_services", lambda **_: services)
    monkeypatch.setattr(import_model, "find_project", lambda *_: project)
    monkeypatch.setattr("ml_backend.imports.trained_model.ModelImporter.start_from", start)
    assert cli.main(["import-model", "model.safetensors"]) == 1
    assert meanwhile == [("import-model", None)]
    assert services.jobs.claim("worker") is not None
