"""The first order: pushed once a project, whatever dies or is refused in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio import connection
from ml_backend.labelstudio.queue import FIRST_ORDER, UNCERTAINTY
from ml_backend.records import LabelSchema, Task
from ml_backend.services import Services
from ml_backend.steps import first_order
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from tests.readings import held_out_tasks

HOST = "http://localhost:8080"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


class Host:
    """A Label Studio with unlabelled tasks 100, 101, ..., as far as the first order asks."""

    def __init__(self, tasks: int) -> None:
        self.tasks = range(100, 100 + tasks)

    def get_project(self, _project_id: int) -> dict[str, Any]:
        return {"title": "Pets", "label_config": CONFIG, "maximum_annotations": 1}

    def unlabelled(self, _project_id: int) -> int:
        return len(self.tasks)

    def unlabelled_at(self, _project_id: int, places: Sequence[int], *, schema: LabelSchema) -> list[Task]:
        return [Task(self.tasks[place], schema.image_key, {}) for place in places]


class Pushes:
    """In place of pushing: notes the order, and fails as told."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pushed: list[list[int]] = []
        self.spare: list[int] = []
        self.error: Exception | None = None

    def serve(self, _project: Project, round_: Round, spare: Sequence[int]) -> Round:
        self.spare = list(spare)
        self.pushed.append([query.task_id for query in self.ledger.queries(round_)])
        if self.error is not None:
            raise self.error
        return self.ledger.mark_verified(self.ledger.mark_pushed(round_))


@pytest.fixture
def pushes(services: Services, monkeypatch: pytest.MonkeyPatch) -> Pushes:
    pushes = Pushes(services.ledger)
    monkeypatch.setattr("ml_backend.steps.push_queue.QueuePusher.serve", pushes.serve)
    return pushes


def serve(project: Project, services: Services) -> None:
    services.first_order.serve(project)


def project_of(services: Services, tasks: int) -> Project:
    services.hosts._clients[HOST] = Host(tasks)  # type: ignore[assignment]
    return services.registry.register(HOST, 1, CONFIG, created=None)


def test_a_new_project_is_served_a_random_order_once(services: Services, pushes: Pushes) -> None:
    project = project_of(services, 5_000)
    for _ in range(3):
        serve(project, services)
    (order,) = pushes.pushed
    assert len(set(order)) == first_order.SIZE
    assert order != sorted(order)
    last = services.ledger.last_round(project)
    assert last is not None
    assert last.served_name == FIRST_ORDER
    arms = [row.arm for row in services.ledger.rows(project) if row.task.id in order]
    assert set(arms) == {"random"}, "exports say how they were asked for"
    assert len(set(pushes.spare) - set(order)) == first_order.SPARE, (
        "for whoever asks while colleagues have the rest open"
    )
    assert services.ledger.project(project.key).full_at is None, "the others are still to be listed"
    assert held_out_tasks(services.ledger, project) == []


def test_killed_before_it_was_served_the_same_order_is_pushed_again(services: Services, pushes: Pushes) -> None:
    project = project_of(services, 5_000)
    pushes.error = LabelStudioUnavailableError("away")
    with pytest.raises(LabelStudioUnavailableError):
        serve(project, services)
    services.hosts._clients[HOST] = Host(9_000)  # type: ignore[assignment]
    pushes.error = None
    serve(project, services)
    first, again = pushes.pushed
    assert again == first


def test_a_refusal_does_not_stop_the_turn(services: Services, pushes: Pushes) -> None:
    pushes.error = LabelStudioError("no")
    serve(project_of(services, 30), services)
    assert len(pushes.pushed) == 1


def test_a_project_that_had_a_queue_is_left_alone(services: Services, pushes: Pushes) -> None:
    project = project_of(services, 30)
    services.ledger.open_round(project, version=0, strategy="auto", seed=0, queries=[])
    serve(project, services)
    assert pushes.pushed == []


def test_where_nothing_is_unlabelled_there_is_no_order(services: Services, pushes: Pushes) -> None:
    project = project_of(services, 0)
    serve(project, services)
    assert pushes.pushed == []
    assert services.ledger.last_round(project) is None


def test_the_next_listing_begins_where_the_last_one_did(services: Services, pushes: Pushes) -> None:
    project = project_of(services, 30)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    services.ledger.reconcile(project, [], full=True, now=began)
    serve(project, services)
    assert len(pushes.pushed) == 1
    assert services.ledger.project(project.key).reconciled_at == began


class Connected:
    """A project whose first order is pushed by the service right after `connect` has looked at the model version."""

    def __init__(self) -> None:
        self.version = "Active learning"
        self.predictions: dict[str, int] = {}

    def get_project(self, _project_id: int) -> dict[str, Any]:
        seen = {"sampling": UNCERTAINTY, "model_version": self.version}
        self.version, self.predictions = FIRST_ORDER, {FIRST_ORDER: 20}
        return seen

    def model_versions(self, _project_id: int) -> dict[str, int]:
        return self.predictions

    def update_project(self, _project_id: int, **fields: Any) -> None:
        self.version = fields.get("model_version", self.version)

    def set_model_version(self, _project_id: int, version: str) -> None:
        self.version = version


def test_connecting_does_not_clear_a_first_order_that_was_quicker() -> None:
    client = Connected()
    connection._set_project(client, 1)  # type: ignore[arg-type]
    assert client.version == FIRST_ORDER
