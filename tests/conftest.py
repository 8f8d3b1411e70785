"""A store of one test's own, on SQLite or PostgreSQL, with a clock that moves when told to, and a project in it."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from sqlalchemy.dialects import sqlite
from xdist.scheduler import LoadScopeScheduling

from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store import database as store
from ml_backend.store import schema
from ml_backend.store.database import Database
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.reconcile import ReconcileReport
from tests.fakes import FakeClock, FakeLabelStudio, quick_database

if TYPE_CHECKING:
    from tests.bench import Bench  # torch takes seconds
    from tests.field_desk import Desk

KEY = ProjectKey("http://label-studio", 1)
SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog"))
HOST = KEY.host
SQLITE_ENGINE = store._sqlite_engine
"""As it is outside of tests: it waits for the disk."""


class EndToEndInOne(LoadScopeScheduling):  # type: ignore[misc]
    """Tests with a real Label Studio go to one process, in their order: they share its servers, and each wants a core."""

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith("tests/e2e/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> EndToEndInOne:
    """With `-n 2`."""
    return EndToEndInOne(config, log)


# By itself hypothesis fails an example that takes 0.2 s, as any does now and then where something else has the machine.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """All that is imported stays to the end: looking through it for garbage again and again takes a tenth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _nobody_pulls_the_plug_in_the_middle_of_a_test() -> Iterator[None]:
    """Nothing in this process waits for the disk, and a new SQLite store gets its tables without being looked through.

    Processes that tests start, and kill, do as ever.
    """
    create, statements = schema.metadata.create_all, _statements()

    def sqlite_engine(url: sa.URL) -> sa.Engine:
        engine = SQLITE_ENGINE(url)
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        return engine

    def create_all(connection: sa.Connection) -> None:
        if connection.dialect.name != "sqlite":
            create(connection)
            return
        for statement in statements:
            connection.exec_driver_sql(statement)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(store, "_sqlite_engine", sqlite_engine)
        patch.setattr(schema.metadata, "create_all", create_all)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_test_waits_for_weights_from_outside() -> Iterator[None]:
    """Neither in this process nor in those that tests start."""
    look_up = socket.getaddrinfo

    def refused(host: Any, *others: Any, **more: Any) -> Any:
        if host in {"huggingface.co", "download.pytorch.org"}:
            raise socket.gaierror(socket.EAI_FAIL, "no test asks anybody outside")
        return look_up(host, *others, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refused)
        patch.setenv("ML_BACKEND_DOWNLOADS", "no")
        yield


def _statements() -> list[str]:
    """What makes the tables on SQLite."""
    made: list[str] = []
    dialect = sqlite.dialect()
    engine = sa.create_mock_engine(
        "sqlite://", lambda statement, *_: made.append(str(statement.compile(dialect=dialect)))
    )
    schema.metadata.create_all(engine, checkfirst=False)
    return made


@pytest.fixture(autouse=True, scope="session")
def _no_test_touches_the_users_own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("share")))
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = quick_database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k"))
    yield opened
    opened.database.close()


@pytest.fixture
def ledger(database: Database, clock: FakeClock) -> Ledger:
    return Ledger(database, clock=clock)


@pytest.fixture
def jobs(database: Database, clock: FakeClock) -> Jobs:
    return Jobs(database, clock=clock)


@pytest.fixture
def project(ledger: Ledger) -> Project:
    return ledger.upsert_project(KEY, title="Pets", label_config="<View/>", schema=SCHEMA)


@pytest.fixture
def studio(clock: FakeClock) -> FakeLabelStudio:
    return FakeLabelStudio(clock)


def known(ledger: Ledger, number: int = 1, *, host: str = HOST, schema: LabelSchema = SCHEMA, **more: Any) -> Project:
    return ledger.upsert_project(ProjectKey(host, number), title="Pets", label_config="<View/>", schema=schema, **more)


def full(ledger: Ledger, project: Project, studio: FakeLabelStudio) -> ReconcileReport:
    return ledger.reconcile(project, studio.listing(project.key.project_id), full=True)


def names(ledger: Ledger, project: Project) -> dict[int, tuple[str, ...]]:
    return {label.task_id: label.labels for label in ledger.labels(project)}


@pytest.fixture
def bench(one_version: Bench, tmp_path: Path) -> Iterator[Bench]:
    """A copy of the module's `one_version`, to be changed."""
    twin = one_version.copied(tmp_path / "data")
    yield twin
    twin.services.database.close()


@pytest.fixture
def desk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Such a copy, beside a Label Studio in memory that has its tasks."""
    from tests.field_desk import desk_of

    return desk_of(bench, monkeypatch)
