"""What a person asks of the service over HTTP: train, cancel, roll back, pin."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.app import create_app

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


@pytest.fixture
def http(services: Services) -> TestClient:
    return TestClient(create_app(services), "http://localhost")


@pytest.fixture
def project(services: Services) -> Project:
    """A project of three versions, the last one served, with nothing due."""
    project = services.registry.register("http://localhost:8080", 3, CONFIG, created=None)
    for number in (1, 2, 3):
        services.versions.publish(project, number, lambda folder: (folder / "weights").touch())
        services.versions.promote(project, number)
    job = services.jobs.claim("worker")
    assert job is not None
    services.jobs.finish(job)
    return project


def get(http: TestClient, project: Project, path: str = "") -> Any:
    return http.get(f"/projects/{project.id}{path}").json()


def test_rolling_back_serves_the_version_before_and_has_the_queue_follow_at_once(
    http: TestClient, services: Services, project: Project
) -> None:
    assert http.post(f"/projects/{project.id}/roll-back").json()["name"] == "v2"
    status = get(http, project)
    assert (status["version"]["name"], status["job"]["due"]["reason"]) == ("v2", "v2 chosen by hand")
    assert services.jobs.claim("worker") is not None
    assert [v["state"] for v in get(http, project, "/versions")] == ["rolled_back", "promoted", "promoted"]


def test_rolling_back_ends_at_the_first_version_with_a_sentence(http: TestClient, project: Project) -> None:
    for _ in range(2):
        assert http.post(f"/projects/{project.id}/roll-back").status_code == 200
    answer = http.post(f"/projects/{project.id}/roll-back")
    assert (answer.status_code, "no earlier version" in answer.json()["error"]) == (409, True)
    assert get(http, project)["version"]["name"] == "v1"


def test_a_pinned_version_is_served_until_it_is_unpinned(
    http: TestClient, services: Services, project: Project
) -> None:
    assert http.post(f"/projects/{project.id}/pin/1").json()["name"] == "v1"
    status = get(http, project)
    assert (status["version"]["name"], status["pinned"]) == ("v1", True)
    assert services.jobs.claim("worker") is not None
    http.post(f"/projects/{project.id}/unpin")
    status = get(http, project)
    assert (status["pinned"], status["job"]["due"]["reason"]) == (False, "unpinned")


def test_a_version_is_named_as_it_is_called_everywhere(http: TestClient, project: Project) -> None:
    assert http.post(f"/projects/{project.id}/pin/v2").json()["name"] == "v2"
    answer = http.post(f"/projects/{project.id}/pin/best")
    assert (answer.status_code, answer.json()["error"]) == (
        422,
        "'best' is not a version: versions are called v1, v2, ...",
    )


def test_a_version_that_does_not_exist_cannot_be_pinned(http: TestClient, project: Project) -> None:
    answer = http.post(f"/projects/{project.id}/pin/9")
    assert (answer.status_code, "versions list" in answer.json()["error"]) == (404, True)
    assert get(http, project)["version"]["name"] == "v3"


def test_training_of_a_paused_project_is_refused_with_what_to_do(
    http: TestClient, services: Services, project: Project
) -> None:
    services.tuning.pause(project)
    answer = http.post(f"/projects/{project.id}/train")
    assert answer.status_code == 409
    assert "`ml-backend settings resume`" in answer.json()["error"]


def test_training_asked_for_is_due_at_once_and_can_be_cancelled(
    http: TestClient, services: Services, project: Project
) -> None:
    assert http.post(f"/projects/{project.id}/train").json()["state"] == "due"
    assert http.post(f"/projects/{project.id}/cancel").json() == {"cancelled": True}
    assert services.jobs.claim("worker") is None
    assert get(http, project, "/jobs")[0]["state"] == "cancelled"
    assert http.post(f"/projects/{project.id}/cancel").json() == {"cancelled": False}


@pytest.mark.parametrize("path", ["", "/rounds", "/versions", "/jobs"])
def test_an_unknown_project_is_told_with_where_to_look(http: TestClient, path: str) -> None:
    answer = http.get(f"/projects/99{path}")
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "There is no project 99 here; GET /projects lists the projects.",
    )


def test_a_webhook_that_cannot_be_repaired_is_a_problem_in_the_status(
    http: TestClient, services: Services, project: Project
) -> None:
    fault = "Label Studio refuses http://10.0.0.1/webhook: start it with SSRF_PROTECTION_ENABLED=false."
    services.ledger.configure(project, webhook={"checked_at": "2026-01-01T00:00:00+00:00", "problem": fault})
    assert get(http, project)["problems"] == [
        f"Label Studio's events do not arrive, so labels are noticed late: {fault}",
    ]


def test_every_route_says_what_it_answers(services: Services) -> None:
    paths = create_app(services).openapi()["paths"]
    untyped = []
    for path, methods in paths.items():
        for method, route in methods.items():
            content = route["responses"]["200"].get("content", {})
            if not any(
                "$ref" in str(kind.get("schema")) or name != "application/json" for name, kind in content.items()
            ):
                untyped.append(f"{method} {path}")
    assert untyped == []
