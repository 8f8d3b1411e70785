"""The page of a project over HTTP: who may look and act, what is told, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend.web.page_acts import ACTS
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.sections import SECTIONS
from tests.web.fake_grid import ANNA, BEN, STRANGER, Grid, sentence


def get(grid: Grid, what: str, token: str | None = ANNA) -> Any:
    headers = {TOKEN_HEADER: token} if token else {}
    return grid.http.get(f"/projects/{grid.project.id}/{what}", headers=headers)


@pytest.mark.parametrize("name", [section.name for section in SECTIONS])
def test_every_section_is_told_to_who_may_see_the_project_and_to_nobody_else(grid: Grid, name: str) -> None:
    for token in (ANNA, BEN):
        answer = get(grid, f"page/{name}", token)
        assert answer.status_code == 200, answer.text
    sentence(get(grid, f"page/{name}", STRANGER), 403)
    sentence(get(grid, f"page/{name}", None), 403)


@pytest.mark.parametrize("name", sorted(ACTS))
def test_a_viewer_can_do_nothing(grid: Grid, name: str) -> None:
    for route in ("would", "acts"):
        answer = grid.http.post(f"/projects/{grid.project.id}/{route}", json={"act": name}, headers={TOKEN_HEADER: BEN})
        assert "not change it" in sentence(answer, 403)
    assert not grid.bench.services.acts.list(grid.project)
