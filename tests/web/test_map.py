"""The map and the search over HTTP: to whom what is told, how the numbers come, and what is never said."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from typing import Any

import numpy as np
import pytest

from ml_backend import atlas
from ml_backend.errors import NotFoundError
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.map_points import Points
from ml_backend.store.projects import Project
from ml_backend.web import finding, map_view
from ml_backend.web.finding import KINDS
from ml_backend.web.grid_work import GridWork
from ml_backend.web.map_work import MapWork
from ml_backend.web.persons import TOKEN_HEADER
from tests.web.fake_grid import ANNA, BEN, STRANGER, Grid, sentence

COLOURS = {"label", "guess", "doubt", "kind", "annotator"}


def get(grid: Grid, what: str, token: str | None = ANNA) -> Any:
    headers = {TOKEN_HEADER: token} if token else {}
    return grid.http.get(f"/projects/{grid.project.id}/{what}", headers=headers)


def post(grid: Grid, what: str, body: Any, token: str | None = ANNA) -> Any:
    headers = {TOKEN_HEADER: token} if token else {}
    return grid.http.post(f"/projects/{grid.project.id}/{what}", json=body, headers=headers)


def state(grid: Grid) -> dict[str, Any]:
    """What the map says once it is made."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        answer = get(grid, "map/state")
        assert answer.status_code == 200, answer.text
        if answer.json()["key"]:
            return dict(answer.json())
        time.sleep(0.02)
    raise AssertionError("the map was not made")


def numbers(grid: Grid, told: dict[str, Any], colour: str) -> list[int]:
    """The value of each point, of all parts."""
    width = next(one["width"] for one in told["colours"] if one["name"] == colour)
    parts = [get(grid, f"map/colours/{told['key']}/{colour}/{part}").content for part in range(len(told["parts"]))]
    return [int(one) for one in np.frombuffer(b"".join(parts), "<u2" if width == 2 else "u1")]


def ids(grid: Grid, told: dict[str, Any]) -> list[int]:
    answer = post(grid, "search/find", {"key": told["key"], "places": list(range(told["points"]))})
    return list(answer.json()["ids"])


def find(grid: Grid, **asked: Any) -> dict[str, Any]:
    state(grid)
    answer = post(grid, "search/find", asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture
def parts_of_fifty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_view, "FIRST", 50)
    monkeypatch.setattr(map_view, "LATER", 30)


@pytest.mark.usefixtures("parts_of_fifty")
def test_the_parts_together_are_every_point_once_and_each_part_has_all_x_before_all_y(grid: Grid) -> None:
    told = state(grid)
    assert told["parts"] == [50, 30, 30, 10]
    parts = [np.frombuffer(get(grid, f"map/points/{told['key']}/{part}").content, "<u2") for part in range(4)]
    assert [len(part) for part in parts] == [100, 60, 60, 20]
    points = grid.bench.services.atlas.points(grid.project)
    assert (np.concatenate([part[: len(part) // 2] for part in parts]) == points.places[:, 0]).all()
    assert (np.concatenate([part[len(part) // 2 :] for part in parts]) == points.places[:, 1]).all()
    assert sorted(ids(grid, told)) == grid.bench.ids
    assert len(numbers(grid, told, "label")) == len(grid.bench.ids)
    sentence(get(grid, f"map/points/{told['key']}/4"), 404)


def test_nothing_of_it_is_told_to_who_may_not_see_the_project(grid: Grid) -> None:
    told = state(grid)
    for token in (STRANGER, None):
        for what in ("map/state", f"map/points/{told['key']}/0", f"map/colours/{told['key']}/label/0"):
            sentence(get(grid, what, token), 403)
        sentence(post(grid, "search/find", {"name": "1"}, token), 403)


def test_a_viewer_may_look_and_label_nothing(grid: Grid) -> None:
    answer = get(grid, "map/state", BEN)
    assert answer.headers["Cache-Control"] == "private, no-store"
    told = answer.json()
    assert told["may_act"] is False
    body = {"label": "cat", "tasks": [100]}
    for route in ("search/would-label", "search/label"):
        assert "not change it" in sentence(post(grid, route, body, BEN), 403)
    assert not grid.studio.given


def test_no_colour_and_no_thumbnail_says_what_a_held_out_image_is_taken_for(grid: Grid) -> None:
    told = state(grid)
    assert {one["name"] for one in told["colours"]} == COLOURS
    guess, doubt = numbers(grid, told, "guess"), numbers(grid, told, "doubt")
    for task, says, unsure in zip(ids(grid, told), guess, doubt, strict=True):
        assert (says == 255) == (unsure == 255) == (task <= 20)
    shown = find(grid, ids=[1, 2, 100])["tasks"]
    assert [(one["guess"] is None, one["confidence"] is None) for one in shown] == [(True, True)] * 2 + [(False, False)]
    assert [one["kind"] for one in shown] == [KINDS[3], KINDS[3], KINDS[1]]
    assert not {task for task in find(grid, least=0)["ids"] if task <= 20}


def test_what_was_held_out_since_the_map_was_made_has_no_guess_either(grid: Grid) -> None:
    told = state(grid)
    grid.bench.services.ledger.configure(grid.project, reserved_share=1.0)
    for colour in ("guess", "doubt"):
        sentence(get(grid, f"map/colours/{told['key']}/{colour}/0"), 409)
    assert [one["guess"] for one in post(grid, "search/find", {"ids": [100]}).json()["tasks"]] == [None]


def test_while_an_audit_is_on_nothing_is_said_of_any_image_though_the_map_was_made_before(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = state(grid)
    assert find(grid, guess="cat")["ids"]
    monkeypatch.setattr(Acceptances, "is_blind", lambda *_: True)
    now = state(grid)
    assert {one["name"] for one in now["colours"]} == COLOURS - {"guess", "doubt"}
    assert "audit" in now["hidden"]
    for colour in ("guess", "doubt"):
        assert "audit" in sentence(get(grid, f"map/colours/{told['key']}/{colour}/0"), 409)
    for asked in ({"guess": "cat"}, {"least": 50}, {"most": 50}):
        assert "audit" in sentence(post(grid, "search/find", asked), 409)
    assert {one["guess"] for one in post(grid, "search/find", {"name": "10"}).json()["tasks"]} == {None}
    assert "audit" in sentence(post(grid, "search/would-label", {"label": "cat", "tasks": [100]}), 409)
    assert "audit" in sentence(post(grid, "would", {"act": "ask-next", "given": {"tasks": [100]}}), 409)


def test_what_was_drawn_for_an_audit_stays_without_a_guess_after_it(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(grid.bench.services.ledger), "drawn_blind", lambda *_: {100, 10**12})
    told = state(grid)
    place = ids(grid, told).index(100)
    assert numbers(grid, told, "guess")[place] == 255
    assert find(grid, ids=[100])["tasks"][0]["guess"] is None
    assert 100 not in find(grid, least=0)["ids"]


def test_the_form_finds_what_it_says_and_all_conditions_hold_together(grid: Grid) -> None:
    labelled = find(grid, label="dog", kind=0)
    assert labelled["ids"] == [task for task in range(21, 61) if grid.bench.truth[task] == "dog"]
    assert labelled["total"] == len(labelled["ids"])
    assert find(grid, name="7", label="dog")["ids"] == [task for task in labelled["ids"] if "7" in str(task)]
    guesses = find(grid, guess="dog", least=1, most=100)["tasks"]
    assert {one["guess"] for one in guesses} == {"dog"}
    assert find(grid, name="nobody is called so")["ids"] == []
    assert find(grid, like=100)["ids"][0] == 100
    sentence(post(grid, "search/find", {"like": 10**6}), 404)
    assert "no label" in sentence(post(grid, "search/find", {"label": "<b>"}), 422)


def test_what_label_studio_cannot_be_given_now_and_is_later_stands_in_the_log(grid: Grid) -> None:
    """Nothing answers at its address; the round is there, and the next turn serves it."""
    services = grid.bench.services
    said = post(grid, "acts", {"act": "ask-next", "given": {"tasks": [100, 101]}})
    assert said.status_code == 200, said.text
    assert "cannot be reached" in said.json()["said"]
    assert "The next turn that reaches it makes the queue 2 images" in said.json()["said"]
    (done,) = services.acts.list(grid.project)
    assert (done.what, done.person) == ("ask-next", "Anna")
    due = services.jobs.status(grid.project).due
    assert due is not None
    assert due.immediate
    grid.bench.turn()
    last = services.ledger.last_round(grid.project)
    assert last is not None
    assert [query.task_id for query in services.ledger.queries(last)] == [100, 101]


def test_a_name_with_other_conditions_is_found_alike_however_many_fit_them(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    for few in (finding.FEW, 0):
        monkeypatch.setattr(finding, "FEW", few)
        found = find(grid, name="1", kind=1)
        assert found["ids"] == sorted(task for task in range(61, 121) if "1" in str(task))
        assert found["total"] == len(found["ids"])
        assert find(grid, name="1", kind=1, after=110)["ids"] == list(range(111, 121))
        monkeypatch.setattr(finding, "MOST", 3)
        cut = find(grid, name="1", kind=1)
        assert (len(cut["ids"]), cut["total"]) == (3, None), "nobody has counted the rest"
        monkeypatch.undo()


def test_a_name_is_found_each_time_where_no_map_can_be_made(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise NotFoundError("No image was read yet.")

    monkeypatch.setattr(type(grid.bench.services.atlas), "points", none)
    until = time.monotonic() + 60
    while "No image" not in (answer := get(grid, "map/state")).text:
        assert answer.status_code == 200
        assert time.monotonic() < until
        time.sleep(0.02)
    for _ in range(4):
        assert post(grid, "search/find", {"name": "100"}).json()["ids"] == [100]
        time.sleep(0.02)


def test_maps_are_made_one_after_another(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes hundreds of megabytes while it is made."""
    services, at_it, most = grid.bench.services, 0, 0
    beside = threading.Event()

    def points(*_: object) -> None:
        nonlocal at_it, most
        at_it += 1
        most = max(most, at_it)
        beside.wait(0.5)
        at_it -= 1
        raise NotFoundError("No image was read yet.")

    monkeypatch.setattr(type(services.atlas), "points", points)
    maps, config = MapWork(services), grid.project.label_config
    others = [services.registry.register(grid.project.key.host, each, config, created=None) for each in (76, 77)]
    for project in [grid.project, *others]:
        assert maps.look(project) is None
    for making in maps._making.values():
        making.thread.join(60)
        assert making.error
    assert most == 1


def test_labels_that_are_written_for_long_keep_nobody_from_looking(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    may, writing = threading.Event(), threading.Semaphore(0)

    def write(*_: object) -> dict[str, Any]:
        writing.release()
        assert may.wait(60)
        return {"written": 1, "label": "owl", "blind": 0, "answered": 0, "gone": 0}

    monkeypatch.setattr(GridWork, "write", write)
    body = {"label": "owl", "tasks": [100], "seconds": 1}
    with grid.http:
        writers = [threading.Thread(target=post, args=(grid, "search/label", body), daemon=True) for _ in range(4)]
        for each in writers:
            each.start()
            assert writing.acquire(timeout=60)
        reader = threading.Thread(target=post, args=(grid, "search/find", {"name": "100"}), daemon=True)
        reader.start()
        reader.join(30)
        held_up = reader.is_alive()
        may.set()
        for each in [*writers, reader]:
            each.join(60)
    assert not held_up


def test_words_are_looked_for_where_the_encoder_reads_them_and_else_it_is_said(grid: Grid) -> None:
    assert state(grid)["words"] is False
    assert "encode_text" in sentence(post(grid, "search/find", {"words": "a cat"}), 409)
    model = grid.bench.services.predictor.answering(grid.project)
    points = grid.bench.services.atlas.points(grid.project)
    vector = grid.bench.services.features.matrix(points.encoder_id)[points.rows[int(points.at(np.array([77]))[0])]]
    model.encoder._own.encode_text = lambda texts: [vector.astype(np.float32)] * len(texts)  # type: ignore[attr-defined]
    assert state(grid)["words"] is True
    assert find(grid, words="a cat")["ids"][0] == 77


def test_a_map_that_was_made_anew_is_asked_for_again(grid: Grid) -> None:
    told = state(grid)
    for what in (f"map/points/{'0' * 16}/0", f"map/colours/{'0' * 16}/label/0"):
        sentence(get(grid, what), 409)
    sentence(post(grid, "search/find", {"key": "0" * 16, "places": [1]}), 409)
    sentence(post(grid, "search/find", {"key": told["key"], "places": [told["points"]]}), 422)


def test_chosen_images_are_labelled_under_the_persons_own_name_and_held_out_ones_are_left_alone(grid: Grid) -> None:
    body = {"label": "owl", "tasks": [5, 100, 101], "seconds": 6}
    says = post(grid, "search/would-label", body).json()["says"]
    assert "2 images would get the label 'owl', under your own name" in says
    assert "1 image held out" in says
    assert "2 images labelled" in post(grid, "search/label", body).json()["said"]
    assert grid.answers() == dict.fromkeys((100, 101), (("owl",), 7))
    (done,) = grid.bench.services.acts.list(grid.project)
    assert (done.what, done.person) == ("label-chosen", "Anna")


def test_what_an_act_comes_to_is_said_before_and_too_many_or_odd_ones_are_refused(grid: Grid) -> None:
    def would(given: Any) -> Any:
        return post(grid, "would", {"act": "ask-next", "given": given})

    assert "2 images would be asked for next" in would({"tasks": [100, 101, 30]}).json()["says"]
    assert "1 of them is held out" in would({"tasks": [5, 101]}).json()["says"]
    assert "choose 5,000 at most" in sentence(would({"tasks": list(range(5_001))}), 422)
    for odd in (None, [], ["1"], [True], [-1], [2**63], {"1": 2}):
        sentence(would({"tasks": odd}), 422)
    assert "answer already" in sentence(would({"tasks": [30, 31]}), 409)
    sentence(would({"tasks": [10**9]}), 404)


def test_the_pages_let_nothing_in_from_elsewhere_and_tell_nothing_before_somebody_signed_in(grid: Grid) -> None:
    for page in ("map", "search"):
        answer = get(grid, page, None)
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert not {label for label in grid.project.schema.labels if f">{label}<" in answer.text}


def test_of_very_many_images_some_are_shown_until_the_map_of_all_is_made(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "LARGE", 100)
    monkeypatch.setattr(atlas, "SKETCHED", 120 * 52_364 / 16**8)  # half of them: hashes of the bench are below 104,729
    go_on, made = threading.Event(), atlas.Atlas.points

    def waits(self: atlas.Atlas, project: Project) -> Points:
        assert go_on.wait(60)
        return made(self, project)

    monkeypatch.setattr(atlas.Atlas, "points", waits)
    sketch = state(grid)
    assert 30 <= sketch["points"] <= 90
    assert sketch["coming"]
    assert set(ids(grid, sketch)) < set(range(1, 121))
    held_out = {task for task in ids(grid, sketch) if task <= 20}
    assert held_out, "held-out ones are drawn like the others"
    guesses = dict(zip(ids(grid, sketch), numbers(grid, sketch, "guess"), strict=True))
    assert {guesses[task] for task in held_out} == {255}, "and have no guess"
    go_on.set()
    until = time.monotonic() + 60
    while (whole := state(grid))["points"] != 120:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert whole["key"] != sketch["key"]


def test_images_are_set_aside_found_and_taken_back_and_each_undoes_the_other(grid: Grid) -> None:
    ledger, jobs = grid.bench.services.ledger, grid.bench.services.jobs
    jobs.cancel(grid.project)

    def act(what: str, name: str, given: Any) -> Any:
        return post(grid, what, {"act": name, "given": given})

    def undo() -> Any:
        page = get(grid, "page/log").text
        (name, given) = re.findall(r'data-act="(set-aside|take-back)"[^>]*data-given="([^"]*)"', page)[0]
        return act("acts", name, json.loads(html.unescape(given)))

    chosen = {"tasks": [5, 30, 100, 101]}
    says = act("would", "set-aside", chosen).json()["says"]
    for part in ("2 images would not be asked for", "1 image held out", "1 other would be left out: answered"):
        assert part in says
    assert "2 images set aside" in act("acts", "set-aside", chosen).json()["said"]
    due = jobs.status(grid.project).due
    assert due is not None
    assert due.immediate
    assert (find(grid, kind=7)["ids"], find(grid, kind=7, name="101")["ids"]) == ([100, 101], [101])
    assert [one["kind"] for one in find(grid, ids=[99, 100])["tasks"]] == [KINDS[1], KINDS[7]]
    assert "2 images taken back" in undo().json()["said"]
    assert find(grid, kind=7)["ids"] == ledger.aside(grid.project) == []
    assert "2 images set aside" in undo().json()["said"]
    assert ledger.aside(grid.project) == [100, 101]
    assert [done.what for done in grid.bench.services.acts.list(grid.project)] == [
        "set-aside",
        "take-back",
        "set-aside",
    ]


def test_what_cannot_be_set_aside_or_taken_back_is_refused_with_what_to_do(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, *tasks: int, what: str = "would") -> str:
        return sentence(post(grid, what, {"act": name, "given": {"tasks": list(tasks)}}), 409)

    assert "held out to measure" in refused("set-aside", 5, what="acts")
    assert "answer already" in refused("set-aside", 30)
    assert "None of these is set aside" in refused("take-back", 100)
    grid.bench.services.ledger.set_aside(grid.project, [100])
    assert "take back those that are set aside" in refused("ask-next", 100)
    sentence(post(grid, "acts", {"act": "take-back", "given": {"of": 10**9}}), 404)
    sentence(post(grid, "acts", {"act": "set-aside", "given": {"tasks": [101]}}, BEN), 403)
    monkeypatch.setattr(Acceptances, "is_blind", lambda *_: True)
    for name in ("set-aside", "take-back"):
        assert "audit" in refused(name, 100, 101, what="acts")
    assert grid.bench.services.ledger.aside(grid.project) == [100]
