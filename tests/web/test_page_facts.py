"""What the project page tells of a project: the same figures as the commands, names as text, and no guess where none is to be seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ml_backend.learning.held_out_answers import HeldOutAnswers
from ml_backend.store.acceptances import Acceptances
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.wording import measured
from tests.bench import Bench
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
    assert "confusion-" not in re.sub(
        r"confusion-(body|back|cell)", "", told(measured_grid, "confusion", true="cat", guess="cat")
    )
