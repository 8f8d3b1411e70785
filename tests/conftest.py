"""A store of one test's own, on SQLite or PostgreSQL, with a clock that moves when told to, and a project in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.store.database import Database
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger, ReconcileReport
from ml_backend.store.projects import Project
from tests.fakes import FakeClock, FakeLabelStudio, quick_database

KEY = ProjectKey("http://label-studio", 1)
SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog"))
HOST = KEY.host


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
