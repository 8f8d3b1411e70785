"""The page for accepting the rest in a real browser, with a Label Studio in memory: by keyboard, and calm while it refreshes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from ml_backend.demo.label_studio import free_port
from tests.acceptance.audited import answer, answer_all, begin, certify, drawn, trained
from tests.bench import Bench
from tests.e2e.annotator import browser, find_chromium
from tests.web.fake_accept import Desk, desk_of
from tests.web.fake_grid import ANNA, BEN

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return find_chromium()


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = trained(tmp_path_factory.mktemp("page") / "data")
    made.services.database.close()
    return made


@pytest.fixture
def desk(bench: Bench) -> Iterator[Desk]:
    with desk_of(bench) as made:
        yield made


@contextmanager
def opened(desk: Desk, token: str = ANNA, **context: Any) -> Iterator[Page]:
    """The page in a browser of its own, signed in by keyboard; nothing goes wrong in it unnoticed."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(desk.grid.http.app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    troubles: list[str] = []
    try:
        with browser() as chromium:
            page = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}} | context).new_page()
            page.set_default_timeout(60_000)
            expect.set_options(timeout=60_000)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
            for _ in range(100):
                if server.started:
                    break
                page.wait_for_timeout(50)
            page.goto(f"http://localhost:{port}/projects/{desk.bench.project.id}/accept")
            expect(page.get_by_label("Token", exact=True)).to_be_focused()
            page.keyboard.type(token)
            page.keyboard.press("Enter")
            expect(page.locator("#where")).to_be_visible()
            yield page
            assert [told for told in troubles if "409" not in told] == []
    finally:
        server.should_exit = True
        thread.join(30)


def shot(page: Page, name: str) -> None:
    if folder := os.environ.get("ACCEPT_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_an_act_is_said_first_asked_once_and_done_by_keyboard_and_focus_stays_over_refreshes(desk: Desk) -> None:
    with opened(desk) as page:
        page.locator("#work-out").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#plan table")).to_be_visible()
        expect(page.locator("#plan-title")).to_be_focused()
        shot(page, "plan")
        page.locator("#error").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("5")
        page.evaluate("look()")
        page.wait_for_function("!looking.signal.aborted && document.activeElement.id === 'error'")
        assert page.locator("#error").input_value() == "5"
        page.keyboard.press("Enter")
        expect(page.locator("#ask-says")).to_contain_text("People will be asked for 66 labels")
        expect(page.locator("#ask-no")).to_be_focused()
        shot(page, "ask")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert desk.bench.project.state.act is None
        page.keyboard.press("Enter")
        expect(page.locator("#ask-yes")).to_be_enabled()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#audit")).to_contain_text("0 of 66 looks")
        expect(page.locator("#ended-said")).to_contain_text("Audit 1 is on")
        assert page.evaluate("document.activeElement !== document.body"), "the focus is somewhere"


def test_what_runs_is_seen_by_everybody_and_its_end_too(desk: Desk) -> None:
    begin(desk.bench)
    answer_all(desk.bench)
    name = certify(desk.bench).certificate_id
    desk.gate.clear()
    with opened(desk) as page:
        page.locator(f"#write-{name}").click()
        expect(page.locator("#ask-yes")).to_be_enabled()
        page.locator("#ask-yes").click()
        expect(page.locator("#at-work-said")).to_contain_text("Writing accepted labels, asked for by Anna")
        shot(page, "writing")
        button = page.locator(f"#write-{name}")
        expect(button).to_have_attribute("aria-disabled", "true")
        page.evaluate("id => document.getElementById(id).click()", f"write-{name}")
        expect(page.get_by_role("dialog")).to_be_hidden()
        desk.gate.set()
        expect(page.locator("#ended-said")).to_contain_text(f"labelled by certificate {name}")
        with page.expect_download() as told:
            page.locator(f"#json-{name}").click()
        assert told.value.suggested_filename == f"certificate-{name}.json"
        shot(page, "written")


def test_who_may_only_look_has_no_button_that_does_anything(desk: Desk) -> None:
    begin(desk.bench)
    desk.bench.turn()
    with opened(desk, BEN) as page:
        expect(page.locator("#looking")).to_contain_text("not change it")
        assert page.locator("[data-act], form#begin").count() == 0


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 390, "height": 800}}),
    ],
)
def test_the_page_fits_its_window_and_its_words_are_readable(desk: Desk, name: str, context: dict[str, Any]) -> None:
    begin(desk.bench)
    answer_all(desk.bench)
    certify(desk.bench)
    begin(desk.bench, 0.2, 0.8)
    desk.bench.turn()
    answer(desk.bench, *drawn(desk.bench)[:7])
    desk.bench.turn()
    with opened(desk, **context) as page:
        expect(page.locator("#audit")).to_contain_text("7 of ")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        shot(page, name)
