"""No page of ours shuts anybody out, as far as axe-core can tell: light and dark, on a screen and on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.bulk_annotations import write_annotations
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e.accessibility import violations
from tests.e2e.annotator import browser, find_chromium
from tests.e2e.stack import PATIENCE, Stack, running, wait_until

pytestmark = pytest.mark.browser
LABELLED = 60
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTHS = (1280, 375)


@pytest.fixture(scope="module")
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A project of digits with a model."""
    find_chromium()
    with running(label_studio, client, tmp_path_factory.mktemp("accessibility"), tasks=300) as stack:
        wait_until(lambda: stack.services.ledger.counts(stack.project).tasks == 300, "project that was read")
        tasks = list(client.tasks(stack.project_id))[:LABELLED]
        labels = {task.id: (stack.truth[task.data["filename"]],) for task in tasks}
        write_annotations(stack.project_id, stack.schema, labels, client)
        wait_until(lambda: stack.services.versions.current(stack.project), "model")
        yield stack


@pytest.fixture(scope="module")
def chromium(stack: Stack) -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def sign_in(page: Page, stack: Stack) -> None:
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    page.get_by_label("Token", exact=True).fill(str(stack.environment["LABEL_STUDIO_API_KEY"]))
    page.keyboard.press("Enter")


def grid(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/projects/{stack.project.id}/grid")
    sign_in(page, stack)
    expect(page.locator("#tiles [role=checkbox]").first).to_be_visible()
    page.wait_for_function("n => document.querySelectorAll('#tiles img').length > n", arg=5)


def accept(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/projects/{stack.project.id}/accept")
    sign_in(page, stack)
    expect(page.locator("#where")).to_be_visible()


def overview(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/overview")
    sign_in(page, stack)
    expect(page.locator("#cards .card").first).to_be_visible()


def project(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/projects/{stack.project.id}/page")
    sign_in(page, stack)
    expect(page.locator("#start .part").first).to_be_visible()
    expect(page.get_by_text("Looking …")).to_have_count(0)
    for more in page.locator("details > summary").all():  # what is folded up is read out, too
        if more.is_visible():
            more.click()


def map_(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/projects/{stack.project.id}/map")
    sign_in(page, stack)
    expect(page.locator("#values tr").first).to_be_visible()


def search(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/projects/{stack.project.id}/search")
    sign_in(page, stack)
    expect(page.locator("#top")).to_be_visible()


def signed_out(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.settings.url}/projects/{stack.project.id}/page")
    expect(page.get_by_label("Token", exact=True)).to_be_visible()


PAGES: dict[str, Callable[[Page, Stack], Any]] = {
    "signed out": signed_out, "overview": overview, "project": project, "grid": grid, "accept": accept,
    "map": map_, "search": search,
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious_on_any_page_light_or_dark_wide_or_narrow(
    stack: Stack, chromium: Browser, name: str
) -> None:
    found: dict[str, list[str]] = {}
    for scheme, width in product(SCHEMES, WIDTHS):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1_000)
        expect.set_options(timeout=PATIENCE * 1_000)
        PAGES[name](page, stack)
        found[f"{scheme}, {width}"] = violations(page)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found[f"{scheme}, {width}"].append("the page is wider than its window")
        context.close()
    assert {what: told for what, told in found.items() if told} == {}


def test_the_check_notices_what_is_wrong_under_our_policy(stack: Stack, chromium: Browser) -> None:
    with chromium.new_page() as page:
        grid(page, stack)
        page.evaluate("document.querySelector('#tiles img').alt = ''; document.documentElement.removeAttribute('lang')")
        assert any(told.startswith("html-has-lang (serious)") for told in violations(page))
