"""The grid over HTTP: whose labels these are, what stays blind, and what becomes of a token."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ml_backend.errors import ConflictError
from ml_backend.labelstudio.bulk_annotations import BY_HAND, settle
from ml_backend.store.schema import tasks as task_rows
from ml_backend.web import grid_work, persons
from ml_backend.web.grid_work import GridWork
from tests.web.fake_grid import ANNA, BEN, STRANGER, Grid, Visit, folder_texts, sentence

HELD_OUT = range(1, 21)
REST = set(range(61, 121))


# -- which images ------------------------------------------------------------------------------------------------------


def test_the_first_page_is_of_the_class_that_most_tasks_are_taken_for(grid: Grid) -> None:
    page = grid.page()
    counts = {known["name"]: known["tasks"] for known in page["classes"]}
    assert sum(counts.values()) == len(REST)
    assert counts[page["label"]] == max(counts.values()) == len(page["tasks"])
    assert page["person"] == "Anna"
    assert page["tasks"][0]["name"].endswith(f"(task {page['tasks'][0]['id']})")


def test_no_held_out_and_no_audited_task_is_ever_shown(grid: Grid) -> None:
    shown = {task for label in ("cat", "dog", "owl") for task in grid.shown(label)}
    assert shown == REST
    assert not shown & set(HELD_OUT)


def test_what_somebody_answered_since_the_last_turn_is_not_shown(grid: Grid) -> None:
    before = grid.shown("cat")
    grid.answered_by_somebody(before[0])
    assert set(grid.shown("cat")) == set(before[1:])


def test_what_is_on_one_persons_page_is_not_on_anothers(grid: Grid) -> None:
    assert grid.shown("cat")
    page = grid.page("cat", BEN)
    assert page["tasks"] == []
    assert {known["name"]: known["tasks"] for known in page["classes"]}["cat"] == 0
    assert grid.shown("dog", ANNA)
    assert grid.shown("cat", BEN)


def test_a_class_that_does_not_exist_is_told_with_those_that_do(grid: Grid) -> None:
    assert "choose one of cat, dog, owl" in sentence(grid.post("page", {"label": "newt"}), 422)
    assert "choose one of cat, dog, owl" in sentence(grid.post("labels", {"label": "newt", "tasks": [70]}), 422)
    assert grid.answers() == {}


def test_a_page_asks_for_no_more_than_it_shows(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_work, "PAGE", 4)
    first = grid.shown("cat")
    assert len(first) == 4
    grid.post("labels", {"label": "cat", "tasks": first})
    assert not set(first) & set(grid.shown("cat"))


def test_a_task_that_was_deleted_in_label_studio_is_not_shown(grid: Grid) -> None:
    before = grid.shown("cat")
    grid.studio.delete_tasks(1, before[:2])
    assert set(grid.shown("cat")) == set(before[2:])
    with grid.bench.services.database.write() as connection:
        connection.execute(task_rows.update().where(task_rows.c.task_id == before[2]).values(gone=True))
    assert set(grid.shown("cat")) == set(before[3:])


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_ticked_ones_are_labelled_under_the_persons_own_name_and_the_unticked_ones_are_not(grid: Grid) -> None:
    shown = grid.shown("cat")
    unticked, ticked = shown[:3], shown[3:]
    answer = grid.post("labels", {"label": "cat", "tasks": ticked, "unticked": unticked, "seconds": 30})
    assert answer.json() == {"label": "cat", "written": len(ticked), "answered": 0, "gone": 0, "blind": 0}
    assert grid.answers() == dict.fromkeys(ticked, (("cat",), 7))
    assert not grid.studio.model_versions(1)


def test_the_unticked_ones_are_not_shown_as_that_class_again_to_anybody_nor_counted(grid: Grid) -> None:
    shown = grid.shown("cat")
    grid.post("labels", {"label": "cat", "tasks": shown[3:], "unticked": shown[:3]})
    for who in (ANNA, BEN):
        page = grid.page("cat", who)
        assert page["tasks"] == []
        assert {known["name"]: known["tasks"] for known in page["classes"]}["cat"] == 0


def test_nothing_ticked_writes_nothing_and_is_remembered(grid: Grid) -> None:
    shown = grid.shown("cat")
    assert grid.post("labels", {"label": "cat", "tasks": [], "unticked": shown}).json()["written"] == 0
    assert (grid.answers(), grid.shown("cat")) == ({}, [])


def test_what_somebody_answered_meanwhile_keeps_that_answer_and_is_counted(grid: Grid) -> None:
    shown = grid.shown("cat")
    grid.answered_by_somebody(shown[0])
    answer = grid.post("labels", {"label": "cat", "tasks": shown}).json()
    assert (answer["written"], answer["answered"]) == (len(shown) - 1, 1)
    assert grid.answers()[shown[0]] == (("owl",), 99)


def test_the_same_page_sent_twice_is_written_once(grid: Grid) -> None:
    shown = grid.shown("cat")
    first, second = (grid.post("labels", {"label": "cat", "tasks": shown}).json() for _ in range(2))
    assert (first["written"], second["written"], second["answered"]) == (len(shown), 0, len(shown))
    assert len(grid.answers()) == len(shown)


def test_what_was_held_out_or_drawn_for_an_audit_meanwhile_stays_blind(grid: Grid) -> None:
    answer = grid.post("labels", {"label": "cat", "tasks": [*HELD_OUT, 70]}).json()
    assert (answer["written"], answer["blind"]) == (1, len(HELD_OUT))
    assert set(grid.answers()) == {70}


def test_a_task_of_another_project_is_not_labelled(grid: Grid) -> None:
    answer = grid.post("labels", {"label": "cat", "tasks": [70, 4711]}).json()
    assert (answer["written"], answer["gone"], set(grid.answers())) == (1, 1, {70})


def test_a_label_config_that_was_changed_meanwhile_is_told_and_nothing_is_written(grid: Grid) -> None:
    grid.studio.label_config = grid.studio.label_config.replace('"cat"', '"lion"')
    said = sentence(grid.post("labels", {"label": "cat", "tasks": [70, 71]}), 409)
    assert "nothing was written: reload this page" in said
    assert grid.answers() == {}


def test_the_turn_that_takes_the_labels_in_is_due_though_no_event_may_come(grid: Grid) -> None:
    project, jobs = grid.project, grid.bench.services.jobs
    assert jobs.status(project).due is None or jobs.claim("worker") is not None
    grid.post("labels", {"label": "cat", "tasks": grid.shown("cat")})
    due = jobs.status(project).due
    assert due is not None


@pytest.mark.parametrize("at", ["model_versions", "import_predictions", "act", "delete_predictions"])
def test_label_studio_away_in_the_middle_is_told_and_the_page_sent_again_ends_well(grid: Grid, at: str) -> None:
    shown = grid.shown("cat")
    grid.studio.goes_at = at
    assert "check that it is running" in sentence(grid.post("labels", {"label": "cat", "tasks": shown}), 503)
    due = grid.bench.services.jobs.status(grid.project).due
    assert due is not None, "some of them may be written"
    grid.studio.away, grid.studio.goes_at = False, ""
    answer = grid.post("labels", {"label": "cat", "tasks": shown}).json()
    assert answer["written"] + answer["answered"] == len(shown)
    assert grid.answers() == dict.fromkeys(shown, (("cat",), 7))
    assert not grid.studio.model_versions(1)


def test_what_an_import_or_somebody_else_has_under_way_is_left_alone(grid: Grid) -> None:
    """Its temporary predictions are about to become labels; what a page of one's own left that was killed is swept."""
    theirs = {"task": 100, "result": [], "model_version": "ml-backend-writing-0123"}
    killed, bens = ({"task": 101, "result": [], "model_version": f"{BY_HAND}{user}-4567"} for user in (7, 71))
    grid.studio.import_predictions(1, [theirs, killed, bens])
    grid.post("labels", {"label": "cat", "tasks": grid.shown("cat")})
    assert grid.studio.model_versions(1) == {"ml-backend-writing-0123": 1, f"{BY_HAND}71-4567": 1}
    settle(1, grid.studio)  # as an import ends
    assert grid.studio.model_versions(1) == {f"{BY_HAND}71-4567": 1}


def test_each_of_a_few_labels_says_how_long_it_took(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio's bulk action, which writes ten and more, takes no time."""
    times: list[float] = []
    real = type(grid.studio).create_annotation

    def create(self: object, task: int, result: list[dict[str, object]], *, lead_time: float) -> object:
        times.append(lead_time)
        return real(grid.studio, task, result, lead_time=lead_time)

    monkeypatch.setattr(type(grid.studio), "create_annotation", create)
    grid.post("labels", {"label": "cat", "tasks": grid.shown("cat")[:3], "seconds": 30})
    assert times == [10.0, 10.0, 10.0]


def test_no_guess_is_written_where_none_is_to_be_shown(grid: Grid) -> None:
    grid.bench.set(prelabels="never")
    again = GridWork(grid.bench.services, persons.Persons(lambda _, token: grid.studio.seen_by(token)))
    with pytest.raises(ConflictError, match="ML_BACKEND_PRELABELS=never"):
        again.write(grid.project, ANNA, "cat", [70], [], 1.0)
    assert grid.answers() == {}


# -- taking back -------------------------------------------------------------------------------------------------------


def test_the_last_page_is_taken_back_but_for_what_somebody_changed_since(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[int] = []
    monkeypatch.setattr(type(grid.studio), "delete_annotation", lambda _self, number: deleted.append(number))
    shown = grid.shown("cat")
    grid.post("labels", {"label": "cat", "tasks": shown})
    grid.changed(shown[0])
    numbers = {a.task_id: a.id for given in grid.studio.given.values() for a in given}
    assert grid.post("undo").json() == {"label": "cat", "deleted": len(shown) - 1, "kept": 1}
    assert sorted(deleted) == sorted(numbers[task] for task in shown[1:])
    assert "no page of yours" in sentence(grid.post("undo"), 409)


def test_nobody_takes_back_the_page_of_somebody_else(grid: Grid) -> None:
    grid.post("labels", {"label": "cat", "tasks": grid.shown("cat")})
    assert "no page of yours" in sentence(grid.post("undo", token=BEN), 409)


# -- whose token -------------------------------------------------------------------------------------------------------


def asked_for_everything(grid: Grid, token: str | None) -> list[Any]:
    """What each address says to whoever has this token."""
    return [
        grid.post("page", {}, token),
        grid.post("labels", {"label": "cat", "tasks": [70]}, token),
        grid.post("undo", {}, token),
        grid.thumbnail(70, token),
    ]


def test_without_a_token_there_is_neither_page_nor_label_nor_picture(grid: Grid) -> None:
    for token in (None, "x", "an\tid"):
        for answer in asked_for_everything(grid, token):
            assert "Your own Label Studio token is missing" in sentence(answer, 403)
    assert grid.studio.asked == []


def test_a_wrong_token_and_one_without_rights_are_told_apart_each_with_the_fix(grid: Grid) -> None:
    assert "refused the token" in sentence(grid.post("page", {}, "wrong-token"), 403)
    for answer in asked_for_everything(grid, STRANGER):
        assert "use the token of somebody who may see the project" in sentence(answer, 403)
    assert grid.answers() == {}


def test_a_label_studio_that_does_not_say_whose_token_it_is_has_the_person_try_again(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Visit, "whoami", lambda _: {"detail": "Under maintenance"})
    for answer in asked_for_everything(grid, ANNA):
        assert "does not say whose token this is: try again" in sentence(answer, 503)


def test_label_studio_away_is_told_as_that_and_not_as_a_wrong_token(grid: Grid) -> None:
    grid.studio.away = True
    assert "check that it is running" in sentence(grid.post("page"), 503)
    assert "check that it is running" in sentence(grid.thumbnail(70), 503)


def test_another_project_under_the_same_number_is_not_labelled(grid: Grid) -> None:
    grid.bench.services.ledger.configure(grid.project, created=1_700_000_000)
    assert "another project by now" in sentence(grid.post("page"), 409)


def test_a_token_is_neither_stored_nor_logged_nor_sent_back(grid: Grid, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = grid.shown("cat")
    said = [
        grid.post("labels", {"label": "cat", "tasks": shown}).text,
        grid.post("page", {}, STRANGER).text,
        grid.thumbnail(shown[0]).content.decode("latin-1"),
    ]
    everywhere = "".join([*said, caplog.text, folder_texts(grid.bench.settings.data_dir).decode("latin-1")])
    assert ANNA not in everywhere
    assert STRANGER not in everywhere


def test_who_may_see_the_project_is_asked_again_after_a_minute(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    asked = persons.Persons(lambda _, token: grid.studio.seen_by(token), clock=lambda: now[0])
    assert [asked.of(grid.project, ANNA).id for _ in range(3)] == [7, 7, 7]
    assert len(grid.studio.asked) == 1
    now[0] += persons.REMEMBERED_S
    assert asked.of(grid.project, ANNA).id == 7
    assert len(grid.studio.asked) == 2
    assert ANNA.encode() not in repr(vars(asked)).encode()


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_runs_no_script_of_another_site_and_stands_in_nobodys_frame(grid: Grid) -> None:
    page = grid.http.get(f"/projects/{grid.project.id}/grid")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "http://" not in page.text.replace(grid.project.key.host, "")
    assert "<script>" not in page.text
    for name in ("grid.js", "grid.css", "grid.svg"):
        assert grid.http.get(f"/static/{name}").status_code == 200
        assert f"../../static/{name}" in page.text


def test_a_hostile_title_is_text(grid: Grid) -> None:
    services, project = grid.bench.services, grid.project
    services.ledger.upsert_project(
        project.key, title='"><script>alert(1)</script>', label_config=project.label_config, schema=project.schema
    )
    page = grid.http.get(f"/projects/{project.id}/grid").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_project_that_is_not_there_is_told(grid: Grid) -> None:
    assert "There is no project 99 here" in sentence(grid.http.get("/projects/99/grid"), 404)


def test_nothing_of_the_data_folder_is_served_beside_the_static_files(grid: Grid) -> None:
    for path in ("/static/", "/static/../grid.html", "/static/%2e%2e/grid.html", "/static/..%2f..%2fapp.py"):
        assert grid.http.get(path).status_code == 404, path
