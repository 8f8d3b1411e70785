"""What this service builds on when it reads from Label Studio and writes to it, seen on a real one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError, NotFoundError
from ml_backend.labelstudio import client as client_module
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import annotation_result
from ml_backend.labelstudio.transport import jwt_claims
from ml_backend.records import Annotation
from tests.e2e import acts
from tests.e2e.helpers import FakeBackend

NewProject = Callable[..., int]


def changed(client: LabelStudio, project_id: int, task_id: int, since: datetime) -> list[Annotation]:
    """The annotations of the one task that an incremental reading since then must see, and it alone."""
    later = since + timedelta(microseconds=1)
    ((task, annotations),) = client.annotated(project_id, updated_since=later)
    assert task.id == task_id
    return annotations


def last_change(client: LabelStudio, project_id: int) -> datetime:
    return max(task.updated_at for task in client.tasks(project_id) if task.updated_at)


def test_every_change_of_an_annotation_moves_its_tasks_updated_at(client: LabelStudio, new_project: NewProject) -> None:
    project_id = new_project(tasks=3)
    schema = client.schema(project_id)
    (task, *_) = client.tasks(project_id)
    later = last_change(client, project_id) + timedelta(microseconds=1)
    assert list(client.annotated(project_id, updated_since=later)) == []

    seen = last_change(client, project_id)
    created = client.create_annotation(task.id, annotation_result(schema, ["cat"]))
    (annotation,) = changed(client, project_id, task.id, seen)
    assert (annotation.id, annotation.labels, annotation.was_cancelled) == (created["id"], ("cat",), False)
    assert annotation.annotator == client.whoami()["id"]

    seen = last_change(client, project_id)
    client.update_annotation(created["id"], result=annotation_result(schema, ["dog"]))
    (annotation,) = changed(client, project_id, task.id, seen)
    assert annotation.labels == ("dog",)

    seen = last_change(client, project_id)
    client.update_annotation(created["id"], ground_truth=True)
    (annotation,) = changed(client, project_id, task.id, seen)
    assert annotation.ground_truth

    seen = last_change(client, project_id)
    acts.delete_annotation(client, created["id"])
    assert changed(client, project_id, task.id, seen) == []

    seen = last_change(client, project_id)
    acts.skip(client, task.id)
    (skip,) = changed(client, project_id, task.id, seen)
    assert (skip.was_cancelled, skip.labels) == (True, ())

    seen = last_change(client, project_id)
    client.act(project_id, "delete_tasks_annotations", [task.id])
    assert changed(client, project_id, task.id, seen) == []


def test_an_edited_annotation_names_its_editor_and_so_does_one_whose_ground_truth_was_set_and_unset(
    client: LabelStudio, new_project: NewProject, three_users: list[LabelStudio]
) -> None:
    """So the editor alone does not tell who made an annotation say what it says, nor `updated_at` when."""
    project_id = new_project(tasks=1)
    schema = client.schema(project_id)
    first, second, third = three_users
    names = [int(user.whoami()["id"]) for user in three_users]
    (task,) = client.tasks(project_id)
    made = first.create_annotation(task.id, annotation_result(schema, ["cat"]))

    def seen() -> Annotation:
        ((_, (annotation,)),) = client.annotated(project_id, schema=schema)
        return annotation

    given = seen()
    assert (given.annotator, given.editor) == (names[0], names[0])
    assert given.updated_at - given.created_at < timedelta(seconds=1)
    second.update_annotation(made["id"], result=annotation_result(schema, ["dog"]))
    edited = seen()
    assert (edited.annotator, edited.editor, edited.created_at) == (names[0], names[1], given.created_at)
    third.update_annotation(made["id"], ground_truth=True)
    third.update_annotation(made["id"], ground_truth=False)
    marked = seen()
    assert (marked.annotator, marked.editor) == (names[0], names[2])
    assert marked.updated_at > edited.updated_at
    assert (marked.labels, marked.created_at) == (edited.labels, edited.created_at)


def test_a_draft_is_no_annotation(client: LabelStudio, new_project: NewProject) -> None:
    project_id = new_project(tasks=1)
    schema = client.schema(project_id)
    (task,) = client.tasks(project_id)
    client.transport.call("POST", f"/api/tasks/{task.id}/drafts", json={"result": annotation_result(schema, ["cat"])})
    assert list(client.annotated(project_id)) == []
    assert [
        (found.id, annotations) for found, annotations in client.annotated(project_id, updated_since=task.updated_at)
    ] == [(task.id, [])]


def test_reading_all_or_what_changed_gives_the_same_labels(
    client: LabelStudio, new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 7)  # many pages, some without any annotation
    project_id = new_project(tasks=40)
    schema = client.schema(project_id)
    tasks = list(client.tasks(project_id))
    assert [task.id for task in tasks] == sorted(task.id for task in tasks)
    for task in tasks[3:20:4]:
        client.create_annotation(task.id, annotation_result(schema, ["cat"]))
        client.create_annotation(task.id, annotation_result(schema, ["dog"]))
    acts.skip(client, tasks[-1].id)
    everything = {task.id: found for task, found in client.annotated(project_id)}
    since = {task.id: found for task, found in client.annotated(project_id, updated_since=tasks[0].updated_at)}
    assert {task_id: found for task_id, found in since.items() if found} == everything
    assert list(since) == [task.id for task in tasks]
    assert [len(found) for found in everything.values()] == [2, 2, 2, 2, 2, 1]


def test_a_task_deleted_while_its_project_is_read_hides_no_other(
    client: LabelStudio, new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 5)
    project_id = new_project(tasks=20)
    reading = client.tasks(project_id)
    seen = [next(reading) for _ in range(5)]
    client.delete_tasks(project_id, [task.id for task in seen[:3]])
    assert len(seen + list(reading)) == 20


def test_listing_does_not_make_label_studio_predict_the_whole_project(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend
) -> None:
    project_id = new_project(tasks=5)
    client.create_backend(project_id, url=backend.url, title="some backend")
    client.update_project(project_id, evaluate_predictions_automatically=True)
    assert len(list(client.tasks(project_id))) == 5
    assert list(client.annotated(project_id)) == []
    assert backend.predicted == []
    client.transport.call("GET", "/api/tasks/", params={"project": project_id})
    assert len(backend.predicted) == 5, "the plain listing does"


def test_importing_tasks_with_annotations_keeps_who_and_what(client: LabelStudio, new_project: NewProject) -> None:
    project_id = new_project()
    schema = client.schema(project_id)
    data = {"image": "/data/upload/1/a.png", "filename": "=weird, name (1).png"}
    annotation = {"result": annotation_result(schema, ["dog"]), "ground_truth": False}
    assert client.import_tasks(project_id, [{"data": data, "annotations": [annotation]}]) == 1
    ((task, (found,)),) = client.annotated(project_id)
    assert (task.data, found.labels, found.ground_truth) == (data, ("dog",), False)


def test_a_prediction_that_label_studio_drops_is_named(plain_label_studio: EmbeddedLabelStudio) -> None:
    client = LabelStudio(plain_label_studio.url, plain_label_studio.token)
    project_id = int(client.create_project("dropping", label_config(["cat", "dog"]))["id"])
    client.import_tasks(project_id, [{"image": f"{index}.png"} for index in range(3)])
    first, second, _ = (task.id for task in client.tasks(project_id))
    wrong = annotation_result(client.schema(project_id), ["horse"])
    sent = [
        {"task": first, "result": [], "score": 0.1, "model_version": "v1-r1"},
        {"task": second, "result": wrong, "score": 0.2, "model_version": "v1-r1"},
    ]
    with pytest.raises(LabelStudioError, match=f"only 1 of 2 predictions; it dropped those of tasks {second}"):
        client.import_predictions(project_id, sent)


def test_a_personal_access_token_is_exchanged_and_renewed(
    label_studio: EmbeddedLabelStudio, client: LabelStudio
) -> None:
    token = client.transport.call("POST", "/api/token/", json={})["token"]
    assert jwt_claims(token)["token_type"] == "refresh"
    with LabelStudio(label_studio.url, token) as personal:
        assert personal.whoami() == client.whoami()
        personal.transport.auth._access = "no.longer.good"  # as after a restart of Label Studio with another key
        assert personal.whoami() == client.whoami()
    with (
        LabelStudio(label_studio.url, token[:-6] + "AAAAAA") as forged,
        pytest.raises(LabelStudioError, match="Create a new"),
    ):
        forged.whoami()


def test_a_wrong_token_and_a_switched_off_kind_are_told_apart(
    start_label_studio: Callable[..., EmbeddedLabelStudio],
) -> None:
    server = start_label_studio()
    with (
        LabelStudio(server.url, "f" * 40) as wrong,
        pytest.raises(LabelStudioError, match=r"Invalid token.*Copy it again"),
    ):
        wrong.whoami()
    admin = LabelStudio(server.url, server.token)
    token = admin.transport.call("POST", "/api/token/", json={})["token"]
    kinds = {"legacy_api_tokens_enabled": False, "api_tokens_enabled": True}
    admin.transport.call("POST", "/api/jwt/settings", json=kinds)
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true"):
        admin.whoami()
    assert LabelStudio(server.url, token).whoami()["email"] == server.username
    server.stop()
    with pytest.raises(LabelStudioUnavailableError, match="check that it is running"):
        LabelStudio(server.url, server.token, retries=1).whoami()


def test_what_is_not_there_is_not_found_and_deleting_it_is_done(client: LabelStudio, new_project: NewProject) -> None:
    with pytest.raises(NotFoundError, match="/api/projects/999999"):
        client.get_project(999999)
    project_id = new_project(tasks=1)
    webhook = client.create_webhook(project_id, url="http://127.0.0.1:9/webhook", send_payload=True)
    client.delete_webhook(webhook["id"])
    client.delete_webhook(webhook["id"])
    assert client.webhooks(project_id) == []


def test_nobody_at_the_address_is_told_as_such() -> None:
    client = LabelStudio(f"http://127.0.0.1:{free_port()}", "token", retries=0)
    with pytest.raises(LabelStudioUnavailableError, match="check that it is running"):
        client.version()
