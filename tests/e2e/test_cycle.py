"""One turn of the loop after another on a real Label Studio, turned by the test: promotion, roll-back, failures."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import DiskFullError, NothingToAskError
from ml_backend.labelstudio import queue as labelstudio_queue
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.labelstudio.results import annotation_result
from ml_backend.learning.head import Head
from ml_backend.manual_queue import QueryOptions
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.worker.loop import Worker
from tests.e2e import acts
from tests.e2e.stack import Stack, digits, import_digits, inline
from tests.other_settings import use
from tests.readings import answers_to, held_out_tasks, read_back


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, prelabels="always") as stack:
        yield stack


def trained(stack: Stack, labels: int = 38) -> None:
    """Turn once, label the whole first queue, turn again."""
    stack.turn()
    for _ in range(labels):
        stack.label_next()
    assert stack.turn().version == 1


def served(stack: Stack) -> list[int]:
    version = stack.client.get_project(stack.project_id)["model_version"]
    return read_back(stack.client, stack.project_id, version)


def test_a_second_turn_with_nothing_new_changes_nothing(stack: Stack) -> None:
    trained(stack)
    before = (served(stack), stack.services.ledger.rounds(stack.project), stack.services.versions.list(stack.project))
    stack.turn()
    assert before == (
        served(stack),
        stack.services.ledger.rounds(stack.project),
        stack.services.versions.list(stack.project),
    )


def test_a_candidate_trained_on_shuffled_labels_is_kept_but_not_served(stack: Stack) -> None:
    trained(stack)
    stack.label_next()
    held_out = set(held_out_tasks(stack.services.ledger, stack.project))
    generator = np.random.default_rng(0)
    for task, answers in list(stack.client.annotated(stack.project_id, schema=stack.schema)):
        if task.id not in held_out:
            wrong = str(generator.choice([name for name in stack.schema.labels if name not in answers[0].labels]))
            stack.client.update_annotation(answers[0].id, result=annotation_result(stack.schema, [wrong]))
    before = served(stack)
    assert stack.turn().version == 1
    newest = stack.services.versions.list(stack.project)[0]
    assert (newest.number, newest.state) == (2, "rejected")
    assert "held-out tasks right" in newest.reason
    assert stack.services.versions.current(stack.project).name == "v1"  # type: ignore[union-attr]
    assert served(stack) == before


def test_roll_back_restores_the_former_queue(stack: Stack) -> None:
    trained(stack)
    former = served(stack)
    for _ in range(5):
        stack.label_next()
    assert stack.turn().version == 2
    assert served(stack) != former[5:]
    stack.services.versions.roll_back(stack.project)
    assert stack.turn().version == 1
    assert served(stack) == former[5:]


def test_a_full_disk_leaves_the_old_version_serving(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(stack)
    before = served(stack)
    stack.label_next()

    def no_room(_self: Head, _folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Head, "save", no_room)
    with pytest.raises(DiskFullError, match="Free some space"):
        stack.turn()
    assert [v.name for v in stack.services.versions.list(stack.project)] == ["v1"]
    assert served(stack) == before[1:]
    tasks = [{"id": before[1], "data": stack.client.task(before[1])["data"]}]
    assert stack.services.predictor.predict(stack.project, tasks)[0]["model_version"] == "v1-r2"


def test_skips_are_no_labels_updates_replace_and_deletes_unlearn(stack: Stack) -> None:
    stack.turn()
    ids = [stack.label_next() for _ in range(6)]
    skipped = next_task(stack.client, stack.project_id)
    assert skipped is not None
    acts.skip(stack.client, skipped["id"])
    stack.turn()
    by_task = {label.task_id: label for label in stack.services.ledger.labels(stack.project)}
    assert sorted(by_task) == sorted(ids)
    changed, deleted = by_task[ids[0]], by_task[ids[1]]
    other = next(name for name in stack.schema.labels if name not in changed.labels)
    stack.client.update_annotation(changed.annotation_id, result=annotation_result(stack.schema, [other]))
    acts.delete_annotation(stack.client, deleted.annotation_id)
    stack.turn()
    after = {label.task_id: label.labels for label in stack.services.ledger.labels(stack.project)}
    assert after[ids[0]] == (other,)
    assert ids[1] not in after
    assert skipped["id"] not in after


def test_held_out_tasks_are_served_without_a_prelabel_and_measure_a_model_that_learns_from_all(stack: Stack) -> None:
    trained(stack)
    ledger = stack.services.ledger
    held_out = set(held_out_tasks(ledger, stack.project))
    assert len(held_out) >= 20
    waiting = [query.task_id for query in ledger.queries(ledger.rounds(stack.project)[0])]
    name = ledger.rounds(stack.project)[0].served_name
    predictions = stack.client.predictions_of(stack.project_id, waiting)
    for task_id, given in predictions.items():
        (prediction,) = (p for p in given if p["model_version"] == name)
        assert (prediction["result"] == []) == (task_id in held_out)
    version = stack.services.versions.current(stack.project)
    assert version is not None
    assert version.meta.labels == 38
    assert version.meta.metrics.holdout is not None
    assert version.meta.metrics.holdout["n"] == 20


def test_no_held_out_task_has_a_guess_in_label_studio_after_a_queue_by_hand_a_roll_back_or_a_re_push(
    stack: Stack,
) -> None:
    trained(stack)
    ledger, services = stack.services.ledger, stack.services
    for _ in range(11):
        stack.label_next()
    assert stack.turn().version == 2
    # From here on half of all tasks are held out, among them some that the former queue shows a guess of.
    # The settings could not do that any more; another image in a task could, one by one.
    use(services, holdout_share=0.5)
    ledger.configure(stack.project, reserved_share=0.5)
    services.versions.pin(stack.project, 1)
    assert stack.turn().version == 1
    queue = ledger.last_round(stack.project)
    assert queue is not None
    was_shown = {asked.task_id for asked in ledger.queries(queue) if asked.prediction}
    assert was_shown > guessed(stack) == was_shown - set(held_out_tasks(ledger, stack.project))
    for _ in range(2):
        queue = stack.turn()
        before = guessed(stack)
    stack.client.update_project(stack.project_id, sampling="Sequential sampling")
    assert stack.turn() == replace(queue, pushed_at=ANY, verified_at=ANY)
    assert guessed(stack) == before != set()
    held_out = next(
        task for task in held_out_tasks(ledger, stack.project) if not answers_to(ledger, stack.project, task)
    )
    others = [task for task in served(stack) if task not in held_out_tasks(ledger, stack.project)][:3]
    manual = services.manual_queue
    batch = manual.batch(stack.project, {held_out: 9.0, **dict.fromkeys(others, 1.0)})
    manual.push(stack.project, batch)
    assert guessed(stack) == set(others)
    manual.push(stack.project, manual.query(stack.project, QueryOptions(size=20)))
    assert len(guessed(stack)) == 20


def guessed(stack: Stack) -> set[int]:
    """Tasks that Label Studio has a guess of under the version it serves; never one that is held out."""
    name = stack.client.get_project(stack.project_id)["model_version"]
    stored = stack.client.predictions_of(stack.project_id, stack.services.ledger.pool(stack.project).ids.tolist())
    shown = {task for task, given in stored.items() for p in given if p["model_version"] == name and p["result"]}
    assert not shown & set(held_out_tasks(stack.services.ledger, stack.project))
    return shown


def test_predictions_of_former_queues_go_when_the_grace_period_is_over_and_not_before(stack: Stack) -> None:
    for _ in range(4):
        stack.turn()
        for _ in range(20):
            stack.label_next()
    last = stack.turn()
    assert len(stack.client.model_versions(stack.project_id)) == 6, (
        "the first order, and five: each may be open somewhere"
    )
    stack.turn()
    assert len(stack.client.model_versions(stack.project_id)) == 6
    use(stack.services, prediction_grace_seconds=0)
    for _ in range(2):  # 200 predictions a turn
        stack.turn()
    counts = stack.client.model_versions(stack.project_id)
    assert counts == {last.served_name: len(stack.ranking(last)) + 20}, "the queue, and what is in reserve"
    while next_task(stack.client, stack.project_id) is not None:
        stack.label_next()
        if next_task(stack.client, stack.project_id) is None:
            with contextlib.suppress(NothingToAskError):
                stack.turn()
    with pytest.raises(NothingToAskError):
        stack.turn()
    last = stack.services.ledger.rounds(stack.project)[0]
    assert list(stack.client.model_versions(stack.project_id)) == [last.served_name], "swept with nothing left to ask"


def test_where_projects_have_members_there_is_no_reserve_to_be_mixed_in(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not stack.client.has_members(), "the Community edition"
    monkeypatch.setattr(LabelStudio, "has_members", lambda _: True)
    round_ = stack.turn()
    assert stack.client.model_versions(stack.project_id)[round_.served_name] == len(stack.ranking(round_))


def test_with_several_annotators_a_task_nobody_is_shown_a_guess(stack: Stack) -> None:
    stack.client.update_project(stack.project_id, maximum_annotations=2)
    trained(stack)
    name = stack.services.ledger.rounds(stack.project)[0].served_name
    shown = stack.client.predictions_of(stack.project_id, [task.id for task in stack.client.tasks(stack.project_id)])
    results = [p["result"] for given in shown.values() for p in given if p["model_version"] == name]
    assert results
    assert not any(results)


def test_a_choice_added_to_the_label_config_is_known_at_the_next_turn(stack: Stack) -> None:
    stack.turn()
    config = stack.client.get_project(stack.project_id)["label_config"]
    more = config.replace("</Choices>", '<Choice value="other"/></Choices>')
    stack.client.update_project(stack.project_id, label_config=more)
    stack.turn()
    assert stack.project.schema.labels == (*stack.schema.labels, "other")


def test_two_hosts_with_the_same_project_id_do_not_mix(
    start_label_studio: Callable[..., EmbeddedLabelStudio], tmp_path: Path
) -> None:
    servers = [start_label_studio(), start_label_studio()]
    clients = [LabelStudio(server.url, server.token) for server in servers]
    truths = [digits(server, 60) for server in servers]
    ids = [import_digits(*parts) for parts in zip(servers, clients, truths, strict=True)]
    assert ids[0] == ids[1]
    settings = Settings(
        label_studio_url=servers[0].url,
        label_studio_api_key=servers[0].token,
        label_studio_api_keys=((servers[1].url, servers[1].token),),
        data_dir=tmp_path,
    )
    services = Services.open(settings)
    for server, client in zip(servers, clients, strict=True):
        services.registry.register(server.url, ids[0], client.get_project(ids[0])["label_config"], created=None)
    worker = Worker(services)
    while worker.work():
        pass
    first, second = services.ledger.projects()
    stacks = [Stack(c, services, settings, ids[0], first.schema, t) for c, t in zip(clients, truths, strict=True)]
    for _ in range(8):
        stacks[0].label_next()
    services.jobs.mark_due(first, immediately=True, reason="test")
    services.jobs.mark_due(second, immediately=True, reason="test")
    while worker.work():
        pass
    assert [services.status.of(p)["problems"] for p in (first, second)] == [[], []]
    assert services.ledger.counts(first).labelled == 8
    assert services.ledger.counts(second).labelled == 0
    assert services.versions.current(second) is None
    assert clients[1].get_project(ids[0])["model_version"] == "v0-r1"
    services.database.close()


def test_a_queue_that_somebody_disturbed_is_pushed_again(stack: Stack) -> None:
    first = stack.turn()
    stack.client.update_project(stack.project_id, sampling="Sequential sampling")
    again = stack.turn()
    assert again.number == first.number
    assert stack.client.get_project(stack.project_id)["sampling"] == "Uncertainty sampling"


def test_label_studio_away_in_the_middle_of_a_turn_is_made_good_by_itself(
    start_label_studio: Callable[..., EmbeddedLabelStudio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_label_studio()
    with LabelStudio(server.url, server.token) as client, inline(server, client, tmp_path, tasks=60) as stack:
        really = labelstudio_queue.push

        def away(*args: object) -> object:
            server.stop()
            return really(*args)  # type: ignore[arg-type]

        monkeypatch.setattr("ml_backend.steps.push_queue.push", away)
        worker = Worker(stack.services)
        assert worker.work()
        job = stack.services.jobs.status(stack.project).due
        assert job is not None
        assert job.delays == 1
        assert stack.services.ledger.last_round(stack.project).state == "failed"  # type: ignore[union-attr]
        monkeypatch.setattr("ml_backend.steps.push_queue.push", really)
        server.start()
        stack.services.jobs.mark_due(stack.project, immediately=True, reason="test")
        assert worker.work()
        assert served(stack) == stack.ranking(stack.services.ledger.rounds(stack.project)[0])
