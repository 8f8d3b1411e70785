"""Many annotations at once on a real Label Studio: each task once, whenever the run is killed or a request times out."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import ConflictError, LabelStudioUnavailableError
from ml_backend.imports.annotations import LabelReport, import_labels
from ml_backend.labelstudio import bulk_annotations, queue
from ml_backend.labelstudio.bulk_annotations import MARK, settle, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.labelstudio.results import annotation_result, prediction_result
from ml_backend.records import Annotation
from tests.e2e import acts
from tests.e2e.dying import Moment, after, before, killed_at, left_by_kills
from tests.e2e.helpers import FakeBackend
from tests.e2e.stack import inline

NewProject = Callable[..., int]
SOME = 14
WRITING = 2 * 2 + 5
"""Requests of `small` writing: two chunks of two, and five names deleted."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several names each."""
    monkeypatch.setattr(bulk_annotations, "CHUNK", 8)
    monkeypatch.setattr(bulk_annotations, "PIECE", 3)
    monkeypatch.setattr(bulk_annotations, "FEW", 2)


def ids_of(client: LabelStudio, project_id: int) -> list[int]:
    return [task.id for task in client.tasks(project_id)]


def given(client: LabelStudio, project_id: int) -> dict[int, list[Annotation]]:
    return {task.id: annotations for task, annotations in client.annotated(project_id)}


def labels_in(client: LabelStudio, project_id: int) -> dict[int, list[tuple[str, ...]]]:
    return {task_id: [a.labels for a in found] for task_id, found in given(client, project_id).items()}


def alternating(ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    return {task_id: (("cat", "dog")[place % 2],) for place, task_id in enumerate(ids)}


def once(labels: dict[int, tuple[str, ...]]) -> dict[int, list[tuple[str, ...]]]:
    return {task_id: [chosen] for task_id, chosen in labels.items()}


def test_labels_written_at_once_are_what_they_are_one_by_one_and_leave_no_prediction(
    client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    client.import_predictions(
        project_id,
        [
            {"task": i, "result": prediction_result(schema, ["dog"], 0.6), "score": 0.6, "model_version": "a person's"}
            for i in ids[:5]
        ],
    )
    before = client.get_project(project_id)
    shown = client.predictions_of(project_id, ids)
    labels = alternating(ids[:-1])
    done = write_annotations(project_id, schema, labels, client)
    assert (sorted(done.written), done.answered, done.gone) == (ids[:-1], [], [])
    single = client.create_annotation(ids[-1], annotation_result(schema, ["cat"]), lead_time=0.0)
    assert labels_in(client, project_id) == once(labels) | {ids[-1]: [("cat",)]}
    assert client.predictions_of(project_id, ids) == shown
    assert client.model_versions(project_id) == {"a person's": 5}
    after = client.get_project(project_id)
    assert {key for key in before if before[key] != after[key]} == {"num_tasks_with_annotations"}
    one, other = client.task(ids[0]), client.task(ids[-1])
    same = ("is_labeled", "total_annotations", "cancelled_annotations", "total_predictions", "annotators")
    assert [one[name] for name in same[:3]] == [other[name] for name in same[:3]]
    kept = ("result", "completed_by", "was_cancelled", "ground_truth", "parent_prediction", "parent_annotation")
    assert {k: one["annotations"][0][k] for k in kept} == {k: other["annotations"][0][k] for k in kept}
    assert single["completed_by"] == client.whoami()["id"]


def test_what_was_written_at_once_is_read_again_by_whoever_asks_what_changed(
    client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    ids = ids_of(client, project_id)
    since = max(task.updated_at for task in client.tasks(project_id) if task.updated_at) + timedelta(microseconds=1)
    labels = alternating(ids)
    write_annotations(project_id, client.schema(project_id), labels, client)
    changed = {task.id: [a.labels for a in found] for task, found in client.annotated(project_id, updated_since=since)}
    assert changed == once(labels)


def test_an_answer_of_none_survives_on_either_prediction_import(
    client: LabelStudio, plain_label_studio: EmbeddedLabelStudio, small: None
) -> None:
    with LabelStudio(plain_label_studio.url, plain_label_studio.token) as plain:
        for host in (client, plain):
            project_id = int(host.create_project("none of them", label_config(("cat", "dog"), multiple=True))["id"])
            host.import_tasks(project_id, [{"image": f"/data/local-files/?d={n}.png"} for n in range(SOME)])
            schema, ids = host.schema(project_id), ids_of(host, project_id)
            labels: dict[int, tuple[str, ...]] = {i: ((), ("cat",), ("cat", "dog"))[i % 3] for i in ids}
            done = write_annotations(project_id, schema, labels, host)
            assert sorted(done.written) == ids
            found = given(host, project_id)
            assert {task_id: [a.labels for a in answers] for task_id, answers in found.items()} == once(labels)
            assert {a.none_of for i in ids if not labels[i] for a in found[i]} == {schema.from_name}
            assert not any(host.model_versions(project_id).values())


@killed_at(WRITING, before(0), after(0), after(1), before(6), after(8))
def test_killed_before_or_after_any_request_a_second_run_ends_as_if_it_had_not_been(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, moments: list[Moment], small: None
) -> None:
    def work(project_id: int, client: LabelStudio) -> LabelReport:
        names = {str(task_id): chosen for task_id, chosen in alternating(ids_of(client, project_id)).items()}
        return import_labels(project_id, client.schema(project_id), names, client)

    for moment, project_id in left_by_kills(label_studio, lambda: new_project(tasks=SOME), work, moments, WRITING):
        report = work(project_id, client)
        assert report.written + report.same == SOME
        assert labels_in(client, project_id) == once(alternating(ids_of(client, project_id))), moment
        assert client.model_versions(project_id) == {}, moment


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.3])
def test_an_action_that_label_studio_goes_on_with_after_we_gave_up_annotates_no_task_twice(
    label_studio: EmbeddedLabelStudio, new_project: NewProject, seconds: float
) -> None:
    with LabelStudio(label_studio.url, label_studio.token) as client:
        project_id = new_project(tasks=600)
        labels = alternating(ids_of(client, project_id))
        sent: list[str] = []
        real = client.transport.send

        def impatient(method: str, path: str, **kwargs: Any) -> Any:
            if "predictions_to_annotations" in path and not sent:
                sent.append(path)
                kwargs["timeout"] = seconds
            return real(method, path, **kwargs)

        client.transport.send = impatient  # type: ignore[method-assign]
        done = write_annotations(project_id, client.schema(project_id), labels, client)
        assert sent
        assert sorted(done.written) == sorted(labels)
        assert labels_in(client, project_id) == once(labels)
        assert client.model_versions(project_id) == {}


@pytest.mark.parametrize("database", ["label_studio", "postgresql_label_studio"])
def test_no_annotation_comes_in_once_its_prediction_was_deleted_while_the_action_ran(
    request: pytest.FixtureRequest, database: str
) -> None:
    """What the whole rests on."""
    server = request.getfixturevalue(database)
    with LabelStudio(server.url, server.token) as client:
        project_id = int(client.create_project("a fence", label_config(("cat", "dog")))["id"])
        client.import_tasks(project_id, [{"image": f"/data/local-files/?d={n}.png"} for n in range(1000)])
        schema, ids = client.schema(project_id), ids_of(client, project_id)
        outcomes = []
        for turn, wait in enumerate((0.0, 0.03, 0.1, 0.25, 0.5)):
            name, mine = f"{MARK}{turn}", ids[200 * turn : 200 * turn + 200]
            guess = {"result": annotation_result(schema, ["cat"]), "model_version": name}
            client.import_predictions(project_id, [{"task": i, **guess} for i in mine])
            with ThreadPoolExecutor(1) as other:
                path = f"/api/dm/actions?id=predictions_to_annotations&project={project_id}"
                body = {"selectedItems": {"all": False, "included": mine}, "model_version": name}
                running = other.submit(client.transport.send, "POST", path, json=body, timeout=120)
                time.sleep(wait)
                client.delete_predictions(project_id, name)
                at_once = len(set(mine) & set(given(client, project_id)))
                running.result()
            outcomes.append((at_once, len(set(mine) & set(given(client, project_id)))))
    assert all(one == other and one in {0, 200} for one, other in outcomes), outcomes


def test_an_answer_that_a_person_gives_before_the_action_is_kept_and_theirs_alone(
    label_studio: EmbeddedLabelStudio, new_project: NewProject, three_users: list[LabelStudio], small: None
) -> None:
    project_id = new_project(tasks=SOME)
    with LabelStudio(label_studio.url, label_studio.token) as client:
        schema, ids = client.schema(project_id), ids_of(client, project_id)
        real, person = client.import_predictions, three_users[0]

        def meanwhile(number: int, predictions: Sequence[dict[str, Any]]) -> int:
            stored = real(number, predictions)
            if any(p["task"] == ids[1] for p in predictions) and ids[1] not in given(client, number):
                person.create_annotation(ids[1], annotation_result(schema, ["cat"]))
            return stored

        client.import_predictions = meanwhile  # type: ignore[method-assign, assignment]
        report = import_labels(project_id, schema, {str(i): chosen for i, chosen in alternating(ids).items()}, client)
    assert report.differing == [f"task {ids[1]}: somebody labelled it meanwhile"]
    assert report.written == SOME - 1
    found = given(three_users[0], project_id)
    assert [(a.labels, a.annotator) for a in found[ids[1]]] == [(("cat",), person.whoami()["id"])]
    assert {task_id: len(answers) for task_id, answers in found.items()} == dict.fromkeys(ids, 1)


def test_two_runs_at_once_annotate_no_task_twice_and_one_of_them_says_why_it_stops(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    schema, labels = client.schema(project_id), alternating(ids_of(client, project_id))
    with LabelStudio(label_studio.url, label_studio.token) as first:
        real = first.act

        def overtaken(*args: Any, **fields: Any) -> dict[str, Any]:
            first.act = real  # type: ignore[method-assign]
            write_annotations(project_id, schema, labels, client)
            return real(*args, **fields)

        first.act = overtaken  # type: ignore[method-assign]
        with pytest.raises(ConflictError, match="another import of labels"):
            write_annotations(project_id, schema, labels, first)
    assert labels_in(client, project_id) == once(labels)
    assert write_annotations(project_id, schema, labels, client).answered == list(labels)
    assert client.model_versions(project_id) == {}


def test_a_task_that_is_deleted_meanwhile_does_not_keep_the_others_from_their_labels(
    client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    labels = alternating(ids_of(client, project_id))
    gone = min(labels)
    client.delete_tasks(project_id, [gone])
    done = write_annotations(project_id, client.schema(project_id), labels, client)
    assert (done.gone, len(done.written)) == ([gone], SOME - 1)
    assert client.model_versions(project_id) == {}


def test_skipped_tasks_get_the_label_and_answered_ones_keep_theirs(
    client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    acts.skip(client, ids[0])
    client.create_annotation(ids[1], annotation_result(schema, ["dog"]))
    done = write_annotations(project_id, schema, dict.fromkeys(ids, ("cat",)), client)
    assert (done.answered, len(done.written)) == ([ids[1]], SOME - 1)
    found = given(client, project_id)
    assert sorted((a.was_cancelled, a.labels) for a in found[ids[0]]) == [(False, ("cat",)), (True, ())]
    assert [a.labels for a in found[ids[1]]] == [("dog",)]


def test_tasks_whose_annotations_label_studio_did_not_count_before_it_was_killed_are_counted(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject
) -> None:
    project_id = new_project(tasks=3)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    client.import_predictions(
        project_id, [{"task": i, "result": annotation_result(schema, ["cat"]), "model_version": MARK} for i in ids]
    )
    client.act(project_id, "predictions_to_annotations", ids, model_version=[MARK])
    with sqlite3.connect(label_studio.data_dir / "label_studio.sqlite3", timeout=30) as database:
        database.execute("UPDATE task SET total_annotations = 0, is_labeled = 0 WHERE project_id = ?", (project_id,))
    seen = max(task.updated_at for task in client.tasks(project_id) if task.updated_at)
    settle(project_id, client)
    assert [(t["total_annotations"], t["is_labeled"]) for t in map(client.task, ids)] == [(1, True)] * 3
    assert len(list(client.annotated(project_id, updated_since=seen + timedelta(microseconds=1)))) == 3


def test_one_event_tells_of_a_chunk_and_names_every_task_where_it_has_a_payload(
    client: LabelStudio, new_project: NewProject, backend: FakeBackend, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    hook = {"url": f"{backend.url}/webhook", "send_payload": True, "send_for_all_actions": True}
    client.create_webhook(project_id, **hook)
    ids = ids_of(client, project_id)
    write_annotations(project_id, client.schema(project_id), alternating(ids), client)
    events = [event for event in backend.events if event["action"] == "ANNOTATIONS_CREATED"]
    assert [len(event["annotation"]) for event in events] == [8, 6]
    assert [a["task"] for event in events for a in event["annotation"]] == ids


def test_what_is_labelled_at_once_leaves_the_queue(client: LabelStudio, new_project: NewProject, small: None) -> None:
    project_id = new_project(tasks=SOME)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    items = [queue.QueueItem(i, 1e-8 * (n + 1), prediction_result(schema, ["cat"], 0.5)) for n, i in enumerate(ids)]
    queue.push(client, project_id, schema, "v1-r1", items)
    write_annotations(project_id, schema, alternating(ids[:10]), client)
    queue.verify(client, project_id, "v1-r1", ids)
    served = next_task(client, project_id)
    assert served is not None
    assert served["id"] == ids[10]
    assert client.get_project(project_id)["model_version"] == "v1-r1"
    assert client.model_versions(project_id) == {"v1-r1": SOME}


def test_what_a_killed_run_left_goes_with_the_former_queues_where_it_is_not_run_again(
    client: LabelStudio, new_project: NewProject
) -> None:
    project_id = new_project(tasks=2)
    names = (f"{MARK}killed", "v1-r1", "v2-r2", "somebody's")
    client.import_predictions(
        project_id, [{"task": i, "result": [], "model_version": v} for v in names for i in ids_of(client, project_id)]
    )
    assert queue.superseded(client, project_id, "v2-r2") == {f"{MARK}killed", "v1-r1"}


def test_labels_written_at_once_reach_the_service_at_its_next_turn_and_none_of_their_tasks_is_asked(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    with inline(label_studio, client, tmp_path) as stack:
        first = stack.ranking(stack.turn())
        ids = {task.data["filename"]: task.id for task in client.tasks(stack.project_id)}
        others = [name for name, task_id in ids.items() if task_id not in first]
        names = [*(name for name, task_id in ids.items() if task_id in first[:10]), *others[:90]]
        given = {name: [stack.truth[name]] for name in names}
        assert import_labels(stack.project_id, stack.schema, given, client).written == len(names) == 100
        second = stack.turn()
        known = {label.task_id: label.labels for label in stack.services.ledger.labels(stack.project)}
        assert known == {ids[name]: (stack.truth[name],) for name in names}
        assert second.state == "verified"
        assert not set(stack.ranking(second)) & set(known)


@dataclass
class _Away:
    """Label Studio is away for one request."""

    real: Callable[..., Any]
    wanted: str
    times: int = 1

    def __call__(self, method: str, path: str, **kwargs: Any) -> Any:
        if self.times and self.wanted in path:
            self.times -= 1
            raise LabelStudioUnavailableError("away")
        return self.real(method, path, **kwargs)


@pytest.mark.parametrize("wanted", ["import/predictions", "predictions_to_annotations"])
def test_a_label_studio_away_for_a_moment_is_asked_again(
    label_studio: EmbeddedLabelStudio, new_project: NewProject, wanted: str, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    with LabelStudio(label_studio.url, label_studio.token) as client:
        client.lean_import(project_id)
        client.transport.send = _Away(client.transport.send, wanted)  # type: ignore[method-assign]
        labels = alternating(ids_of(client, project_id))
        done = write_annotations(project_id, client.schema(project_id), labels, client)
        assert sorted(done.written) == sorted(labels)
        assert labels_in(client, project_id) == once(labels)
        assert client.model_versions(project_id) == {}
