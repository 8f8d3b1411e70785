"""What happens in a project, told to pages that are open; and pages that are open do not hold up anybody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import requests
import uvicorn

from ml_backend.demo.label_studio import free_port
from ml_backend.errors import TooManyError
from ml_backend.store.projects import Project
from ml_backend.web import live as live_module
from ml_backend.web.http_limits import BoundedProtocol
from ml_backend.web.live import Live
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.sections.listed import SECTIONS
from tests.web.fake_grid import ANNA, Grid


async def until(so: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            found = so()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


def test_a_reader_is_told_what_happens_and_nothing_is_looked_at_when_it_has_left(grid: Grid) -> None:
    live, services = Live(grid.bench.services, look_s=0.01, breath_s=0.2), grid.bench.services

    async def read() -> list[str]:
        told: list[str] = []
        stream = live.stream(grid.project)

        async def take() -> None:
            async for block in stream:
                told.append(block.decode())  # noqa: PERF401 - each as it comes

        task = asyncio.create_task(take())
        await until(lambda: any(": still here" in block for block in told))
        assert not [block for block in told if block.startswith("event")], "nothing has happened"
        job = await asyncio.to_thread(services.jobs.begin, grid.project, "w", "test")
        assert job is not None
        await until(lambda: "event: turn\ndata:\n\n" in told)
        told.clear()
        await asyncio.to_thread(services.acts.record, grid.project, "x", account="a", person="b")
        await until(lambda: "event: acts\ndata:\n\n" in told)
        assert "event: served\ndata:\n\n" not in told
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not live.watched)
        return told

    asyncio.run(read())
    assert live.readers == 0


def test_a_hundred_readers_cost_one_look_and_too_many_are_refused(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(grid.bench.services, look_s=0.05, breath_s=5)
    looks: list[int] = []

    def see(project: Project) -> dict[str, object]:
        looks.append(project.id)
        return {}

    monkeypatch.setattr(live, "_see", see)

    async def read() -> None:
        streams = [live.stream(grid.project) for _ in range(100)]
        for stream in streams:
            await anext(stream)
        assert live.readers == 100
        assert len(live.watched) == 1
        monkeypatch.setattr(live_module, "MOST", 100)
        with pytest.raises(TooManyError, match="Too many pages"):
            live.stream(grid.project)
        looks.clear()
        began = time.monotonic()
        await until(lambda: len(looks) >= 3)
        assert len(looks) <= 3 + (time.monotonic() - began) / 0.05
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: not live.watched)

    asyncio.run(read())


def test_who_listens_is_told_what_happens_after_a_look_that_went_wrong(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, looks = Live(grid.bench.services, look_s=0.01, breath_s=0.05), 0

    def see(_project: Project) -> dict[str, object]:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise RuntimeError("nobody knows why")
        return {"turn": looks}

    monkeypatch.setattr(live, "_see", see)

    async def read() -> None:
        stream = live.stream(grid.project)
        async with asyncio.timeout(60):
            while not (await anext(stream)).startswith(b"event: turn"):
                pass
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: not live.watched)

    asyncio.run(read())


def test_many_answers_are_told_of_now_and_then_and_the_last_one_in_the_end(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, looks = Live(grid.bench.services, look_s=0.01, breath_s=5, calm_s={"labels": 0.5}), 0

    def see(_project: Project) -> dict[str, object]:
        nonlocal looks
        looks += 1
        return {"labels": min(looks, 10), "turn": looks}

    monkeypatch.setattr(live, "_see", see)

    async def read() -> list[bytes]:
        told: list[bytes] = []
        stream = live.stream(grid.project)
        async with asyncio.timeout(60):
            while told.count(b"event: labels\ndata:\n\n") < 2:
                told.append(await anext(stream))
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: not live.watched)
        return told

    told = asyncio.run(read())
    assert told.count(b"event: turn\ndata:\n\n") > 10, "the bar of a turn moves on"
    assert told[-1] == b"event: labels\ndata:\n\n", "the second one tells of all that came after the first"


def test_what_is_changed_without_the_page_is_told_to_its_sections(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    services = grid.bench.services
    live = Live(services)

    def told(change: Callable[[], object]) -> set[str]:
        before = live._see(grid.project)
        change()
        after = live._see(grid.project)
        return {name for name in after if after[name] != before[name]}

    def sections(events: set[str]) -> set[str]:
        return {section.name for section in SECTIONS if events & set(section.on)}

    paused = sections(told(lambda: services.tuning.pause(grid.project)))
    assert paused >= {"settings", "problems", "turn"}, "each says that it is paused"
    audit = told(lambda: monkeypatch.setattr(type(services.acceptances), "is_blind", lambda *_: True))
    assert sections(audit) >= {"queue", "downloads"}, "they show guesses no more"


def test_open_pages_do_not_hold_up_the_end_of_the_service(grid: Grid, tmp_path: Path) -> None:
    port = free_port()
    config = uvicorn.Config(grid.http.app, port=port, log_level="error", http=BoundedProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        address = f"http://localhost:{port}/projects/{grid.project.id}/live"
        readers = [requests.get(address, headers={TOKEN_HEADER: ANNA}, stream=True, timeout=60) for _ in range(3)]
        lines = [reader.iter_lines() for reader in readers]
        assert [next(each) for each in lines] == [b"retry: 2000"] * 3
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive(), "it has ended, though pages were open"
    for reader in readers:
        reader.close()
