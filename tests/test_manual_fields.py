"""What the model thinks, written into the tasks of a Label Studio in memory and taken away again."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ml_backend.errors import (
    ConflictError,
    InvalidInputError,
    LabelStudioUnavailableError,
    ProjectReplacedError,
)
from ml_backend.labelstudio.queue import EVERYTHING
from ml_backend.labelstudio.queue import TAB as QUEUE_TAB
from ml_backend.labelstudio.task_fields import TAB, FieldNames, TaskFields
from ml_backend.records import Task
from ml_backend.steps.sync_labels import LabelSync
from tests.bench import Bench
from tests.field_desk import Desk, judged

NAMES = ("model_status", "model_guess", "model_confidence")


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return judged(tmp_path_factory.mktemp("judged") / "data")


def test_every_judged_task_gets_three_fields_and_held_out_ones_none(desk: Desk) -> None:
    desk.write()
    wrong = desk.data(30)
    assert wrong["model_status"] == "wrong"
    assert wrong["model_guess"] == desk.bench.truth[30]
    assert 0 <= wrong["model_confidence"] <= 99
    assert wrong["note"] == "n30"
    assert all(name not in desk.data(task) for task in (1, 2, 3) for name in NAMES)
    assert {desk.data(task)["model_status"] for task in range(50, 81)} <= {"right", "wrong"}
    assert "no label" in {desk.data(task).get("model_status") for task in range(81, 121)}
    assert desk.studio.patched == [], "a PATCH writes the whole task, answers that come meanwhile included"


def test_a_second_run_writes_nothing(desk: Desk) -> None:
    first = desk.write()
    before, requests = desk.all_data(), desk.studio.bulk
    again = desk.write()
    assert first.total > 0
    assert (again.total, again.changed) == (0, 0)
    assert (desk.all_data(), desk.studio.bulk) == (before, requests)
    assert again.tasks == first.tasks


def test_only_what_differs_is_written(desk: Desk) -> None:
    desk.write()
    desk.studio.bulk = 0
    desk.data(50)["model_confidence"] = 1
    plan = desk.write()
    assert (plan.changed, plan.total, desk.studio.bulk) == (1, 1, 1)
    assert desk.data(50)["model_confidence"] > 1


def test_a_held_out_task_loses_the_fields_that_it_had(desk: Desk) -> None:
    desk.write()
    desk.data(2).update({name: desk.data(50)[name] for name in NAMES})
    desk.write()
    assert desk.data(2) == {"image": "/2.png", "note": "n2"}


def test_planning_writes_nothing_there_and_notes_nothing_here(desk: Desk) -> None:
    before = desk.all_data()
    assert desk.plan().total > 0
    assert (desk.all_data(), desk.studio.views, desk.noted) == (before, [], None)


def test_a_field_of_that_name_that_is_somebody_elses_is_refused_and_another_prefix_does(desk: Desk) -> None:
    desk.data(77)["model_guess"] = "theirs"
    with pytest.raises(InvalidInputError, match=r"Task 77 has a field 'model_guess'.* choose .* --prefix"):
        desk.plan()
    assert desk.noted is None
    desk.write("guess_")
    assert desk.data(77)["model_guess"] == "theirs"
    assert desk.data(77)["guess_status"] in {"right", "wrong"}
    desk.remove()
    assert desk.data(77) == {"image": "/77.png", "note": "n77", "model_guess": "theirs"}


def test_a_task_that_came_later_with_such_a_field_is_refused_too_and_kept(desk: Desk) -> None:
    desk.write()
    desk.studio.add(500, model_status="maybe")
    with pytest.raises(InvalidInputError, match="Task 500 has 'model_status' with a value"):
        desk.plan()
    desk.remove()
    assert desk.data(500)["model_status"] == "maybe"


@pytest.mark.parametrize("prefix", ["", "1_", "_x", "a-b", "a b", "a.b", "$a", "x" * 42])
def test_a_prefix_that_cannot_be_filtered_by_is_refused(desk: Desk, prefix: str) -> None:
    with pytest.raises(InvalidInputError, match="use a letter first"):
        desk.plan(prefix)


def test_fields_of_another_prefix_are_taken_away_first(desk: Desk) -> None:
    desk.write()
    with pytest.raises(ConflictError, match="ml-backend fields --remove"):
        desk.plan("guess_")
    assert desk.plan("model_").total == 0


def test_taken_away_everything_is_as_it_was(desk: Desk) -> None:
    before, views = desk.all_data(), copy.deepcopy(desk.studio.views)
    desk.studio.counted = {"image": 120, "note": 120}
    desk.write()
    desk.remove()
    assert desk.all_data() == before
    assert [list(data) for data in desk.all_data().values()] == [list(data) for data in before.values()]
    assert (desk.studio.views, desk.noted) == (views, None)


def test_from_another_project_that_has_the_number_by_now_nothing_is_taken(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ProjectReplacedError("It is another project than before.")

    desk.write()
    before = desk.all_data()
    monkeypatch.setattr(LabelSync, "refresh", refuse)
    with pytest.raises(ProjectReplacedError):
        desk.remove()
    assert desk.all_data() == before


def test_label_studio_forgets_the_columns_however_often_they_were_written(desk: Desk) -> None:
    desk.studio.counted = {"image": 120, "note": 120}
    desk.write()
    for name in NAMES:
        desk.studio.counted[name] += 300
    before = {i: data["note"] for i, data in desk.all_data().items()}
    desk.remove()
    assert not set(NAMES) & set(desk.studio.counted)
    assert {"image", "note"} <= set(desk.studio.counted)
    assert {i: data["note"] for i, data in desk.all_data().items()} == before
    assert not any(name in data for data in desk.all_data().values() for name in NAMES)


def test_an_answer_that_comes_while_a_field_is_taken_away_still_counts(desk: Desk) -> None:
    desk.write()
    open_ones = [i for i in range(81, 121) if "model_guess" in desk.data(i)][:5]
    desk.studio.submits = set(open_ones)
    desk.remove()
    assert [desk.studio.rows[i]["total_annotations"] for i in open_ones] == [1] * len(open_ones)
    assert all(desk.studio.rows[i]["is_labeled"] for i in open_ones)


def test_the_counts_of_an_answer_are_put_right_at_once(desk: Desk) -> None:
    desk.studio.submits = {90}
    desk.data(90)["model_guess"] = "cat"
    TaskFields(desk.studio, 1, FieldNames.of("model_")).take_away([90])
    assert desk.studio.rows[90]["is_labeled"]


def test_the_counts_of_an_answer_are_put_right_where_it_was_stopped_before_it_could(desk: Desk) -> None:
    desk.write()
    task = next(i for i in range(81, 121) if "model_guess" in desk.data(i))
    desk.studio.submits = {task}

    def stop() -> None:
        if task in desk.studio.patched:
            raise LabelStudioUnavailableError("It was stopped.")

    desk.studio.on_write = stop
    with pytest.raises(LabelStudioUnavailableError):
        desk.remove()
    assert not desk.studio.rows[task]["is_labeled"], "the next write is what would have put it right"
    desk.studio.on_write, desk.studio.submits = lambda: None, set()
    desk.remove()
    assert (desk.studio.rows[task]["is_labeled"], desk.studio.rows[task]["total_annotations"]) == (True, 1)


def test_how_another_edition_counts_is_left_to_it(desk: Desk) -> None:
    desk.studio.enterprise = True
    desk.studio.rows[90]["total_annotations"] = 7
    desk.write()
    desk.remove()
    assert desk.studio.rows[90]["total_annotations"] == 7


@pytest.mark.parametrize("removing", [False, True], ids=["writing", "removing"])
def test_stopped_at_any_line_and_run_again_it_ends_the_same(desk: Desk, removing: bool) -> None:
    start = desk.all_data()
    desk.write()
    written, views = desk.all_data(), desk.studio.views
    desk.remove()
    for lines in (0, 1, 2, 3, 7, 40, 100, 102):
        if removing:
            desk.write()
        desk.studio.dies = lines
        try:
            (desk.remove if removing else desk.write)()
        except LabelStudioUnavailableError:
            desk.studio.dies = -1
            (desk.remove if removing else desk.write)()
        desk.studio.dies = -1
        assert desk.all_data() == (start if removing else written)
        if removing:
            assert (desk.noted, desk.studio.views) == (None, [])
        else:
            assert [tab["data"] for tab in desk.studio.views] == [tab["data"] for tab in views]
            desk.remove()


def test_what_is_written_while_it_is_taken_away_is_taken_away_too(desk: Desk) -> None:
    desk.write()
    project = desk.bench.project
    desk.writer.remove(project, desk.writer.written(project))
    desk.write()
    assert not desk.writer.forget(project), "another process has written meanwhile"
    assert desk.noted is not None
    desk.remove()
    assert desk.noted is None


def test_the_tab_of_a_writing_that_ended_while_the_fields_were_taken_away_goes_too(desk: Desk) -> None:
    desk.write()
    plan = desk.plan()  # another process sees that all fields are there: it has nothing to write
    project = desk.bench.project
    desk.writer.remove(project, desk.writer.written(project))
    desk.writer.write(project, plan)
    assert desk.studio.views, "but its tab"
    assert desk.writer.forget(project)
    assert desk.studio.views == []


def test_the_tab_shows_what_is_doubted_the_surest_first_and_keeps_what_a_person_changed(desk: Desk) -> None:
    desk.studio.views = [{"id": 9, "data": {"title": QUEUE_TAB}}]
    desk.write()
    (_, tab) = desk.studio.views
    assert tab["data"]["title"] == TAB
    assert tab["data"]["ordering"] == ["-tasks:data.model_confidence"]
    assert tab["data"]["filters"]["items"][0]["value"] == "wrong"
    tab["data"]["ordering"] = ["tasks:id"]
    desk.write()
    assert len(desk.studio.views) == 2
    assert desk.studio.views[1]["data"]["ordering"] == ["tasks:id"]
    desk.remove()
    assert [view["id"] for view in desk.studio.views] == [9]


def test_beside_an_open_image_our_lists_do_not_show_the_guess_unless_a_person_wants_that(desk: Desk) -> None:
    hidden = {"explore": ["tasks:inner_id"], "labeling": ["tasks:inner_id"]}
    titles = (QUEUE_TAB, EVERYTHING, "mine")
    desk.studio.views = [
        {"id": i, "data": {"title": title, "hiddenColumns": copy.deepcopy(hidden)}} for i, title in enumerate(titles)
    ]
    before = copy.deepcopy(desk.studio.views)
    desk.write()
    queue, everything, mine = (tab["data"]["hiddenColumns"] for tab in desk.studio.views[:3])
    ours = [f"tasks:data.{name}" for name in NAMES]
    assert queue == {"explore": ["tasks:inner_id", *ours], "labeling": ["tasks:inner_id", *ours]}
    assert everything == {"explore": ["tasks:inner_id"], "labeling": ["tasks:inner_id", *ours]}
    assert mine == hidden
    queue["explore"].remove(ours[1])
    desk.write()
    assert ours[1] not in desk.studio.views[0]["data"]["hiddenColumns"]["explore"]
    desk.remove()
    assert desk.studio.views == before


def test_where_several_people_answer_a_task_those_to_come_see_no_guess(desk: Desk) -> None:
    desk.bench.services.ledger.configure(desk.bench.project, overlap=2)
    desk.studio.rows[50]["is_labeled"] = False  # one of two has answered
    desk.write()
    assert "model_guess" not in desk.data(50)
    assert "model_guess" in desk.data(51)
    assert not any("model_guess" in desk.data(i) for i in range(81, 121))


def test_tasks_deleted_meanwhile_are_passed_over(desk: Desk) -> None:
    plan = desk.plan()
    for task in (50, 51, 90):
        del desk.studio.rows[task]
    desk.writer.write(desk.bench.project, plan)
    assert desk.data(52)["model_status"]
    desk.remove()


def test_a_task_that_nobody_has_read_yet_gets_nothing(desk: Desk) -> None:
    desk.studio.add(900)
    desk.write()
    assert desk.data(900) == {"image": "/900.png", "note": "n900"}


def test_our_fields_are_no_data_of_people_in_what_is_remembered(desk: Desk) -> None:
    desk.write()
    ledger, project = desk.bench.services.ledger, desk.bench.project
    ledger.reconcile(project, [(Task(i, f"/{i}.png", {"image": f"/{i}.png"}), None) for i in desk.bench.ids], full=True)
    now = [(Task(i, f"/{i}.png", {"image": f"/{i}.png", **dict.fromkeys(NAMES, "x")}), None) for i in desk.bench.ids]
    hashes = {row.task.id: row.content_hash for row in ledger.rows(project)}
    report = ledger.reconcile(project, now, full=True)
    assert report.changed == 0
    assert not any(name in row.task.data for row in ledger.rows(project) for name in NAMES)
    assert {row.task.id: row.content_hash for row in ledger.rows(project)} == hashes


@pytest.mark.parametrize(
    ("data", "ours", "foreign"),
    [
        ({"model_status": "right", "model_guess": "", "model_confidence": 3.0}, 3, 0),
        ({"model_status": "Right", "model_guess": 3, "model_confidence": "3"}, 0, 3),
        ({"model_status": [], "model_guess": None, "model_confidence": True}, 0, 3),
        ({"model_confidence": float("nan")}, 0, 1),
        ({"model_confidence": 101}, 0, 1),
    ],
)
def test_what_is_ours_is_told_by_its_form(data: dict[str, Any], ours: int, foreign: int) -> None:
    names = FieldNames.of("model_")
    assert (len(names.ours(data)), len(names.foreign(data))) == (ours, foreign)


def test_a_large_group_is_written_some_at_a_time(desk: Desk) -> None:
    desk.studio.add(*range(1000, 3200))
    told: list[int] = []
    fields = TaskFields(desk.studio, 1, FieldNames.of("model_"))
    fields.put("model_guess", "cat", range(1000, 3200), told.append)
    assert told == [500, 500, 500, 500, 200]
    assert sum(1 for page in fields.tasks() for raw in page if "model_guess" in raw["data"]) == 2200
