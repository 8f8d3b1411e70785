"""Labels accepted of a model, on a real Label Studio: written, read as what they are, and taken back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ml_backend.acceptance.writing import undo, write
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio import bulk_annotations, withdrawing
from ml_backend.labelstudio.bulk_annotations import MARK, Written, settle, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.relabelling import Relabelling
from ml_backend.labelstudio.results import accepted_result, annotation_result
from ml_backend.labelstudio.withdrawing import Withdrawn, withdraw
from ml_backend.records import Annotation, LabelSchema
from tests.e2e import acts
from tests.e2e.dying import Moment, after, before, killed_at, left_by_kills, survived
from tests.e2e.stack import Stack, inline
from tests.e2e.test_bulk_annotations import SOME, WRITING, NewProject

CERTIFICATE = "0f3a9c5512de"
TAKING_BACK = 3 + 1
"""Requests of taking `small` writing back: three for many labels, and one for the one beside a person's."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several names each."""
    monkeypatch.setattr(bulk_annotations, "CHUNK", 8)
    monkeypatch.setattr(bulk_annotations, "PIECE", 3)
    monkeypatch.setattr(bulk_annotations, "FEW", 2)
    monkeypatch.setattr(withdrawing, "CHUNK", 5)


def given(client: LabelStudio, project_id: int) -> dict[int, list[Annotation]]:
    return {task.id: annotations for task, annotations in client.annotated(project_id)}


def ids_of(client: LabelStudio, project_id: int) -> list[int]:
    return [task.id for task in client.tasks(project_id)]


def alternating(ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    return {task_id: (("cat", "dog")[place % 2],) for place, task_id in enumerate(ids)}


def written(client: LabelStudio, project_id: int) -> tuple[LabelSchema, dict[int, tuple[str, ...]]]:
    schema, labels = client.schema(project_id), alternating(ids_of(client, project_id))
    write_annotations(project_id, schema, labels, client, certificate=CERTIFICATE)
    return schema, labels


def test_200_accepted_labels_are_known_as_such_a_person_makes_one_theirs_and_undo_takes_back_the_others(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, three_users: list[LabelStudio], tmp_path: Path
) -> None:
    with inline(label_studio, client, tmp_path, tasks=240) as stack:
        first = stack.ranking(stack.turn())
        ids = {task.data["filename"]: task.id for task in client.tasks(stack.project_id)}
        truth = {ids[name]: label for name, label in stack.truth.items()}
        people = first[:10]
        for task_id in people:
            three_users[0].create_annotation(task_id, annotation_result(stack.schema, [truth[task_id]]))
        rest = {task_id: label for task_id, label in truth.items() if task_id not in people}
        accepted = dict(list(rest.items())[:200])
        before = given(client, stack.project_id)
        done = write(stack.project, CERTIFICATE, accepted, client, stack.services.jobs)
        assert (sorted(done.written), done.answered, done.gone) == (sorted(accepted), [], [])
        due = stack.services.jobs.status(stack.project).due
        assert due is not None
        second = stack.turn()
        assert told(stack) == {**dict.fromkeys(people, "human"), **dict.fromkeys(accepted, "accepted")}
        assert not set(stack.ranking(second)) & set(accepted)
        counts = stack.services.ledger.counts(stack.project)
        assert (counts.labelled, counts.accepted, counts.conflicts) == (10, 200, 0)

        changed, confirmed, theirs = sorted(accepted)[:3]
        for task_id, label in ((changed, other(stack, accepted[changed])), (confirmed, accepted[confirmed])):
            (annotation,) = given(client, stack.project_id)[task_id]
            three_users[1].update_annotation(annotation.id, result=kept_region(client, annotation.id, label))
        three_users[2].create_annotation(theirs, annotation_result(stack.schema, [accepted[theirs]]))
        stack.turn()
        assert {i for i, origin in told(stack).items() if origin == "human"} == {*people, changed, confirmed, theirs}
        names = {label.task_id: label for label in stack.services.ledger.labels(stack.project)}
        assert names[changed].labels == (other(stack, accepted[changed]),)
        assert names[changed].annotators == names[confirmed].annotators == (three_users[1].whoami()["id"],)
        assert not any(label.conflict for label in names.values())

        taken = undo(stack.project, CERTIFICATE, client, stack.services.jobs)
        assert taken.kept == [changed, confirmed]
        assert sorted(taken.withdrawn) == sorted(set(accepted) - {changed, confirmed})
        left = given(client, stack.project_id)
        assert {i: left[i] for i in people} == {i: before[i] for i in people}
        assert set(left) == {*people, changed, confirmed, theirs}
        assert [a.annotator for a in left[theirs]] == [three_users[2].whoami()["id"]]
        stack.turn()
        assert set(told(stack).values()) == {"human"}
        counts = stack.services.ledger.counts(stack.project)
        assert (counts.labelled, counts.accepted, counts.waiting) == (13, 0, 240 - 13)
        assert client.unlabelled(stack.project_id) == 240 - 13, "and Label Studio serves them"


def told(stack: Stack) -> dict[int, str]:
    """Whose label each task has."""
    return {row.task.id: row.origin for row in stack.services.ledger.rows(stack.project) if row.origin}


def other(stack: Stack, label: str) -> str:
    labels = stack.schema.labels
    return labels[(labels.index(label) + 1) % len(labels)]


def kept_region(client: LabelStudio, annotation_id: int, label: str) -> list[dict[str, Any]]:
    """What the labelling page sends after a choice was changed: the region under its former id."""
    annotation = client.annotation(annotation_id)
    assert annotation is not None
    (region,) = annotation["result"]
    return [region | {"value": {"choices": [label]}, "origin": "manual"}]


def write_all(project_id: int, client: LabelStudio) -> Written:
    labels = alternating(ids_of(client, project_id))
    return write_annotations(project_id, client.schema(project_id), labels, client, certificate=CERTIFICATE)


@killed_at(WRITING, before(0), after(0), after(1), before(6), after(8))
def test_killed_before_or_after_any_request_of_writing_a_second_run_ends_as_if_it_had_not_been(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, moments: list[Moment], small: None
) -> None:
    for moment, project_id in left_by_kills(label_studio, lambda: new_project(tasks=SOME), write_all, moments, WRITING):
        labels = alternating(ids_of(client, project_id))
        done = write_all(project_id, client)
        assert (sorted(done.written), done.answered) == (sorted(labels), []), moment
        found = {i: [(a.labels, a.accepted) for a in answers] for i, answers in given(client, project_id).items()}
        assert found == {i: [(chosen, CERTIFICATE)] for i, chosen in labels.items()}, moment
        assert client.model_versions(project_id) == {}, moment


@killed_at(TAKING_BACK, before(0), after(0), before(3), after(3))
def test_killed_before_or_after_any_request_of_taking_back_a_second_run_ends_as_if_it_had_not_been(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, moments: list[Moment], small: None
) -> None:
    def make() -> int:
        project_id = new_project(tasks=SOME)
        schema, labels = written(client, project_id)
        client.create_annotation(min(labels), annotation_result(schema, ["cat"]))  # deleted one by one, beside it
        return project_id

    def work(project_id: int, client: LabelStudio) -> Withdrawn:
        return withdraw(project_id, client.schema(project_id), CERTIFICATE, client)

    for moment, project_id in left_by_kills(label_studio, make, work, moments, TAKING_BACK):
        work(project_id, client)
        first, second, *_ = sorted(ids_of(client, project_id))
        left = given(client, project_id)
        assert {i: [a.accepted for a in answers] for i, answers in left.items()} == {first: [None]}, moment
        assert client.task(second)["total_annotations"] == 0
        assert client.unlabelled(project_id) == SOME - 1, "Label Studio asks for them again"


def test_a_writing_that_was_killed_in_the_middle_is_taken_back_as_a_whole(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    assert not survived(label_studio, write_all, project_id, after(2))
    assert any(name.startswith(MARK) for name in client.model_versions(project_id))
    taken = withdraw(project_id, client.schema(project_id), CERTIFICATE, client)
    assert len(taken.withdrawn) == 8
    assert (given(client, project_id), client.model_versions(project_id)) == ({}, {})


def test_what_people_do_between_the_look_and_the_deleting_stays(
    label_studio: EmbeddedLabelStudio, new_project: NewProject, three_users: list[LabelStudio], small: None
) -> None:
    """An answer of their own, a change of ours, a skip, and a change that is under way: a draft."""
    project_id, person = new_project(tasks=SOME), three_users[0]
    with LabelStudio(label_studio.url, label_studio.token) as client:
        schema, labels = written(client, project_id)
        added, changed, confirmed, skipped, begun = sorted(labels)[:5]
        real, ours = client.act, {i: answers[0].id for i, answers in given(client, project_id).items()}

        def meanwhile(*args: Any, **fields: Any) -> dict[str, Any]:
            if client.act is not real:
                client.act = real  # type: ignore[method-assign]
                person.create_annotation(added, annotation_result(schema, ["dog"]))
                person.update_annotation(ours[changed], result=kept_region(client, ours[changed], "dog"), lead_time=2.0)
                person.update_annotation(ours[confirmed], lead_time=2.0)
                acts.skip(person, skipped)
                path = f"/api/tasks/{begun}/annotations/{ours[begun]}/drafts?project={project_id}"
                body = {"result": kept_region(client, ours[begun], "dog"), "lead_time": 1.0}
                person.transport.call("POST", path, json=body)
            return real(*args, **fields)

        client.act = meanwhile  # type: ignore[method-assign]
        done = withdraw(project_id, schema, CERTIFICATE, client)
        left = given(client, project_id)
        assert sorted(done.kept) == [changed, confirmed, begun]
        assert {i: [(a.labels, a.accepted) for a in answers] for i, answers in left.items()} == {
            added: [(("dog",), None)],
            changed: [(("dog",), None)],
            confirmed: [(labels[confirmed], None)],
            skipped: [((), None)],
            begun: [(labels[begun], CERTIFICATE)],
        }
        assert len(client.drafts(begun)) == 1
        again = withdraw(project_id, schema, CERTIFICATE, client)
        assert (again.withdrawn, sorted(again.kept)) == ([], [changed, confirmed, begun])


def test_other_certificates_other_tasks_and_peoples_labels_are_not_taken_back(
    client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    write_annotations(project_id, schema, alternating(ids[:6]), client, certificate=CERTIFICATE)
    write_annotations(project_id, schema, alternating(ids[6:10]), client, certificate="another")
    write_annotations(project_id, schema, alternating(ids[10:]), client)
    assert withdraw(project_id, schema, CERTIFICATE, client, task_ids=ids[:2] + ids[10:]).withdrawn == ids[:2]
    assert set(given(client, project_id)) == set(ids[2:])
    assert withdraw(project_id, schema, CERTIFICATE, client).withdrawn == ids[2:6]
    assert set(given(client, project_id)) == set(ids[6:])


def test_a_task_that_was_skipped_or_answered_before_the_action_is_left_to_people(
    label_studio: EmbeddedLabelStudio, new_project: NewProject, three_users: list[LabelStudio], small: None
) -> None:
    project_id, person = new_project(tasks=SOME), three_users[0]
    with LabelStudio(label_studio.url, label_studio.token) as client:
        schema, labels = client.schema(project_id), alternating(ids_of(client, project_id))
        early, late, answered = sorted(labels)[:3]
        acts.skip(person, early)
        real = client.import_predictions

        def meanwhile(number: int, predictions: Sequence[dict[str, Any]]) -> int:
            stored = real(number, predictions)
            if late not in given(client, number):
                acts.skip(person, late)
                person.create_annotation(answered, annotation_result(schema, ["dog"]))
            return stored

        client.import_predictions = meanwhile  # type: ignore[method-assign, assignment]
        done = write_annotations(project_id, schema, labels, client, certificate=CERTIFICATE)
        found = given(client, project_id)
    assert sorted(done.answered) == [early, late, answered]
    assert [[a.was_cancelled for a in found[i]] for i in (early, late, answered)] == [[True], [True], [False]]
    assert [len(found[i]) for i in labels] == [1] * SOME


@pytest.mark.parametrize("wanted", ["import/predictions", "predictions_to_annotations"])
def test_a_label_studio_that_goes_away_in_mid_write_is_told_with_the_fix_and_the_next_run_leaves_nothing_behind(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, wanted: str, small: None
) -> None:
    with (
        inline(label_studio, client, tmp_path, tasks=20) as stack,
        LabelStudio(label_studio.url, label_studio.token) as own,
    ):
        jobs, labels = stack.services.jobs, {task.id: "3" for task in client.tasks(stack.project_id)}
        own.lean_import(stack.project_id)
        real, seen = own.transport.send, []

        def send(method: str, path: str, **kwargs: Any) -> Any:
            seen.append(wanted in path)
            if sum(seen) > 1:
                raise LabelStudioUnavailableError("Label Studio is away.")
            return real(method, path, **kwargs)

        own.transport.send = send  # type: ignore[method-assign]
        with pytest.raises(
            LabelStudioUnavailableError, match=r"8 of 20 tasks are labelled: run the same command again"
        ):
            write(stack.project, CERTIFICATE, labels, own, jobs)
        done = write(stack.project, CERTIFICATE, labels, client, jobs)
        assert len(done.written) == 20
        assert {a.accepted for answers in given(client, stack.project_id).values() for a in answers} == {CERTIFICATE}
        assert not any(name.startswith(MARK) for name in client.model_versions(stack.project_id))


@pytest.mark.parametrize("by_the_writer", [True, False])
def test_an_accepted_label_that_gets_another_name_stays_accepted(
    client: LabelStudio, new_project: NewProject, three_users: list[LabelStudio], by_the_writer: bool, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    schema, labels = written(client, project_id)
    theirs = min(labels)
    (annotation,) = given(client, project_id)[theirs]
    three_users[1].update_annotation(annotation.id, lead_time=3.0)
    renaming = Relabelling(client if by_the_writer else three_users[0], project_id, schema, "cat", "lynx")
    renaming.write(renaming.left(), lambda _: None)
    found = {i: [(a.labels, a.accepted) for a in answers] for i, answers in given(client, project_id).items()}
    renamed = {i: ("lynx",) if chosen == ("cat",) else chosen for i, chosen in labels.items()}
    assert found == {i: [(chosen, None if i == theirs else CERTIFICATE)] for i, chosen in renamed.items()}
    (_, other_id), *_ = [
        (i, a[0].id) for i, a in given(client, project_id).items() if i != theirs and a[0].labels == ("lynx",)
    ]
    three_users[2].update_annotation(other_id, lead_time=3.0)
    assert sum(a.accepted is None for answers in given(client, project_id).values() for a in answers) == 2


def test_two_who_take_back_at_once_take_back_each_label_once_and_nothing_else(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, small: None
) -> None:
    project_id = new_project(tasks=SOME)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    write_annotations(project_id, schema, alternating(ids[:-2]), client, certificate=CERTIFICATE)
    write_annotations(project_id, schema, alternating(ids[-2:]), client)
    with LabelStudio(label_studio.url, label_studio.token) as second, ThreadPoolExecutor(2) as both:
        calls: list[Callable[[], Any]] = [lambda: withdraw(project_id, schema, CERTIFICATE, client)]
        calls.append(lambda: withdraw(project_id, schema, CERTIFICATE, second))
        for done in [both.submit(call) for call in calls]:
            done.result()
    assert set(given(client, project_id)) == set(ids[-2:])


def test_what_label_studio_did_not_count_before_it_was_killed_stays_accepted_whoever_has_it_counted(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, new_project: NewProject, three_users: list[LabelStudio]
) -> None:
    project_id = new_project(tasks=3)
    schema, ids = client.schema(project_id), ids_of(client, project_id)
    result = accepted_result(schema, ["cat"], CERTIFICATE)
    client.import_predictions(project_id, [{"task": i, "result": result, "model_version": MARK} for i in ids])
    client.act(project_id, "predictions_to_annotations", ids, model_version=[MARK])
    with sqlite3.connect(label_studio.data_dir / "label_studio.sqlite3", timeout=30) as database:
        database.execute("UPDATE task SET total_annotations = 0, is_labeled = 0 WHERE project_id = ?", (project_id,))
    settle(project_id, three_users[0])
    assert [client.task(i)["total_annotations"] for i in ids] == [1, 1, 1]
    assert {a.accepted for answers in given(client, project_id).values() for a in answers} == {CERTIFICATE}
    assert sorted(withdraw(project_id, schema, CERTIFICATE, client).withdrawn) == ids


def test_a_label_studio_that_refuses_to_delete_many_has_them_deleted_one_by_one(
    label_studio: EmbeddedLabelStudio, new_project: NewProject, small: None, caplog: pytest.LogCaptureFixture
) -> None:
    project_id = new_project(tasks=SOME)
    with LabelStudio(label_studio.url, label_studio.token) as client:
        schema, labels = written(client, project_id)

        def refuse(*_: Any, **__: Any) -> dict[str, Any]:
            raise LabelStudioError("no such action")

        client.act = refuse  # type: ignore[method-assign]
        assert sorted(withdraw(project_id, schema, CERTIFICATE, client).withdrawn) == sorted(labels)
        assert given(client, project_id) == {}
    assert "one by one" in caplog.text
