"""Label Studio installed anew counts from 1 again: another project under the same number is another project here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_backend import cycle
from ml_backend.errors import NotFoundError, ProjectReplacedError
from ml_backend.records import ProjectKey, Query
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.app import create_app
from ml_backend.worker.loop import RARELY, Worker
from tests.conftest import KEY, known
from tests.fakes import FakeClock
from tests.steps.test_large_projects import CONFIG, HOST, NOW, Host, connected, services_in

MADE, AGAIN = NOW - timedelta(days=9), NOW - timedelta(days=1)


@dataclass
class Dated(Host):
    """A Label Studio that says when its project was made."""

    made: datetime = MADE

    def get_project(self, project_id: int) -> dict[str, Any]:
        return super().get_project(project_id) | {"created_at": self.made.isoformat()}


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    opened = services_in(tmp_path)
    monkeypatch.setattr("ml_backend.steps.repair_webhooks.watch", lambda *_, **__: None)
    yield opened
    opened.database.close()


@pytest.fixture
def host() -> Dated:
    return Dated(20, labelled=7)


@pytest.fixture
def former(services: Services, host: Dated) -> Project:
    """A project with labels, a queue and a model."""
    project, _ = services.label_sync.sync(connected(services, host), full=True)
    query = Query(1, 0, "strategy", 0.5, "")
    services.ledger.mark_pushed(
        services.ledger.open_round(project, version=1, strategy="margin", seed=0, queries=[query])
    )
    services.versions.publish(project, 1, lambda folder: (folder / "weights").touch())
    services.versions.promote(project, 1)
    return project


def test_another_project_under_the_number_begins_anew_and_the_former_ones_labels_are_kept(
    services: Services, host: Dated, former: Project
) -> None:
    assert services.jobs.claim("worker") is not None
    services.jobs.mark_due(former, reason="labels")
    host.made, host.labelled = AGAIN, 0
    with pytest.raises(ProjectReplacedError, match="The 7 labels of the former one"):
        services.label_sync.sync(former, full=False)
    (new,) = services.ledger.projects()
    assert (new.id != former.id, new.key) == (True, former.key)
    assert services.jobs.claim("worker").project_id == new.id  # type: ignore[union-attr]
    services.label_sync.sync(new, full=False)
    status = services.status.of(services.ledger.project(new.key))
    assert status["counts"]["labelled"] == 0
    assert (status["version"], status["queue"]) == (None, None)
    assert [kept["labelled"] for kept in status["former"]] == [7]
    assert len(services.ledger.labels(former)) == 7
    assert services.versions.current(former) is not None


def test_the_turn_that_finds_it_out_is_no_failure(
    services: Services, host: Dated, former: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle, "run", lambda project, services, *_, **__: services.label_sync.sync(project, full=False))
    host.made = AGAIN
    assert Worker(services, "mine").work()
    (new,) = services.ledger.projects()
    assert new.id != former.id
    status = services.jobs.status(former)
    assert status.last is not None
    assert (status.last.state, status.running) == ("done", None)
    assert services.jobs.status(new).due is not None


def test_until_it_is_found_out_nobody_gets_the_former_ones_predictions(services: Services, former: Project) -> None:
    """What /setup says is only a hint: anybody can say it, and the labels stay where they are until Label Studio does."""
    http = TestClient(create_app(services), "http://localhost")
    created = int(AGAIN.timestamp())
    setup = {"project": f"1.{created}", "schema": CONFIG, "hostname": HOST, "extra_params": None}
    assert http.post("/setup", json=setup).status_code == 200
    assert services.ledger.project(former.key).id == former.id
    assert services.jobs.status(former).due is not None
    asked = {"project": f"1.{created}", "tasks": [{"id": 1, "data": {"image": "/1.png"}}], "label_config": CONFIG}
    assert http.post("/predict", json=asked).status_code == 409
    assert http.post("/predict", json=asked | {"project": f"1.{int(MADE.timestamp())}"}).status_code != 409


def test_a_project_known_without_its_time_of_creation_learns_it(services: Services, host: Dated) -> None:
    project, _ = services.label_sync.sync(connected(services, host), full=True)
    assert project.state.created == int(MADE.timestamp())


def test_a_project_that_is_gone_is_asked_for_less_and_less_often(
    services: Services, host: Dated, former: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(datetime.now(UTC))
    services.jobs.clock = clock
    asked: list[datetime] = []

    def gone(_project_id: int) -> dict[str, Any]:
        asked.append(clock.now)
        raise NotFoundError("not found")

    class Time(datetime):
        @classmethod
        def now(cls, _tz: Any = None) -> datetime:  # type: ignore[override]
            return clock.now

    monkeypatch.setattr(host, "get_project", gone, raising=False)
    monkeypatch.setattr("ml_backend.worker.loop.datetime", Time)
    monkeypatch.setattr("ml_backend.steps.sync_labels.datetime", Time)
    worker = Worker(services, "mine")
    for _ in range(4 * 48):
        clock.advance(1800)
        worker._polled = -1e9
        worker._poll()
        while worker.work():
            pass
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert len(asked) < 12
    assert pauses[-1] >= RARELY
    services.jobs.mark_due(former, immediately=True, reason="asked for")
    assert worker.work(), "a person need not wait"


def test_two_turns_that_find_it_out_make_one_new_project(clock: FakeClock, ledger: Any) -> None:
    project = known(ledger)
    given = {"title": "Pets", "label_config": "<View/>", "schema": project.schema, "created": 2}
    first, second = ledger.replace(project, **given), ledger.replace(project, **given)
    assert first.id == second.id
    assert ledger.project(ProjectKey(KEY.host, KEY.project_id)).id == first.id
