"""The grid while an audit is on: what it asks for, blind, and each image with a class of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ml_backend.acceptance.standing import Standing
from ml_backend.store.schema import tasks as task_rows
from ml_backend.web import grid_work
from tests.acceptance.audited import begin_as_ever, drawn, trained
from tests.bench import Bench
from tests.web.fake_grid import ANNA, BEN, STRANGER, Grid, Visit, grid_of, sentence

KINDS = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An audit of 400 tasks has begun, and its first part is the queue; held-out ones are in it."""
    made = trained(tmp_path_factory.mktemp("asked") / "data")
    begin_as_ever(made)
    made.turn()
    yield made
    made.services.database.close()


def answers(*pairs: tuple[int, str], passed: tuple[int, ...] = ()) -> dict[str, object]:
    return {"answers": [{"task": task, "label": label} for task, label in pairs], "passed": passed, "seconds": 30}


def mixed(tasks: list[int]) -> list[tuple[int, str]]:
    return [(task, KINDS[place % 3]) for place, task in enumerate(tasks)]


def taken_in(grid: Grid) -> None:
    """A turn, which reads what the grid wrote."""
    for task, (labels, _) in grid.answers().items():
        grid.bench.label(task, as_=labels[0])
    grid.bench.turn()


def answered_to_the_end(grid: Grid) -> None:
    while tasks := grid.shown():
        right = [(task, grid.bench.truth[task]) for task in tasks]
        assert grid.post("answers", answers(*right)).json()["written"] == len(tasks)
        if not grid.shown():
            taken_in(grid)


def test_the_page_is_what_the_audit_asks_for_in_the_order_drawn_and_nothing_of_the_model(grid: Grid) -> None:
    page = grid.page("dog")
    asked = drawn(grid.bench)
    assert [task["id"] for task in page["tasks"]] == asked[:60]
    assert (page["mode"], page["label"], page["asked"], page["next"]) == ("audit", None, len(asked), "")
    assert page["classes"] == [{"name": n, "key": k, "tasks": None} for n, k in zip(KINDS, "123", strict=True)]
    assert set(page) == {"mode", "label", "asked", "next", "person", "classes", "tasks"}
    assert {frozenset(task) for task in page["tasks"]} == {frozenset({"id", "name"})}


def test_no_model_is_asked_for_a_page_of_an_audit(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(grid.bench.services.predictor), "current", lambda *_: pytest.fail("a guess was made"))
    assert len(grid.shown()) == 60


def test_each_image_gets_its_own_class_under_the_persons_name_and_the_others_stay_in_the_queue(grid: Grid) -> None:
    shown = grid.shown()
    given = mixed(shown[:50])
    answer = grid.post("answers", answers(*given, passed=tuple(shown[50:])))
    assert answer.json() == {"label": None, "written": 50, "answered": 0, "gone": 0, "blind": 0}
    assert grid.answers() == {task: ((label,), 7) for task, label in given}
    assert not grid.studio.model_versions(1)
    assert grid.bench.services.jobs.status(grid.project).due is not None
    later = [task for task in drawn(grid.bench) if task not in shown]
    assert grid.shown() == (later + shown[50:])[:60], "what was passed by comes last"


def test_the_page_goes_on_where_it_was_after_a_turn_and_a_restart(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = grid.shown()
    grid.post("answers", answers(*mixed(shown[:40])))
    taken_in(grid)
    again = grid_of(grid.bench, monkeypatch)
    assert again.shown() == [task for task in drawn(grid.bench) if task not in shown[:40]][:60]


def test_an_answer_of_the_grid_is_told_as_given_for_the_audit(grid: Grid) -> None:
    held_out = [
        task for task in grid.shown() if task in grid.bench.services.ledger.held_out(grid.project, grid.shown())
    ]
    task = (held_out or grid.shown())[0]
    assert grid.post("answers", answers((task, "owl"))).json()["written"] == 1
    taken_in(grid)
    acceptance = grid.bench.services.acceptances.auditing(grid.project)
    assert acceptance is not None
    assert acceptance.progress is not None
    assert acceptance.progress["looked"] == 1
    assert task in grid.bench.services.ledger.drawn_blind(grid.project)


def test_what_the_audit_does_not_ask_for_is_refused_and_nothing_is_written(grid: Grid) -> None:
    shown, asked = grid.shown(), set(drawn(grid.bench))
    other = next(task for task in range(400, 60, -1) if task not in asked)
    said = sentence(grid.post("answers", answers((shown[0], "cat"), (other, "cat"))), 422)
    assert f"the audit does not ask for task {other}" in said
    assert "a task stands there twice" in sentence(
        grid.post("answers", answers((shown[0], "cat"), (shown[0], "dog"))), 422
    )
    assert "choose one of cat, dog, owl" in sentence(grid.post("answers", answers((shown[0], "newt"))), 422)
    assert grid.answers() == {}


def test_what_somebody_answered_meanwhile_keeps_that_answer_before_a_turn_and_after_it(grid: Grid) -> None:
    first, second, third, fourth = grid.shown()[:4]
    grid.bench.label(second, as_="dog")
    grid.bench.turn()
    for task in (first, second):
        grid.answered_by_somebody(task)
    with grid.bench.services.database.write() as connection:
        connection.execute(task_rows.update().where(task_rows.c.task_id == fourth).values(gone=True))
    told = grid.post("answers", answers(*((task, "cat") for task in (first, second, third, fourth)))).json()
    assert (told["written"], told["answered"], told["gone"]) == (1, 2, 1)
    assert {task: given[0] for task, given in grid.answers().items()} == {
        first: ("owl",), second: ("owl",), third: ("cat",),
    }  # fmt: skip


def test_the_same_page_sent_twice_is_written_once(grid: Grid) -> None:
    said = answers(*mixed(grid.shown()))
    first, second = (grid.post("answers", said).json() for _ in range(2))
    assert (first["written"], second["written"], second["answered"]) == (60, 0, 60)
    taken_in(grid)
    assert grid.post("answers", said).json()["answered"] == 60
    assert len(grid.answers()) == 60


def test_label_studio_away_in_the_middle_is_told_and_the_page_sent_again_ends_well(grid: Grid) -> None:
    given = mixed(grid.shown())
    grid.studio.goes_at = "act"
    assert "check that it is running" in sentence(grid.post("answers", answers(*given)), 503)
    grid.studio.away, grid.studio.goes_at = False, ""
    grid.post("answers", answers(*given))
    assert grid.answers() == {task: ((label,), 7) for task, label in given}


def test_two_people_get_different_images(grid: Grid) -> None:
    assert not set(grid.shown(token=ANNA)) & set(grid.shown(token=BEN))


def test_a_page_of_an_audit_is_taken_back_whatever_its_classes(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[int] = []
    monkeypatch.setattr(type(grid.studio), "delete_annotation", lambda _self, number: deleted.append(number))
    shown = grid.shown()
    grid.post("answers", answers(*mixed(shown)))
    assert grid.post("undo").json() == {"label": None, "deleted": 60, "kept": 0}
    assert len(deleted) == 60


def test_look_alikes_that_were_open_when_the_audit_began_are_not_written(grid: Grid) -> None:
    said = sentence(grid.post("labels", {"label": "cat", "tasks": [300], "unticked": []}), 409)
    assert "nobody is shown a guess meanwhile" in said
    assert "Nothing was written" in said
    assert grid.answers() == {}


@pytest.mark.parametrize(("tasks", "at"), [(range(300, 312), "import_predictions"), (range(300, 303), "whoami")])
def test_look_alikes_that_are_being_written_when_the_audit_begins_are_not_written(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, tasks: range, at: str
) -> None:
    """Many at once, and a few one by one: the page was let in, and the audit begins while it waits for Label Studio."""
    acceptances = grid.bench.services.acceptances
    asks = Visit.__getattribute__
    begun: list[str] = []
    monkeypatch.setattr(type(acceptances), "is_blind", lambda *_: bool(begun))

    def asked(visit: Visit, name: str) -> Any:
        if name == at:
            begun.append(name)
        return asks(visit, name)

    monkeypatch.setattr(Visit, "__getattribute__", asked)
    said = sentence(grid.post("labels", {"label": "cat", "tasks": list(tasks), "unticked": []}), 409)
    assert "nobody is shown a guess meanwhile" in said
    assert (grid.answers(), begun[:1]) == ({}, [at])
    assert not any(grid.studio.model_versions(1).values()), "no guess of the page is left in sight"


def test_when_nothing_is_left_to_ask_what_is_next_is_told(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = len(drawn(grid.bench))
    while shown := grid.shown():
        grid.post("answers", answers(*((task, grid.bench.truth[task]) for task in shown)))
    page = grid.page()
    assert len(grid.answers()) == asked
    assert (page["mode"], page["asked"]) == ("audit", 0)
    assert "the next turn, in a moment, says whether more is to be looked at" in page["next"]
    for task, (labels, _) in grid.answers().items():
        grid.bench.label(task, as_=labels[0])
    grid.bench._read()
    assert "Next: the next turn says whether more" in grid.page()["next"]
    taken_in(grid)
    answered_to_the_end(grid)
    page = grid.page()
    assert (page["mode"], page["asked"]) == ("audit", 0), "no guess is shown before the certificate"
    assert "complete: run `ml-backend accept certify`" in page["next"]


def test_an_audit_that_was_given_up_is_told_and_its_page_is_not_written(grid: Grid) -> None:
    shown = grid.shown()
    grid.bench.services.auditing.stop(grid.project)
    assert "The audit is over, and nothing was written" in sentence(
        grid.post("answers", answers((shown[0], "cat"))), 409
    )
    assert (grid.answers(), grid.page()["mode"]) == ({}, "look-alikes")


def test_a_label_config_without_a_class_of_the_model_is_told_with_the_fix(grid: Grid) -> None:
    services, project = grid.bench.services, grid.project
    config = project.label_config.replace("cat", "lion")
    schema = type(project.schema)(**{**vars(project.schema), "labels": ("lion", "dog", "owl")})
    services.ledger.upsert_project(project.key, title=project.title, label_config=config, schema=schema)
    assert "'cat' is not in the label config any more" in sentence(grid.post("page"), 409)


def test_where_several_people_label_each_image_the_audit_is_answered_in_label_studio(grid: Grid) -> None:
    grid.bench.services.ledger.configure(grid.project, overlap=2)
    for refused in (grid.post("page"), grid.post("answers", answers((drawn(grid.bench)[0], "cat")))):
        assert "answer what it asks for in Label Studio's queue" in sentence(refused, 409)
    assert grid.answers() == {}


def test_an_audit_needs_no_guess_to_be_shown(grid: Grid) -> None:
    grid.bench.set(prelabels="never")
    assert len(grid.shown()) == 60


def test_who_may_not_see_the_project_answers_nothing(grid: Grid) -> None:
    said = answers((drawn(grid.bench)[0], "cat"))
    assert "token is missing" in sentence(grid.post("answers", said, None), 403)
    assert "use the token of somebody who may see the project" in sentence(grid.post("answers", said, STRANGER), 403)
    assert grid.answers() == {}


def test_images_of_rare_classes_do_not_come_class_by_class(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes together would be told to be of one class."""
    acceptance = grid.bench.services.acceptances.auditing(grid.project)
    assert acceptance is not None
    frozen = grid.bench.services.acceptances.frozen(acceptance)
    by_class = sorted(acceptance.order[:40].tolist(), key=lambda place: (frozen.labels[place], place))
    monkeypatch.setattr(Standing, "to_ask", property(lambda _: by_class))
    assert grid.shown() == drawn(grid.bench, 40)


def test_a_key_of_each_class_is_that_of_label_studio_but_for_the_one_that_undoes(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_work, "hotkeys", lambda _: ["a", "u", "1"])
    assert [known["key"] for known in grid.page()["classes"]] == ["a", "", "1"]
