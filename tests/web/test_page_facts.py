"""What the project page tells of a project: the same figures as the commands, names as text, and no guess where none is to be seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ml_backend.insight.curve import curve
from ml_backend.learning.held_out_answers import HeldOutAnswers
from ml_backend.store.acceptances import Acceptances
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.wording import measured
from tests.acceptance.audited import begin_as_ever, contradict, drawn
from tests.bench import Bench
from tests.slices import held_out
from tests.web.fake_grid import ANNA, BEN, Grid, grid_of

FACTS = ("curve", "classes", "confusion", "balance", "annotators", "conflicts")
MARKUP = "<img src=x onerror=alert(1)>"


def told(grid: Grid, name: str, token: str = ANNA, **query: str) -> str:
    """A section as it is once all is found out."""
    for _ in range(100):
        answer = grid.http.get(f"/projects/{grid.project.id}/page/{name}", params=query, headers={TOKEN_HEADER: token})
        assert answer.status_code == 200, answer.text
        if "delay:1s" not in answer.text:
            return str(answer.text)
    raise AssertionError(f"{name} is never found out")


@pytest.fixture
def measured_grid(grid: Grid) -> Grid:
    """v2 and v3, which are measured on 20 held-out labels; two of these were given wrong."""
    bench = grid.bench
    bench.label(*bench.ids[:18])
    bench.label(*bench.ids[18:20], as_="owl")
    bench.turn()
    bench.label(*bench.ids[60:70])
    bench.turn()
    return grid


def test_the_figures_are_those_of_the_commands(measured_grid: Grid) -> None:
    grid = measured_grid
    status = grid.bench.services.status.of(grid.project)["version"]
    served = measured(status["holdout"])
    curve = told(grid, "curve")
    assert f"<strong>{status['name']}</strong> is served: {served}" in curve
    for version in grid.bench.versions:
        row = re.search(rf'<th scope="row">{version.name}</th>.*?</tr>', curve, re.DOTALL)
        assert row
        if version.meta.metrics.holdout["n"]:  # type: ignore[index]
            assert measured(version.meta.metrics.holdout) in row[0]
    for each in status["holdout"]["classes"]:
        assert f'<th scope="row">{each["name"]}</th>' in told(grid, "classes")


def test_a_version_whose_files_were_deleted_stays_on_the_curve_as_good_as_it_was(measured_grid: Grid) -> None:
    """v3 was rolled back; v4 is good enough and not served, as v1 is pinned."""
    bench = measured_grid.bench
    services, project = bench.services, measured_grid.project
    services.versions.roll_back(project)
    services.versions.pin(project, 1)
    bench.label(*bench.ids[70:74])
    bench.turn()
    before = curve(project, services.database)
    assert [point.passed for point in before.points] == [True, True, False, True]
    services.versions.unpin(project)
    bench.label(*bench.ids[74:78])
    bench.turn()
    services.versions.prune(project, keep=1)
    after = curve(project, services.database)
    assert [point.state for point in after.points[:4]] == ["pruned"] * 4
    assert [point.passed for point in after.points[:4]] == [point.passed for point in before.points]
    picture = told(measured_grid, "curve").partition("<desc")[2].partition("</svg>")[0]
    assert picture.count("mark rejected") == 1


def test_a_project_without_a_label_or_a_model_is_told_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    grid = grid_of(Bench(tmp_path), monkeypatch)
    texts = {name: told(grid, name) for name in FACTS}
    assert "Label All Tasks" in texts["curve"]
    assert "no model yet" in texts["confusion"]
    assert "Nobody has answered yet" in texts["annotators"]
    grid.bench.services.database.close()


def test_names_of_labels_files_and_people_are_text(tmp_path: Path, monkeypatch: Any) -> None:
    bench = Bench(tmp_path, kinds=("cat", f"<script>{MARKUP}", "\"'&"), tasks=60)
    grid = grid_of(bench, monkeypatch)
    grid.studio.users = [{"id": 1, "first_name": MARKUP, "last_name": "\ud800", "email": "a@b.c"}]
    bench.label(*bench.ids[:40])
    bench.turn()
    bench.turn()
    opened = told(grid, "confusion", true=MARKUP, guess="<script>")
    texts = [
        *(told(grid, name) for name in FACTS),
        opened,
        told(grid, "curve", all="1"),
        told(grid, "conflicts", p="<"),
    ]
    for text in texts:
        assert "<script" not in text
        assert "<img src=x" not in text
        assert " style=" not in text, "the page's policy forbids it"
    assert "&lt;img src=x onerror=alert(1)&gt;" in told(grid, "annotators")
    bench.services.database.close()


def test_people_have_their_names_for_whom_label_studio_tells_them(measured_grid: Grid) -> None:
    measured_grid.studio.users = [{"id": 1, "first_name": "Ida", "last_name": "Brandt", "email": "ida@b.c"}]
    assert "Ida Brandt" in told(measured_grid, "annotators", ANNA)
    viewer = told(measured_grid, "annotators", BEN)
    assert "Ida Brandt" not in viewer
    assert "user 1" in viewer


def test_a_cell_opens_the_images_that_everybody_has_answered(measured_grid: Grid) -> None:
    grid = measured_grid
    version = grid.bench.services.versions.current(grid.project)
    assert version is not None
    answers = HeldOutAnswers.load(version.folder)
    assert answers is not None
    first = int((answers.truth != answers.said).any(axis=1).argmax())
    task, classes = int(answers.tasks[first]), version.meta.classes or ()
    asked = {"true": classes[answers.truth[first].argmax()], "guess": classes[answers.said[first].argmax()]}
    assert f'id="confusion-{task}"' in told(grid, "confusion", **asked)
    grid.bench.services.ledger.configure(grid.project, overlap=2)
    told_less = told(grid, "confusion", **asked)
    assert f'id="confusion-{task}"' not in told_less
    assert "not shown" in told_less


def test_while_an_audit_is_on_no_guess_is_told(measured_grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "guess for the rest" in told(measured_grid, "balance")
    monkeypatch.setattr(Acceptances, "is_blind", lambda *_: True)
    assert "guess for the rest" not in told(measured_grid, "balance")
    for query in ({}, {"true": "cat", "guess": "cat"}):
        assert "An audit is on" in told(measured_grid, "confusion", **query)
        assert "v3" not in told(measured_grid, "confusion", **query)


def test_no_guess_is_told_where_label_studio_shows_none(measured_grid: Grid) -> None:
    """Several people label each image on their own; or the queue's task is held out by now."""
    bench = measured_grid.bench
    round_ = bench.services.ledger.current_round(bench.project)
    assert round_
    asked = {each.task_id for each in bench.services.ledger.queries(round_) if each.prediction}
    assert asked == _guessed(measured_grid)
    moved = min(asked)
    held_out(bench.services.ledger, bench.project, *bench.ids[:20], moved)
    assert _guessed(measured_grid) == asked - {moved}
    bench.services.ledger.configure(bench.project, overlap=2)
    assert not _guessed(measured_grid)
    assert "between" not in told(measured_grid, "queue"), "a reason names classes"
    assert "guess for the rest" not in told(measured_grid, "balance")


def _guessed(grid: Grid) -> set[int]:
    tiles = told(grid, "queue").split('<li id="queue-')[1:]
    return {int(tile.partition('"')[0]) for tile in tiles if 'class="guess"' in tile}


def test_no_sum_of_guesses_counts_a_held_out_task(grid: Grid) -> None:
    """Less what the map tells of the others, it would be the guess of those that are left."""
    guessed, rows = grid.project.state.guessed, grid.bench.services.ledger.pool(grid.project)
    assert guessed
    assert (rows.waiting & rows.holdout).sum() == 20
    assert guessed.waiting == (rows.waiting & ~rows.holdout).sum() == sum(guessed.counts.values())


def test_the_queue_has_the_figures_of_the_status_when_one_of_its_images_is_gone(measured_grid: Grid) -> None:
    bench = measured_grid.bench
    served = bench.services.ledger.current_round(bench.project)
    assert served
    first = bench.services.ledger.queries(served)[0].task_id
    bench.ids = [task for task in bench.ids if task != first]
    bench._read()
    queue = bench.services.status.of(bench.project)["queue"]
    assert queue["waiting"] == queue["tasks"] - 1
    assert f"<strong>{queue['waiting']} of {queue['tasks']} to go</strong>" in told(measured_grid, "queue")


def test_versions_are_not_compared_on_what_an_audit_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered is one of the held-out tasks that both are compared on, and may still be changed."""
    bench = Bench(tmp_path, tasks=400, measured=60)
    bench.label(*range(1, 31), *range(61, 120))
    bench.turn()
    grid = grid_of(bench, monkeypatch)
    assert "100.0%" in told(grid, "compare", first="v1", second="v1")
    begin_as_ever(bench)
    bench.turn()
    bench.label(*range(31, 61))
    contradict(bench, *drawn(bench))
    bench.turn()
    asked = told(grid, "compare", first="v1", second="v1")
    assert "An audit is on" in asked
    assert "%" not in asked
    bench.services.database.close()
