"""t-SNE beside the worker: for maps that somebody looks at, standing still while a turn runs, gone with the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.worker import mapping
from ml_backend.worker.mapping import AGAIN_S, LOOK_S, NOTHING, MapLayouts
from tests.bench import Bench


class Desk:
    """An idle worker whose clock is moved by hand, and what it started."""

    def __init__(self, bench: Bench, code: str) -> None:
        self.bench, self.code, self.now = bench, code, 100.0
        self.started: list[subprocess.Popen[bytes]] = []
        self.layouts = MapLayouts(bench.services, self._start, lambda: self.now)

    def look(self) -> int:
        """Go on after a while; returns how many were started so far."""
        self.now += LOOK_S
        self.layouts.go_on()
        return len(self.started)

    def ended(self) -> None:
        self.started[-1].wait(60)

    def _start(self, _project: Project) -> subprocess.Popen[bytes]:
        self.started.append(subprocess.Popen([sys.executable, "-c", self.code]))
        return self.started[-1]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[[str], Desk]]:
    made: list[Desk] = []

    def at(code: str) -> Desk:
        made.append(Desk(Bench(tmp_path), code))
        return made[-1]

    yield at
    for each in made:
        each.layouts.end()
        assert all(process.poll() is not None for process in each.started)


def wish(desk: Desk) -> None:
    desk.bench.services.ledger.configure(desk.bench.project, map="2026-01-01T00:00:00+00:00")


def state_of(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nothing_is_laid_out_that_nobody_looks_at(desk: Callable[[str], Desk]) -> None:
    mine = desk("pass")
    assert mine.look() == 0
    wish(mine)
    assert mine.look() == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state of a process is read from /proc")
def test_it_stands_still_while_a_turn_runs_goes_on_after_it_and_ends_with_the_worker(
    desk: Callable[[str], Desk],
) -> None:
    mine = desk("import time; time.sleep(600)")
    wish(mine)
    mine.look()
    (process,) = mine.started
    mine.layouts.stand_still()
    until(lambda: state_of(process) == "T")
    assert mine.look() == 1
    until(lambda: state_of(process) in "SR")
    mine.layouts.stand_still()
    mine.layouts.end()
    assert process.poll() is not None


@pytest.mark.parametrize("code", [1, NOTHING])
def test_one_that_failed_or_had_too_few_images_is_not_tried_again_at_once(
    desk: Callable[[str], Desk], code: int
) -> None:
    mine = desk(f"raise SystemExit({code})")
    wish(mine)
    mine.look()
    mine.ended()
    assert [mine.look(), mine.look()] == [1, 1]
    mine.now += AGAIN_S
    assert mine.look() == 2


def test_the_process_lays_the_project_out_and_then_there_is_nothing_to_do(
    desk: Callable[[str], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = desk("pass")
    wish(mine)
    services = mine.bench.services
    monkeypatch.setattr(Services, "open", lambda _settings: services)
    monkeypatch.setattr(os, "nice", lambda _more: 0)
    assert mapping.main(mine.bench.project.id) == 0
    assert services.atlas.points(mine.bench.project).method == "t-sne"
    assert mine.look() == 0
