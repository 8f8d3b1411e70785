"""The order pushed is the order served: to one annotator exactly, to many without anybody getting another's task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import InvalidInputError, LabelStudioError
from ml_backend.labelstudio.checks import TITLE
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.queue import (
    LIVE,
    TAB,
    UNCERTAINTY,
    QueueItem,
    push,
    refill,
    superseded,
    sweep,
    verify,
)
from ml_backend.labelstudio.results import annotation_result, prediction_result
from ml_backend.predictor import serving_score
from ml_backend.records import LabelSchema, Task
from tests.e2e import acts
from tests.e2e.helpers import FakeBackend, add_members
from tests.readings import read_back

NewProject = Callable[..., int]


def batch_of(client: LabelStudio, project_id: int, size: int, *, seed: int = 0, held_out: int = 3) -> list[QueueItem]:
    """A batch in random order, every `held_out`-th task without a prelabel."""
    schema = client.schema(project_id)
    ids = [task.id for task, annotations in unlabelled(client, project_id) if not annotations]
    chosen = np.random.default_rng(seed).choice(ids, size, replace=False)
    return [
        QueueItem(
            int(task_id),
            serving_score(rank, size),
            [] if rank % held_out == 0 else prediction_result(schema, schema.labels[:1], 0.7),
        )
        for rank, task_id in enumerate(chosen)
    ]


def unlabelled(client: LabelStudio, project_id: int) -> list[tuple[Task, bool]]:
    annotated = {task.id for task, _ in client.annotated(project_id)}
    return [(task, task.id in annotated) for task in client.tasks(project_id)]


def served_to(user: LabelStudio, project_id: int) -> int:
    task = next_task(user, project_id)
    assert task is not None
    return int(task["id"])


def ids_of(items: list[QueueItem]) -> list[int]:
    return [item.task_id for item in items]


@pytest.fixture
def cats(new_project: NewProject, client: LabelStudio) -> tuple[int, LabelSchema]:
    project_id = new_project(tasks=60)
    return project_id, client.schema(project_id)


def test_one_annotator_is_served_the_batch_in_order(client: LabelStudio, cats: tuple[int, LabelSchema]) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 20)
    push(client, project_id, schema, "v1-r1", items)
    assert read_back(client, project_id, "v1-r1") == ids_of(items)
    served = []
    for _ in items:
        served.append(served_to(client, project_id))
        client.create_annotation(served[-1], annotation_result(schema, ["cat"]))
    assert served == ids_of(items)
    verify(client, project_id, "v1-r1", ids_of(items))


def test_the_next_batch_is_served_the_moment_it_is_pushed_and_an_open_image_of_the_old_one_can_be_submitted(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    first = batch_of(client, project_id, 20, seed=1)
    push(client, project_id, schema, "v1-r1", first)
    client.create_annotation(served_to(client, project_id), annotation_result(schema, ["cat"]))
    opened = next_task(client, project_id)
    assert opened is not None
    # The rest of the old batch comes again, in another order, among new tasks.
    second = batch_of(client, project_id, 30, seed=2)
    push(client, project_id, schema, "v2-r2", second)
    submit(client, opened, annotation_result(schema, ["dog"]))
    assert served_to(client, project_id) == next(i.task_id for i in second if i.task_id != opened["id"])
    verify(client, project_id, "v2-r2", ids_of(second))


def test_former_predictions_are_swept_when_told_and_what_is_in_service_never(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    for number in (1, 2, 3):
        push(client, project_id, schema, f"v{number}-r{number}", batch_of(client, project_id, 10, seed=number))
    client.import_predictions(
        project_id,
        [{"task": t.id, "result": [], "score": 0.5, "model_version": "theirs"} for t in client.tasks(project_id)],
    )
    assert superseded(client, project_id, "v3-r3") == {"v1-r1", "v2-r2"}, "predictions of others are not ours to delete"
    assert sweep(client, project_id, {"v1-r1", "v3-r3", "v9-r9"}) == {"v1-r1", "v9-r9"}
    assert client.model_versions(project_id) == {"v2-r2": 10, "v3-r3": 10, "theirs": 60}
    assert client.get_project(project_id)["model_version"] == "v3-r3"


def test_a_former_version_with_very_many_predictions_goes_piece_by_piece_and_leaves_the_others(
    client: LabelStudio, cats: tuple[int, LabelSchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.labelstudio.queue.SWEEP", 25)
    project_id, schema = cats
    tasks = [task.id for task in client.tasks(project_id)]
    for name in ("v1-r1", "v1-r10"):  # the one is part of the other
        client.import_predictions(
            project_id, [{"task": task, "result": [], "score": 0.5, "model_version": name} for task in tasks]
        )
    push(client, project_id, schema, "v2-r11", batch_of(client, project_id, 5))
    left = []
    for _ in range(3):
        sweep(client, project_id, {"v1-r1"})
        left.append(client.model_versions(project_id).get("v1-r1", 0))
    assert left == [35, 10, 0]
    assert client.model_versions(project_id) == {"v1-r10": 60, "v2-r11": 5}


def test_what_is_used_up_of_the_reserve_is_replaced_while_the_queue_stays(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 3)
    others = [task.id for task in client.tasks(project_id) if task.id not in ids_of(items)]
    push(client, project_id, schema, "v1-r1", items, others[:2])
    refill(client, project_id, "v1-r1", others[1:4])
    refill(client, project_id, "v1-r1", others[1:4])
    assert client.model_versions(project_id) == {"v1-r1": 3 + 4}
    verify(client, project_id, "v1-r1", ids_of(items))


def test_old_predictions_on_the_same_tasks_do_not_disturb_the_order(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 10)
    backwards = [replace(item, score=LIVE - item.score) for item in items]
    client.import_predictions(
        project_id,
        [{"task": i.task_id, "result": [], "score": i.score, "model_version": "somebody"} for i in backwards],
    )
    push(client, project_id, schema, "v1-r1", items)
    served = []
    for _ in items:
        served.append(served_to(client, project_id))
        client.create_annotation(served[-1], annotation_result(schema, ["dog"]))
    assert served == ids_of(items)
    assert client.model_versions(project_id)["somebody"] == 10, "not ours to delete"


@pytest.mark.parametrize("member", [False, True], ids=["organization users", "project members"])
def test_three_annotators_share_a_batch_and_no_task_goes_to_two(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    three_users: list[LabelStudio],
    cats: tuple[int, LabelSchema],
    member: bool,
) -> None:
    project_id, schema = cats
    if member:
        add_members(label_studio, project_id, three_users)
    items = batch_of(client, project_id, 30)
    push(client, project_id, schema, "v1-r1", items)
    served: list[int] = []
    lock = threading.Lock()

    def annotate(user: LabelStudio) -> None:
        for _ in range(10):
            # On SQLite, Label Studio takes no row lock: two requests within the same instant can be served one task.
            with lock:
                task_id = served_to(user, project_id)
                served.append(task_id)
            user.create_annotation(task_id, annotation_result(schema, ["cat"]))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(annotate, three_users))
    assert sorted(served) == sorted(ids_of(items))
    assert read_back(client, project_id, "v1-r1") == []


def test_somebody_who_asks_while_the_rest_of_the_batch_is_open_elsewhere_gets_a_spare_task(
    client: LabelStudio, three_users: list[LabelStudio], cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 3)
    spare = [task.id for task in client.tasks(project_id) if task.id not in ids_of(items)][:2]
    push(client, project_id, schema, "v1-r1", items, spare)
    verify(client, project_id, "v1-r1", ids_of(items))
    client.create_annotation(served_to(client, project_id), annotation_result(schema, ["cat"]))
    assert [served_to(user, project_id) for user in three_users[:2]] == ids_of(items)[1:]
    assert served_to(client, project_id) in spare, "without it Label Studio says that there is no task left"
    (tab,) = client.tabs(project_id)
    shown = client.transport.call("GET", "/api/tasks/", params={"view": tab["id"], "include": "id"})["tasks"]
    assert [task["id"] for task in shown][:2] == ids_of(items)[1:]
    assert {task["id"] for task in shown[2:]} == set(spare), (
        "who labels from the tab is not told either that none is left"
    )


def test_three_users_taking_turns_are_served_the_batch_in_order(
    client: LabelStudio, three_users: list[LabelStudio], cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 9)
    push(client, project_id, schema, "v1-r1", items)
    served = [served_to(user, project_id) for user in three_users]
    assert served == ids_of(items)[:3], "the lock of the one hides the task from the other"
    assert [served_to(user, project_id) for user in three_users] == served, "a locked task comes first"


def test_push_again_changes_nothing_and_after_a_crash_it_ends_in_the_same_state(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 20)
    halves = [{"task": i.task_id, "result": i.result, "score": i.score, "model_version": "v1-r1"} for i in items[:9]]
    client.import_predictions(project_id, halves * 2)  # a crash in the middle, and a doubled import
    for _ in range(2):
        push(client, project_id, schema, "v1-r1", items)
        assert client.model_versions(project_id) == {"v1-r1": 29}, "doubles stay: somebody may have one open"
        verify(client, project_id, "v1-r1", ids_of(items))
    wrong = [replace(item, score=LIVE - item.score) for item in items]
    push(client, project_id, schema, "v1-r1", wrong)
    assert client.model_versions(project_id) == {"v1-r1": 29}
    verify(client, project_id, "v1-r1", ids_of(wrong)[::-1])
    assert [tab["data"]["title"] for tab in client.tabs(project_id)] == [TAB]


def test_tasks_deleted_since_the_ranking_are_left_out(client: LabelStudio, cats: tuple[int, LabelSchema]) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 10)
    client.delete_tasks(project_id, ids_of(items)[:4])
    assert push(client, project_id, schema, "v1-r1", items) == ids_of(items)[4:]
    assert read_back(client, project_id, "v1-r1") == ids_of(items)[4:]


def test_the_tab_shows_the_queue_in_the_order_it_is_served(client: LabelStudio, cats: tuple[int, LabelSchema]) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 20)
    push(client, project_id, schema, "v1-r1", items[:10])
    push(client, project_id, schema, "v1-r2", items)
    (tab,) = client.tabs(project_id)
    shown = client.transport.call("GET", "/api/tasks/", params={"view": tab["id"], "include": "id"})["tasks"]
    assert [task["id"] for task in shown] == ids_of(items)


def test_a_live_prediction_comes_after_the_batch_and_retrieving_keeps_one_a_task(
    client: LabelStudio, cats: tuple[int, LabelSchema], backend: FakeBackend
) -> None:
    project_id, schema = cats
    connect(client, project_id, backend.url)
    items = batch_of(client, project_id, 20)
    push(client, project_id, schema, "v1-r1", items)
    backend.version = "v1-r1"
    backend.predict = lambda task: {"result": [], "score": 0.1 + task["id"] % 7 / 10}
    client.transport.call(
        "POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}", json={"selectedItems": {"all": True, "excluded": []}}
    )  # fmt: skip
    assert sorted(backend.predicted) == sorted({t.id for t in client.tasks(project_id)} - set(ids_of(items)))
    assert client.model_versions(project_id) == {"v1-r1": 60}
    assert read_back(client, project_id, "v1-r1") == ids_of(items)
    verify(client, project_id, "v1-r1", ids_of(items))
    (tab,) = client.tabs(project_id)
    shown = client.transport.call("GET", "/api/tasks/", params={"view": tab["id"], "include": "id"})["tasks"]
    assert [task["id"] for task in shown] == ids_of(items)


def test_verify_says_what_is_served_instead(client: LabelStudio, cats: tuple[int, LabelSchema]) -> None:
    project_id, schema = cats
    items = batch_of(client, project_id, 10)
    ids = ids_of(items)
    push(client, project_id, schema, "v1-r1", items)
    with pytest.raises(LabelStudioError, match=f"At place 1 .* task {ids[0]} instead of task {ids[1]}"):
        verify(client, project_id, "v1-r1", [ids[1], ids[0], *ids[2:]])
    with pytest.raises(LabelStudioError, match=f"serves task {ids[-1]}, which is not in the batch"):
        verify(client, project_id, "v1-r1", ids[:-1])
    acts.delete_predictions_of(client, project_id, ids[3:4])
    with pytest.raises(LabelStudioError, match=f"does not serve these tasks of the batch: {ids[3]}"):
        verify(client, project_id, "v1-r1", ids)
    client.update_project(project_id, sampling="Sequential sampling")
    with pytest.raises(LabelStudioError, match="Settings, General, Task Sampling"):
        verify(client, project_id, "v1-r1", ids)
    with pytest.raises(LabelStudioError, match="'v1-r1' instead of 'v1-r2'"):
        verify(client, project_id, "v1-r2", ids)


def test_a_prediction_outside_the_label_config_is_refused_before_label_studio_drops_it(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, schema = cats
    items = [replace(batch_of(client, project_id, 1)[0], result=prediction_result(schema, ["horse"], 0.9))]
    with pytest.raises(InvalidInputError, match=r"not in the project.s label config: horse"):
        push(client, project_id, schema, "v1-r1", items)
    assert client.model_versions(project_id) == {}


def test_a_multiple_choice_prediction_is_stored_as_sent(client: LabelStudio, new_project: NewProject) -> None:
    project_id = new_project(tasks=3, labels=("red", "green", "blue"), multiple=True)
    schema = client.schema(project_id)
    (task, *_) = client.tasks(project_id)
    item = QueueItem(task.id, 0.5 * LIVE, prediction_result(schema, ["red", "blue"], 0.8))
    push(client, project_id, schema, "v1-r1", [item])
    (stored,) = client.predictions_of(project_id, [task.id])[task.id]
    assert stored["result"] == item.result
    assert stored["score"] == item.score


def test_label_studio_accepts_a_model_version_only_once_a_prediction_has_it(
    client: LabelStudio, cats: tuple[int, LabelSchema]
) -> None:
    project_id, _ = cats
    with pytest.raises(LabelStudioError, match="doesn't exist"):
        client.set_model_version(project_id, "v7-r7")
    (task, *_) = client.tasks(project_id)
    client.import_predictions(project_id, [{"task": task.id, "result": [], "score": 0.5, "model_version": "v7-r7"}])
    client.set_model_version(project_id, "v7-r7")
    assert client.delete_predictions(project_id, "v7-r7") == 1
    assert client.get_project(project_id)["model_version"] is None, "deleting the version in use clears it"
    assert client.delete_predictions(project_id, "v7-r7") == 0


def test_connecting_a_backend_does_not_leave_its_title_as_model_version(
    client: LabelStudio, cats: tuple[int, LabelSchema], backend: FakeBackend
) -> None:
    project_id, _ = cats
    client.create_backend(project_id, url=backend.url, title=TITLE)
    assert client.get_project(project_id)["model_version"] == TITLE, "the trap: random, and nobody says so"
    connect(client, project_id, backend.url)
    project = client.get_project(project_id)
    assert (project["model_version"], project["sampling"]) == ("", UNCERTAINTY)


@pytest.mark.parametrize("lean", [True, False], ids=["lean import", "import that recounts the project"])
def test_predictions_are_imported_whichever_import_label_studio_has(
    start_label_studio: Callable[..., EmbeddedLabelStudio],
    client: LabelStudio,
    lean: bool,
    request: pytest.FixtureRequest,
) -> None:
    if lean:
        ours = client
    else:
        server = request.getfixturevalue("plain_label_studio")
        ours = LabelStudio(server.url, server.token)
    project_id = int(ours.create_project("imports", label_config(["cat", "dog"]))["id"])
    ours.import_tasks(project_id, [{"image": f"/data/upload/{n}.png"} for n in range(900)])
    schema = ours.schema(project_id)
    items = batch_of(ours, project_id, 2)  # so few of 900 go one by one where the import recounts the project
    push(ours, project_id, schema, "v1-r1", items)
    more = batch_of(ours, project_id, 30, seed=5)
    push(ours, project_id, schema, "v1-r2", more)
    verify(ours, project_id, "v1-r2", ids_of(more))
    bad = [{"task": task, "result": [], "score": 0.1, "model_version": "x"} for task in (*ids_of(more), 999999)]
    with pytest.raises(LabelStudioError, match="999999"):
        ours.import_predictions(project_id, bad)
