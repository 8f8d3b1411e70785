"""A page of ours in a real browser, in which nothing goes wrong unnoticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, expect

from tests.e2e.annotator import browser, find_chromium
from tests.e2e.stack import PATIENCE


@contextmanager
def signed_in(address: str, token: str, *, script: str = "") -> Iterator[Page]:
    """The page, with the token typed in. What the policy forbids, or a fault of a script, is an error at the end.

    script: runs in the page before its own.
    """
    find_chromium()
    with browser() as chromium:
        page = chromium.new_context(viewport={"width": 1100, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE * 1_000)
        expect.set_options(timeout=PATIENCE * 1_000)
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        if script:
            page.add_init_script(script)
        page.goto(address)
        expect(page.get_by_label("Token", exact=True)).to_be_focused()
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        expect(page.locator("#work")).to_be_visible()
        yield page
        assert [told for told in troubles if "Failed to load resource" not in told] == []


def press(page: Page, name: str, *, after: str = "top") -> None:
    """Come from `after` to the button `name` by Tab alone, and press it. Both are ids."""
    page.locator(f"#{name}").wait_for()
    page.locator(f"#{after}").focus()
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"no way by keyboard to {name}")


def confirm(page: Page, says: str | re.Pattern[str]) -> None:
    """Read what would happen, and agree, by keyboard."""
    expect(page.locator("#ask-says")).to_contain_text(says)
    expect(page.locator("#ask-yes")).to_be_enabled()
    expect(page.locator("#ask-no")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
