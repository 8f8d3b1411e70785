"""The grid's page in a real browser, with a Label Studio in memory: what it lets a person do by mistake, and what not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from ml_backend.demo.label_studio import free_port
from ml_backend.errors import ImageError
from tests.acceptance.audited import begin_as_ever, trained
from tests.acceptance.audited import drawn as asked
from tests.bench import Bench
from tests.e2e.annotator import browser, find_chromium
from tests.web.fake_grid import ANNA, STRANGER, Grid, grid_of, learned, picture

KINDS = ("robin", "wren", "a finch or <b>another</b> bird with a long name")
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return find_chromium()


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """v1 of 320 tasks: 1 to 20 are held out, 21 to 80 labelled, and 80 are left of each kind."""
    return learned(tmp_path_factory.mktemp("one") / "data", range(21, 81), kinds=KINDS, tasks=320)


@pytest.fixture(scope="module")
def may_be_audited(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """400 tasks, 60 of them labelled, and a version that an audit can be of."""
    made = trained(tmp_path_factory.mktemp("audited") / "data")
    made.services.database.close()
    return made


@pytest.fixture
def audited(may_be_audited: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grid]:
    """No audit is on yet: `begun` begins one."""
    twin = may_be_audited.copied(tmp_path / "audited")
    yield grid_of(twin, monkeypatch)
    twin.services.database.close()


def begun(grid: Grid) -> Grid:
    begin_as_ever(grid.bench)
    grid.bench.turn()
    return grid


@contextmanager
def opened(grid: Grid, **context: Any) -> Iterator[Page]:
    """The grid in a browser of its own, signed out."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(grid.http.app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        with browser() as chromium:
            page = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | context).new_page()
            page.set_default_timeout(60_000)
            expect.set_options(timeout=60_000)
            for _ in range(100):
                if server.started:
                    break
                page.wait_for_timeout(50)
            page.goto(f"http://localhost:{port}/projects/{grid.project.id}/grid")
            yield page
    finally:
        server.should_exit = True
        thread.join(30)


def signed_in(page: Page, token: str = ANNA) -> None:
    page.get_by_label("Token", exact=True).fill(token)
    page.keyboard.press("Enter")


def drawn(page: Page, count: int = 60) -> None:
    expect(page.locator("#tiles img")).to_have_count(count)
    expect(page.locator("#label")).to_contain_text("⏎")


def idle(page: Page) -> None:
    """What the last key began is done, and the page after it is there."""
    expect(page.locator("body.busy")).to_have_count(0)


def shot(page: Page, name: str) -> None:
    if folder := os.environ.get("GRID_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_page_is_in_sight_as_a_whole_and_labelled_with_one_key(grid: Grid) -> None:
    with opened(grid) as page:
        signed_in(page)
        drawn(page)
        assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
        shot(page, "light")
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("60 labelled as")
    assert len(grid.answers()) == 60


def test_nobody_labels_what_was_not_in_sight(grid: Grid) -> None:
    with opened(grid, viewport={"width": 700, "height": 420}) as page:
        signed_in(page)
        drawn(page)
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_contain_text("not in sight yet: look at them, then press Enter again")
        shot(page, "small")
        assert grid.answers() == {}
        for _ in range(12):
            page.keyboard.press("Enter")
            page.wait_for_timeout(150)
            if page.locator("#told").inner_text():
                break
        expect(page.locator("#told")).to_contain_text("60 labelled as")


def test_an_image_that_cannot_be_shown_is_not_labelled(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    first = grid.shown("wren")[:2]

    def read(_: object, task: Any) -> bytes:
        if task.id in first:
            raise ImageError("The image is truncated or damaged: replace the file with an intact one.")
        return picture(task.id)

    monkeypatch.setattr(grid.bench.services.encoding, "read", read)
    with opened(grid) as page:
        signed_in(page)
        expect(page.locator("#question")).to_contain_text("Are these all")
        page.keyboard.press("2")
        expect(page.locator("#question")).to_contain_text("wren")
        drawn(page, 58)
        expect(page.locator(".tile .why").first).to_contain_text("replace the file with an intact one")
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        page.keyboard.press("a")
        page.keyboard.press("a")
        shot(page, "unreadable")
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("58 labelled as wren, 2 left to be labelled one by one")
    assert not set(grid.answers()) & set(first)


def test_a_refused_token_is_told_and_asked_for_again(grid: Grid) -> None:
    with opened(grid) as page:
        signed_in(page, STRANGER)
        expect(page.locator("#wrong")).to_contain_text("use the token of somebody who may see the project")
        shot(page, "refused")
        assert page.evaluate("sessionStorage.length") == 0
        signed_in(page)
        drawn(page)
        assert page.evaluate("[localStorage.length, document.cookie, location.search + location.hash]") == [0, "", ""]
        page.reload()
        drawn(page)


def test_keys_move_and_tick_and_change_the_class_and_take_back(grid: Grid) -> None:
    with opened(grid, color_scheme="dark") as page:
        signed_in(page)
        drawn(page)
        page.keyboard.press("3")
        expect(page.locator("#question")).to_contain_text(f"Are these all {KINDS[2]}?")
        page.keyboard.press("]")
        expect(page.locator("#question")).to_contain_text("Are these all robin?")
        drawn(page)
        place = "[...document.querySelectorAll('.tile')].indexOf(document.activeElement)"
        across = page.evaluate("columns(tiles())")
        for key, there in (
            ("ArrowDown", across),
            ("ArrowRight", across + 1),
            ("ArrowUp", 1),
            ("ArrowUp", 1),
            ("End", 59),
        ):
            page.keyboard.press(key)
            assert page.evaluate(place) == there, key
        page.keyboard.press("Space")
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        shot(page, "dark")
        expect(page.locator("#label")).to_contain_text("Label 58 as robin")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        shot(page, "help")
        page.keyboard.press("Enter")  # closes it, and labels nothing
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert grid.answers() == {}
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("58 labelled as robin, 2 left to be labelled one by one")
        shot(page, "told")


def test_label_studio_away_is_told_and_the_same_key_tries_again(grid: Grid) -> None:
    with opened(grid) as page:
        signed_in(page)
        drawn(page)
        grid.studio.away = True
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_contain_text("check that it is running")
        shot(page, "away")
        grid.studio.away = False
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("60 labelled as")
    assert len(grid.answers()) == 60


def test_names_of_files_and_classes_are_text_and_nothing_is_fetched_from_elsewhere(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.web.grid_work.called", lambda task: f'"><img src=x onerror="stolen()"> {task.id}')
    asked: list[str] = []
    with opened(grid) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(f"error: {error}"))
        signed_in(page)
        drawn(page)
        assert page.locator("#tiles img[src=x]").count() == 0
        assert page.locator("#classes b").count() == 0
        label = page.locator(".tile").first.get_attribute("aria-label") or ""
        assert label.startswith('"><img src=x')
        assert [url for url in asked if not url.startswith(("http://localhost:", "blob:"))] == []


def test_a_page_without_a_mouse_has_a_name_and_a_state_for_everything(grid: Grid) -> None:
    with opened(grid) as page:
        signed_in(page)
        drawn(page)
        tiles: Callable[..., Any] = page.get_by_role("checkbox", checked=True).count
        assert tiles() == 60
        assert page.locator(".tile[tabindex='0']").count() == 1
        assert page.evaluate("document.activeElement.classList.contains('tile')")
        for _ in range(12):
            page.keyboard.press("Tab")
            named = "e => (e.getAttribute('aria-label') || e.innerText || '').trim().length > 0 || e === document.body"
            assert page.evaluate(f"({named})(document.activeElement)")


# -- an audit ----------------------------------------------------------------------------------------------------------


def test_an_audit_is_answered_by_keyboard_each_image_with_its_own_class_and_no_guess_is_in_sight(audited: Grid) -> None:
    order = asked(begun(audited).bench)
    with opened(audited) as page:
        signed_in(page)
        drawn(page)
        expect(page.locator("#question")).to_contain_text(f"Which class is each of these? {len(order)} images to go")
        assert page.locator("#classes .count, .tile[aria-checked]").count() == 0
        assert page.locator(".tile[data-label]").count() == 0
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_contain_text("No image has a class yet")
        for key in ("1", "2", "3", "Backspace", "1", "2", "ArrowLeft", "Space", "ArrowRight", "[", "]", "]"):
            page.keyboard.press(key)
        shown = page.locator(".tile").evaluate_all("all => all.slice(0, 7).map(tile => tile.dataset.label || '')")
        assert shown == ["cat", "dog", "owl", "cat", "", "dog", ""]
        label = page.locator(".tile").nth(2).get_attribute("aria-label") or ""
        assert label.endswith("owl")
        shot(page, "audit")
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("5 labelled, 55 left without a class.")
        idle(page)
        drawn(page)
        given = dict(zip(order, ["cat", "dog", "owl", "cat", "", "dog"], strict=False))
        assert audited.answers() == {task: ((label,), 7) for task, label in given.items() if label}
        first = page.locator(".tile").first.get_attribute("data-task")
        assert int(first or 0) == order[60], "those that were passed by come last"


def test_help_and_undo_are_of_the_audit_too(audited: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[int] = []
    begun(audited)
    monkeypatch.setattr(type(audited.studio), "delete_annotation", lambda _self, number: deleted.append(number))
    with opened(audited, color_scheme="dark") as page:
        signed_in(page)
        drawn(page)
        page.keyboard.press("?")
        expect(page.get_by_text("write all that have a class")).to_be_visible()
        expect(page.get_by_text("tick all, or none")).to_be_hidden()
        shot(page, "audit-help")
        page.keyboard.press("?")
        page.keyboard.press("3")
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("1 labelled")
        idle(page)
        drawn(page)
        page.keyboard.press("u")
        expect(page.locator("#told")).to_contain_text("1 label taken back")
    assert len(deleted) == 1


def test_a_page_that_was_open_when_the_audit_began_is_told_and_becomes_that_of_the_audit(audited: Grid) -> None:
    with opened(audited) as page:
        signed_in(page)
        expect(page.locator("#question")).to_contain_text("Are these all")
        drawn(page)
        begun(audited)
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_contain_text("nobody is shown a guess meanwhile")
        expect(page.locator("#question")).to_contain_text("Which class is each of these?")
        idle(page)
        assert audited.answers() == {}
        drawn(page)
        page.keyboard.press("1")
        audited.bench.services.auditing.stop(audited.project)
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_contain_text("The audit is over, and nothing was written")
        expect(page.locator("#question")).to_contain_text("Are these all")
    assert audited.answers() == {}


def test_an_audit_with_no_image_left_says_what_is_next(audited: Grid) -> None:
    left = len(asked(begun(audited).bench))
    with opened(audited) as page:
        signed_in(page)
        while left:
            drawn(page, min(left, 60))
            for _ in range(min(left, 60)):
                page.keyboard.press("1")
            page.keyboard.press("Enter")
            left -= min(left, 60)
            expect(page.locator("#told")).to_contain_text(
                f"You labelled {len(asked(audited.bench)) - left:,} in this tab"
            )
            idle(page)
        expect(page.locator("#empty")).to_contain_text(
            "the next turn, in a moment, says whether more is to be looked at"
        )
        shot(page, "audit-empty")
        page.keyboard.press("Enter")
        expect(page.locator("#empty")).to_contain_text("Press Enter to look again")
