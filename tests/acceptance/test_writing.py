"""Accepted labels into Label Studio and out again: what is refused, what is told, and that a turn follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ml_backend.acceptance.writing import undo, write
from ml_backend.errors import ConflictError, InvalidInputError, LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio.bulk_annotations import MARK
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.withdrawing import Withdrawn
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.worker.foreground import alone
from ml_backend.worker.requeue import worker_name
from tests.imports.fake_project import FakeProject, imported

SOME = 20


@dataclass
class Configured(FakeProject):
    """Its label config is what it is by now."""

    config: str = label_config(("cat", "dog"))

    def get_project(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "task_number": len(self.rows), "label_config": self.config}


@pytest.fixture
def client() -> Configured:
    return Configured(rows=imported(SOME).rows)


@pytest.fixture
def project(services: Services) -> Project:
    return services.registry.register("http://localhost:8080", 1, label_config(("cat", "dog")), created=None)


def is_due(services: Services, project: Project) -> bool:
    return services.jobs.claim("worker", project=project) is not None


def quiet(services: Services, project: Project) -> None:
    """A project that is new is due by itself."""
    if (job := services.jobs.claim("worker", project=project)) is not None:
        services.jobs.finish(job)


def test_labels_are_written_under_their_certificate_and_the_next_turn_is_due_at_once(
    services: Services, project: Project, client: Configured
) -> None:
    quiet(services, project)
    labels = {task.id: "cat" if task.id % 2 else "dog" for task in client.rows}
    done = write(project, "c1", labels, client, services.jobs)
    assert sorted(done.written) == sorted(labels)
    assert {i: [(a.labels, a.accepted) for a in given] for i, given in client.given.items()} == {
        i: [((label,), "c1")] for i, label in labels.items()
    }
    assert is_due(services, project)
    again = write(project, "c1", labels, client, services.jobs)
    assert (sorted(again.written), client.acts) == (sorted(labels), 1)


def test_a_writing_that_was_taken_for_dead_writes_no_more(
    services: Services, project: Project, client: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped for a while: by now somebody may take the labels back, or ask people for the same tasks."""
    quiet(services, project)
    came_in = client.import_predictions

    def lost(*arguments: Any) -> int:
        services.jobs.abandon(worker_name())
        came_in(1, [{"task": 1, "result": [], "model_version": f"{MARK}of-another"}])
        return came_in(*arguments)

    monkeypatch.setattr(client, "import_predictions", lost)
    labels = {task.id: "cat" for task in client.rows}
    with (
        pytest.raises(ConflictError, match="now belongs to another"),
        alone(project, services, "accept write") as still_alone,
    ):
        write(project, "c1", labels, client, services.jobs, until=still_alone)
    assert client.given == {}
    left = [name for name, count in client.model_versions(1).items() if count]
    assert left == [f"{MARK}of-another"], "what goes on in its place is left alone"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (label_config(("cat", "owl")), "Nothing was written.*'dog'"),
        (label_config(("cat", "dog"), multiple=True), "one choice for each image"),
    ],
    ids=["a label is gone", "several may be chosen"],
)
def test_a_label_config_that_has_changed_since_is_seen_before_anything_is_written(
    services: Services, project: Project, client: Configured, config: str, says: str
) -> None:
    quiet(services, project)
    client.config = config
    with pytest.raises(InvalidInputError, match=says):
        write(project, "c1", dict.fromkeys(range(1, SOME + 1), "dog"), client, services.jobs)
    assert (client.given, client.model_versions(1)) == ({}, {})
    assert not is_due(services, project)


def test_what_is_no_certificate_is_refused_before_anything_is_done(
    services: Services, project: Project, client: Configured
) -> None:
    client.predictions[1] = [{"task": 1, "result": [], "model_version": "ml-backend-writing-killed"}]
    with pytest.raises(InvalidInputError, match="no certificate"):
        write(project, "../c1", {1: "cat"}, client, services.jobs)
    assert client.model_versions(1) == {"ml-backend-writing-killed": 1}


@pytest.mark.parametrize("error", [LabelStudioUnavailableError, LabelStudioError])
def test_where_taking_back_ends_in_the_middle_it_says_how_far_it_came_and_how_to_go_on(
    services: Services, project: Project, client: Configured, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    quiet(services, project)

    def away(*_: object, on_progress: Any, **__: object) -> Withdrawn:
        on_progress(1200)
        raise error("It is away.")

    monkeypatch.setattr("ml_backend.acceptance.writing.withdraw", away)
    told: list[int] = []
    with pytest.raises(
        error, match=r"away\. Nothing is lost, and 1,200 tasks are done with: run the same command again"
    ):
        undo(project, "c1", client, services.jobs, told.append)
    assert told == [1200]
    assert not is_due(services, project)
