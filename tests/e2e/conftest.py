"""One real Label Studio for all tests of the session, and a fresh project for each that wants one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ml_backend.demo.label_studio import CONNECTED, EmbeddedLabelStudio, find_binary
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from tests.e2e.helpers import FakeBackend, fake_backend, sign_up
from tests.e2e.template import make_template
from tests.postgresql import cluster

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:  # the longest takes two minutes where nothing else runs
                item.add_marker(pytest.mark.timeout(1_800))


@pytest.fixture(scope="session")
def label_studio_binary() -> Path:
    binary = find_binary(ROOT, os.environ)
    if binary is None:
        pytest.skip("no Label Studio: run `make setup`, or set LABEL_STUDIO_BIN")
    return binary


@pytest.fixture(scope="session")
def label_studio_template(label_studio_binary: Path, request: pytest.FixtureRequest) -> Path:
    """A migrated data folder, kept between runs: half a minute the first time, three seconds a start after that."""
    return make_template(label_studio_binary, Path(request.config.cache.mkdir("label-studio")))


@pytest.fixture(scope="session")
def start_label_studio(
    label_studio_binary: Path, label_studio_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., EmbeddedLabelStudio]]:
    """Starts further servers, which live until the session ends: start_label_studio(environment={...})."""
    servers: list[EmbeddedLabelStudio] = []

    def start(environment: dict[str, str] | None = None) -> EmbeddedLabelStudio:
        folder = tmp_path_factory.mktemp("label-studio")
        (folder / "files").mkdir()
        server = EmbeddedLabelStudio(
            label_studio_binary,
            folder / "data",
            document_root=folder / "files",
            template=label_studio_template,
            environment=CONNECTED if environment is None else environment,
        )
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def label_studio(start_label_studio: Callable[..., EmbeddedLabelStudio]) -> EmbeddedLabelStudio:
    return start_label_studio()


@pytest.fixture(scope="session")
def client(label_studio: EmbeddedLabelStudio) -> Iterator[LabelStudio]:
    with LabelStudio(label_studio.url, label_studio.token) as client:
        yield client


@pytest.fixture
def new_project(client: LabelStudio) -> Callable[..., int]:
    """new_project(tasks=200) -> id of a project of two labels whose images do not exist."""

    def make(tasks: int = 0, labels: tuple[str, ...] = ("cat", "dog"), *, multiple: bool = False) -> int:
        project_id = int(client.create_project("a test project", label_config(labels, multiple=multiple))["id"])
        data = [{"image": f"/data/local-files/?d=images/{index:05}.png"} for index in range(tasks)]
        assert client.import_tasks(project_id, data) == tasks
        return project_id

    return make


@pytest.fixture(scope="session")
def three_users(label_studio: EmbeddedLabelStudio) -> list[LabelStudio]:
    """Three users of the organization, each with a client of their own."""
    return [sign_up(label_studio, f"annotator-{index}@example.com") for index in range(3)]


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with fake_backend() as backend:
        yield backend


@pytest.fixture(scope="session")
def postgresql_label_studio(
    label_studio_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedLabelStudio]:
    """A Label Studio on PostgreSQL, which is what several people at once should use."""
    folder = tmp_path_factory.mktemp("label-studio-postgresql")
    (folder / "files").mkdir()
    with cluster() as url:
        at = urlsplit(url)
        names = {"NAME": at.path.strip("/"), "USER": at.username, "HOST": at.hostname, "PORT": at.port, "PASSWORD": "-"}
        database = {"DJANGO_DB": "default"} | {f"POSTGRE_{name}": str(value) for name, value in names.items()}
        with EmbeddedLabelStudio(
            label_studio_binary,
            folder / "data",
            document_root=folder / "files",
            environment=CONNECTED | database,
        ) as server:
            assert not (folder / "data" / "label_studio.sqlite3").exists()
            yield server


@pytest.fixture(scope="session")
def plain_label_studio(start_label_studio: Callable[..., EmbeddedLabelStudio]) -> EmbeddedLabelStudio:
    """A Label Studio with its default environment: private addresses refused, the older prediction import."""
    return start_label_studio(environment={})
