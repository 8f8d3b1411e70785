"""Connecting a real Label Studio to a backend, looking at it, breaking it and repairing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.errors import InvalidInputError, LabelStudioError
from ml_backend.labelstudio.checks import LABEL_EVENTS, TASK_EVENTS, Access, Finding, check, check_addresses
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.connection import connect, disconnect, repair_webhooks
from ml_backend.labelstudio.queue import QueueItem, push
from ml_backend.labelstudio.results import annotation_result
from tests.e2e import acts
from tests.e2e.helpers import FakeBackend, fake_backend, webhook_ids

NewProject = Callable[..., int]
ACCESS = Access("label-studio", "secret")


@pytest.fixture
def guarded() -> Iterator[FakeBackend]:
    with fake_backend(ACCESS) as backend:
        yield backend


def faults(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.message for finding in findings if not finding.ok}


def test_connect_sets_everything_up_and_again_changes_nothing(
    client: LabelStudio, new_project: NewProject, guarded: FakeBackend
) -> None:
    project_id = new_project(tasks=2)
    report = connect(client, project_id, guarded.url, access=ACCESS)
    assert faults(report.findings) == {}
    assert len(report.changed) == 5, report.changed
    made = webhook_ids(client, project_id)
    hooks = {tuple(sorted(hook["actions"])): hook["send_payload"] for hook in client.webhooks(project_id)}
    assert hooks == {tuple(sorted(TASK_EVENTS)): True, tuple(sorted(LABEL_EVENTS)): False}
    again = connect(client, project_id, guarded.url, access=ACCESS)
    assert again.changed == []
    assert webhook_ids(client, project_id) == made
    assert (len(client.backends(project_id)), len(client.webhooks(project_id))) == (1, 2)


def test_events_arrive_with_authorization(client: LabelStudio, new_project: NewProject, guarded: FakeBackend) -> None:
    project_id = new_project(tasks=1)
    connect(client, project_id, guarded.url, access=ACCESS)
    schema = client.schema(project_id)
    (task,) = client.tasks(project_id)
    annotation = client.create_annotation(task.id, annotation_result(schema, ["cat"]))
    address = f"/webhook?project={project_id}"
    assert guarded.wait_for("ANNOTATION_CREATED") == {"action": "ANNOTATION_CREATED", "address": address}
    acts.delete_annotation(client, annotation["id"])
    assert guarded.wait_for("ANNOTATIONS_DELETED") == {"action": "ANNOTATIONS_DELETED", "address": address}
    client.delete_tasks(project_id, [task.id])
    assert guarded.wait_for("TASKS_DELETED")["tasks"] == [{"id": task.id}]
    assert set(guarded.authorizations) == {ACCESS.header}


def test_a_skip_arrives_as_a_created_annotation(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project(tasks=1)
    connect(client, project_id, backend.url)
    (task,) = client.tasks(project_id)
    acts.skip(client, task.id)
    backend.wait_for("ANNOTATION_CREATED")


def test_a_push_tells_of_the_project_but_not_of_predictions(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project(tasks=1)
    connect(client, project_id, backend.url)
    (task,) = client.tasks(project_id)
    backend.events.clear()
    push(client, project_id, client.schema(project_id), "v1-r1", [QueueItem(task.id, 0.5)])
    assert [event["action"] for event in backend.events] == ["PROJECT_UPDATED"]
    push(client, project_id, client.schema(project_id), "v1-r1", [QueueItem(task.id, 0.5)])
    assert len(backend.events) == 1


def test_a_webhook_label_studio_made_without_authorization_is_adopted(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project()
    client.create_backend(project_id, url=backend.url, title="made by hand")
    (hook,) = client.webhooks(project_id)
    assert (hook["url"], hook["headers"]) == (backend.url + "/webhook", {})
    report = connect(client, project_id, backend.url)
    assert webhook_ids(client, project_id)[0] == hook["id"]
    assert faults(report.findings) == {}
    assert len(client.backends(project_id)) == 1


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ({"is_active": False}, "is switched off"),
        ({"url": "http://127.0.0.1:9/webhook"}, "points at http://127.0.0.1:9/webhook"),
        ({"headers": {"X-Active-Learning": "labels"}}, "has a missing or wrong Authorization header"),
        ({"send_payload": True}, "sends a payload, which slows Submit down"),
        ({"actions": ["ANNOTATION_CREATED"]}, "does not send all the events"),
        ({"actions": [*LABEL_EVENTS, *TASK_EVENTS]}, "sends more events than needed"),
        (None, "is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_webhook_is_told_and_repaired(
    client: LabelStudio, new_project: NewProject, guarded: FakeBackend, harm: dict[str, Any] | None, told: str
) -> None:
    project_id = new_project()
    connect(client, project_id, guarded.url, access=ACCESS)
    _, hook_id = webhook_ids(client, project_id)
    if harm is None:
        client.delete_webhook(hook_id)
    else:
        client.update_webhook(hook_id, **({"actions": list(LABEL_EVENTS)} | harm))
    assert told in faults(check(client, project_id, guarded.url, access=ACCESS))["webhook"]
    assert len(repair_webhooks(client, project_id, guarded.url, access=ACCESS)) == 1
    assert faults(check(client, project_id, guarded.url, access=ACCESS)) == {}
    assert repair_webhooks(client, project_id, guarded.url, access=ACCESS) == []
    assert len(client.webhooks(project_id)) == 2


def test_every_webhook_that_is_off_is_named(client: LabelStudio, new_project: NewProject, guarded: FakeBackend) -> None:
    project_id = new_project()
    connect(client, project_id, guarded.url, access=ACCESS)
    for hook_id in webhook_ids(client, project_id):
        client.update_webhook(hook_id, is_active=False)
    told = faults(check(client, project_id, guarded.url, access=ACCESS))["webhook"]
    assert told.count("is switched off") == 2
    assert "webhook for tasks" in told
    assert "webhook for labels" in told


def test_a_service_that_moved_takes_its_backend_and_webhook_along(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project()
    with fake_backend() as old:
        connect(client, project_id, old.url)
    before = [backend["id"] for backend in client.backends(project_id)], webhook_ids(client, project_id)
    assert "points at" in faults(check(client, project_id, backend.url))["ML backend"]
    after = connect(client, project_id, backend.url)
    assert faults(after.findings) == {}
    assert ([backend["id"] for backend in client.backends(project_id)], webhook_ids(client, project_id)) == before


def test_check_tells_every_fault_and_only_those(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project(tasks=1)
    assert set(faults(check(client, project_id, backend.url))) == {"ML backend", "webhook", "sampling"}
    connect(client, project_id, backend.url)
    assert faults(check(client, project_id, backend.url)) == {}
    client.update_project(project_id, model_version="Active learning", sampling="Uniform sampling")
    found = faults(check(client, project_id, backend.url))
    assert set(found) == {"sampling", "model version"}
    assert "the title of a backend" in found["model version"]
    client.update_project(project_id, model_version="", sampling="Uncertainty sampling")
    backend.close()
    assert set(faults(check(client, project_id, backend.url))) == {"ML backend"}


def test_disconnect_removes_the_backend_and_its_webhook(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project()
    connect(client, project_id, backend.url)
    assert len(disconnect(client, project_id, backend.url)) == 3
    assert client.backends(project_id) == client.webhooks(project_id) == []
    assert disconnect(client, project_id, backend.url) == []


def test_a_service_that_is_down_leaves_nothing_half_connected(client: LabelStudio, new_project: NewProject) -> None:
    project_id = new_project()
    with pytest.raises(LabelStudioError, match=r"cannot reach .* answers /health"):
        connect(client, project_id, f"http://127.0.0.1:{free_port()}")
    assert client.webhooks(project_id) == client.backends(project_id) == []


def test_a_wrong_password_is_told(client: LabelStudio, new_project: NewProject, guarded: FakeBackend) -> None:
    project_id = new_project()
    with pytest.raises(LabelStudioError, match=r"refused the project.*401"):
        connect(client, project_id, guarded.url, access=Access("label-studio", "wrong"))


def test_a_host_name_without_a_dot_is_refused_for_webhooks(client: LabelStudio, new_project: NewProject) -> None:
    project_id = new_project()
    with pytest.raises(
        LabelStudioError, match=r"the host name needs a dot: give this service a name such as backend\.internal"
    ):
        connect(client, project_id, "http://backend:9090")


def test_a_config_that_cannot_be_learned_is_refused_first(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    config = (
        '<View><Text name="text" value="$text"/><Choices name="c" toName="text"><Choice value="a"/></Choices></View>'
    )
    project_id = int(client.create_project("text", config)["id"])
    with pytest.raises(InvalidInputError, match="no <Image>"):
        connect(client, project_id, backend.url)
    assert client.webhooks(project_id) == []
    assert "no <Image>" in faults(check(client, project_id, backend.url))["label config"]


def test_a_default_label_studio_names_the_settings_to_change_and_only_those(
    plain_label_studio: EmbeddedLabelStudio, backend: FakeBackend, client: LabelStudio
) -> None:
    with LabelStudio(plain_label_studio.url, plain_label_studio.token) as plain:
        project_id = int(plain.create_project("defaults", label_config(["cat", "dog"]))["id"])
        found = faults(check(plain, project_id, backend.url))
        assert "ML_BLOCK_LOCAL_IP=false" in found["backend address"]
        assert "SSRF_PROTECTION_ENABLED=false" in found["webhook address"]
        with pytest.raises(LabelStudioError, match="SSRF_PROTECTION_ENABLED=false"):
            connect(plain, project_id, backend.url)
        assert plain.webhooks(project_id) == plain.backends(project_id) == []
    assert faults(check_addresses(client, backend.url)) == {}


def test_with_only_the_backend_allowed_the_webhook_is_told(
    start_label_studio: Callable[..., EmbeddedLabelStudio], backend: FakeBackend
) -> None:
    server = start_label_studio(environment={"ML_BLOCK_LOCAL_IP": "false"})
    with LabelStudio(server.url, server.token) as client:
        project_id = int(client.create_project("half", label_config(["cat", "dog"]))["id"])
        with pytest.raises(LabelStudioError, match="reserved network address"):
            client.create_backend(project_id, url=backend.url, title="by hand")
        assert len(client.backends(project_id)) == 1, "refused, and saved all the same: only its webhook is not"
        assert client.webhooks(project_id) == []
        assert set(faults(check_addresses(client, backend.url))) == {"webhook address"}
    server.stop()
