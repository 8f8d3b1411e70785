"""A project with a model, and the grid of it over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.bench import Bench  # torch takes seconds
    from tests.web.fake_grid import Grid


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """v1 of 120 tasks: 1 to 20 are held out, 21 to 60 labelled."""
    from tests.web.fake_grid import learned

    return learned(tmp_path_factory.mktemp("one") / "data", range(21, 61))


@pytest.fixture
def grid(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Grid:
    from tests.web.fake_grid import grid_of

    return grid_of(bench, monkeypatch)
