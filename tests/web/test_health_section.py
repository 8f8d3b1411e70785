"""Health on the page of a project: what `doctor` says, beside the requests, for who may act."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ml_backend.diagnostics import Diagnosis
from ml_backend.labelstudio.checks import Finding
from ml_backend.web.examining import MOST, Examinations
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.sections import health_section
from tests.web.fake_grid import ANNA, BEN, Grid, sentence
from tests.web.test_project_page import get

SECRET = "http://10.0.0.7:9000 does not answer: <b>start it</b>."


@pytest.fixture
def may(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set once the examination may go on after its first finding."""
    going = threading.Event()

    def examine(*_: Any) -> Iterator[Finding]:
        yield Finding("store", "ok", "all well.")
        assert going.wait(60)
        yield Finding("images", "FIX", SECRET)

    monkeypatch.setattr(Diagnosis, "examine", examine)
    monkeypatch.setattr(health_section, "EXAMINATIONS", Examinations())
    yield going
    going.set()


def begin(grid: Grid, token: str = ANNA) -> Any:
    return grid.http.post(f"/projects/{grid.project.id}/page/health", headers={TOKEN_HEADER: token})


def test_what_is_found_is_told_as_it_is_found_to_who_may_act(grid: Grid, may: threading.Event) -> None:
    assert "Look now" in get(grid, "page/health").text
    assert "Looking" in begin(grid).text
    while "all well." not in (text := get(grid, "page/health").text):
        threading.Event().wait(0.01)
    assert 'hx-trigger="every 1s"' in text
    may.set()
    while "Look again" not in (text := get(grid, "page/health").text):
        threading.Event().wait(0.01)
    assert "1 thing to put right." in text
    assert "&lt;b&gt;start it" in text
    assert "<b>" not in text
    viewer = get(grid, "page/health", BEN)
    assert viewer.status_code == 200
    assert "10.0.0.7" not in viewer.text


def test_a_viewer_cannot_have_it_looked_at(grid: Grid, may: threading.Event) -> None:
    may.set()
    assert "not change it" in sentence(begin(grid, BEN), 403)
    assert "Look now" in get(grid, "page/health").text


def test_it_is_kept_for_a_minute_and_only_so_many_are_on_at_a_time(grid: Grid, may: threading.Event) -> None:
    now = [0.0]
    examinations, services = Examinations(clock=lambda: now[0]), grid.bench.services
    config = grid.project.label_config
    others = [services.registry.register(grid.project.key.host, 70 + n, config, created=None) for n in range(MOST)]
    first = examinations.begin(others[0], services)
    assert examinations.begin(others[0], services) is first
    for other in others[1:]:
        examinations.begin(other, services)
    with pytest.raises(Exception, match="in a while"):
        examinations.begin(grid.project, services)
    may.set()
    while first.ended is None:
        threading.Event().wait(0.01)
    assert examinations.of(others[0], services) is first
    now[0] = 61.0
    assert examinations.of(others[0], services) is None
    assert examinations.begin(others[0], services) is not first
