"""Settings of a project changed on its page: asked once, done by the store's own rules, kept in the log, taken back."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from ml_backend.store.project_state import ChosenSettings, ProjectState
from ml_backend.web.persons import TOKEN_HEADER
from tests.web.fake_grid import ANNA, Grid, sentence
from tests.web.test_project_page import get


def post(grid: Grid, route: str, act: str, **given: Any) -> Any:
    body = {"act": act, "given": given}
    return grid.http.post(f"/projects/{grid.project.id}/{route}", json=body, headers={TOKEN_HEADER: ANNA})


def state(grid: Grid) -> ProjectState:
    return grid.bench.services.ledger.project(grid.project.key).state


def test_a_change_says_what_it_would_come_to_is_done_and_can_be_taken_back(grid: Grid) -> None:
    said = post(grid, "would", "settings", strategy="margin", batch_size=7).json()["says"]
    assert said.startswith(
        "Strategy: margin instead of auto.\nBatch size: 7 instead of 5.\nThe queue is made anew at once"
    )
    assert state(grid).chosen == ChosenSettings()
    assert post(grid, "acts", "settings", strategy="margin", batch_size=7).status_code == 200
    assert state(grid).chosen == ChosenSettings(strategy="margin", batch_size=7)
    (done,) = grid.bench.services.acts.list(grid.project)
    assert (done.what, done.person) == ("settings", "Anna")
    undo = done.detail["undo"]
    assert post(grid, "acts", undo["act"], **undo["given"]).status_code == 200
    assert state(grid).chosen == ChosenSettings()


def test_a_form_that_was_opened_before_changes_only_what_was_changed_in_it(grid: Grid) -> None:
    """Somebody else has chosen a strategy meanwhile; it stays."""
    form = {
        "was": {"batch_size": 50},
        "strategy": "",
        "batch_size": 50,
        "train_after_labels": 3,
        "train_after_seconds": None,
    }
    grid.bench.services.tuning.choose(grid.project, strategy="margin", batch_size=60)
    assert post(grid, "acts", "settings", **form).status_code == 200
    assert state(grid).chosen == ChosenSettings(strategy="margin", batch_size=60, train_after_labels=3)
    assert "Nothing was changed" in sentence(
        post(grid, "acts", "settings", **(form | {"train_after_labels": None})), 422
    )


@pytest.mark.parametrize(
    "given",
    [
        {"strategy": "<b>margin</b>"},
        {"strategy": ["margin"]},
        {"batch_size": 10**9},
        {"batch_size": True},
        {"batch_size": {"$gt": 1}},
        {"train_after_seconds": 1e300},
        {"password": "mine"},
        {"was": "nothing"},
        {},
    ],
)
def test_what_no_setting_can_be_is_refused_before_it_is_asked(grid: Grid, given: dict[str, Any]) -> None:
    for route in ("would", "acts"):
        assert "Nothing was changed" in sentence(post(grid, route, "settings", **given), 422)
    assert state(grid).chosen == ChosenSettings()
    assert not grid.bench.services.acts.list(grid.project)


def test_a_pause_is_told_on_the_page_keeps_turns_from_beginning_and_is_taken_back(grid: Grid) -> None:
    assert "random" in post(grid, "would", "pause").json()["says"]
    assert post(grid, "acts", "pause").status_code == 200
    assert "already" in sentence(post(grid, "acts", "pause"), 409)
    assert "resume" in sentence(post(grid, "acts", "train"), 409)
    for name in ("settings", "problems"):
        assert "Paused" in get(grid, f"page/{name}").text
    assert grid.bench.services.jobs.claim("worker") is None
    assert "A turn would begin at once" in post(grid, "would", "resume").json()["says"]
    assert post(grid, "acts", "resume").status_code == 200
    assert not state(grid).paused


def test_the_form_has_the_project_s_own_values_and_the_service_s_beside(grid: Grid) -> None:
    grid.bench.services.tuning.choose(grid.project, strategy="margin", train_after_seconds=2.5)
    text = get(grid, "page/settings").text
    assert '<option value="margin" selected>' in text
    found = re.findall(r'name="(\w+)" type="number".*?value="(.*?)" placeholder="(.*?)"', text, re.DOTALL)
    assert found == [("batch_size", "", "5"), ("train_after_labels", "", "10"), ("train_after_seconds", "2.5", "30")]
    assert '{"was": {"strategy": "margin", "train_after_seconds": 2.5}}' in html.unescape(text)


def test_a_strategy_that_is_none_of_this_release_stays_where_another_field_is_changed(grid: Grid) -> None:
    """What the form says of it is what it was made of, as long as nobody chooses another."""
    grid.bench.services.ledger.configure(grid.project, chosen={"strategy": "newer"})
    assert '<option value="newer" selected>' in get(grid, "page/settings").text
    form = {"was": {"strategy": "newer"}, "strategy": "newer", "batch_size": 9}
    assert post(grid, "acts", "settings", **form).status_code == 200
    assert state(grid).chosen == ChosenSettings(strategy="newer", batch_size=9)
