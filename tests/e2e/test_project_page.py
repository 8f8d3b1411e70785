"""The page of a project, left open in a real browser, against a real Label Studio and a running service."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.tabular import open_table
from ml_backend.wording import measured
from ml_backend.worker.exporting import write_labels
from tests.e2e.annotator import browser, find_chromium
from tests.e2e.finishing import at_rest
from tests.e2e.helpers import sign_up
from tests.e2e.stack import PATIENCE, Stack, running, wait_until

pytestmark = pytest.mark.browser
TURNS, LABELS = 3, 8
"""Turns of so many labels each."""
WATCH = """
window.opened = true; window.violations = []; window.bars = new Set();
document.addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
  const bar = document.getElementById("turn-bar");
  if (bar) bars.add(bar.value);
}).observe(document.body, { subtree: true, childList: true, attributes: true }));
"""


@pytest.fixture(scope="module")
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    find_chromium()
    own = {"ML_BACKEND_TRAIN_AFTER_LABELS": str(LABELS), "ML_BACKEND_TRAIN_AFTER_SECONDS": "3600"}
    with running(label_studio, client, tmp_path_factory.mktemp("page"), tasks=300, **own) as stack:
        yield stack


@pytest.fixture(scope="module")
def page(stack: Stack, label_studio: EmbeddedLabelStudio) -> Iterator[Page]:
    """The page of a person who may change the project, never loaded again, in a browser in which nothing goes wrong unnoticed."""
    person = sign_up(label_studio, "lead@example.com")
    with browser() as chromium:
        page = chromium.new_context(viewport={"width": 1100, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE * 1_000)
        expect.set_options(timeout=PATIENCE * 1_000)
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.add_init_script(WATCH)
        page.goto(f"{stack.settings.url}/")
        expect(page.get_by_label("Token", exact=True)).to_be_focused()
        page.keyboard.type(person.transport.auth.api_key)
        page.keyboard.press("Enter")
        page.locator(f"#project-{stack.project.id} a").click()
        expect(page.locator("#labelled")).to_contain_text("labelled")
        page.evaluate("window.marked = true")
        yield page
        assert page.evaluate("window.marked"), "it was never loaded again"
        assert page.evaluate("violations") == []
        assert [told for told in troubles if "Failed to load resource" not in told] == []


def told(stack: Stack) -> dict[str, Any]:
    """What the API says of the project."""
    return dict(requests.get(f"{stack.settings.url}/projects/{stack.project.id}", timeout=PATIENCE).json())


def press(page: Page, section: str, name: str) -> None:
    """Come to the button by Tab alone, and press it."""
    page.locator(f"#{name}").wait_for()
    page.locator(f"#{section}-title").focus()
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"no way by keyboard to {name}")


def confirm(page: Page, says: str) -> None:
    """Read what would happen, and agree, by keyboard."""
    expect(page.locator("#ask-says")).to_contain_text(says)
    expect(page.locator("#ask-yes")).to_be_enabled()
    expect(page.locator("#ask-no")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#ask")).to_be_hidden()


def test_the_bar_moves_and_the_counts_grow_while_the_page_is_open(stack: Stack, page: Page) -> None:
    for turn in range(1, TURNS + 1):
        wait_until(lambda: stack.services.ledger.last_round(stack.project), "queue")
        for _ in range(LABELS):
            stack.label_next()
        expect(page.locator("#labelled strong")).to_have_text(str(turn * LABELS))
        wait_until(lambda: told(stack)["job"]["running"] is None and told(stack)["job"]["due"] is None, "rest")
    at_rest(stack)
    served = told(stack)["version"]["name"]
    expect(page.locator("#served")).to_have_text(served)
    expect(page.locator(f"#version-{served} .tag")).to_have_text("served")
    bars = page.evaluate("[...bars]")
    assert len(bars) >= 2, f"the bar of the turn moved: {bars}"
    queue = stack.services.ledger.current_round(stack.project)
    assert queue is not None
    expect(page.locator("#queue-said")).to_contain_text(queue.served_name)
    shown = page.locator(".images > li").evaluate_all("found => found.map((each) => each.id)")
    assert shown == [f"queue-{task}" for task in stack.ranking(queue)]
    page.locator("#queue-title").scroll_into_view_if_needed()
    expect(page.locator(".images img[src^='blob:']").first).to_be_visible()


def test_the_curve_has_grown_and_says_what_the_status_says(stack: Stack, page: Page) -> None:
    at_rest(stack)
    holdouts = [version.meta.metrics.holdout or {} for version in stack.services.versions.list(stack.project)]
    known = [holdout for holdout in holdouts if holdout.get("n")]
    assert len(known) > 1
    expect(page.locator("#curve-chart .mark:is(.passed, .rejected)")).to_have_count(len(known))
    expect(page.locator("#curve-served")).to_contain_text(measured(told(stack)["version"]["holdout"]))
    expect(page.locator("#annotators-table tbody tr")).not_to_have_count(0)
    said = page.locator("#classes-table tbody tr").all_inner_texts()
    assert len(said) == len(stack.project.schema.labels)


def test_versions_are_pinned_unpinned_and_rolled_back_by_keyboard_alone(stack: Stack, page: Page) -> None:
    at_rest(stack)
    newest = told(stack)["version"]["name"]
    expect(page.locator("#versions-body")).to_contain_text(newest)
    press(page, "versions", f"pin-{newest}")
    confirm(page, "until it is unpinned")
    expect(page.locator("#unpin")).to_be_visible()
    assert (told(stack)["version"]["name"], told(stack)["pinned"]) == (newest, True)
    press(page, "log", page.locator("[id^=undo-]").first.get_attribute("id") or "")
    confirm(page, "each better one from now on")
    wait_until(lambda: not told(stack)["pinned"], "unpinned version")
    before = stack.services.versions.before(stack.project)
    press(page, "versions", "roll-back")
    confirm(page, f"{before.name} ")
    wait_until(lambda: told(stack)["version"]["name"] == before.name, "roll-back")
    expect(page.locator("#served")).to_contain_text(before.name)
    (done, *_) = stack.services.acts.list(stack.project)
    assert (done.what, done.account) == ("roll-back", "lead@example.com")


def test_what_waits_or_runs_is_cancelled(stack: Stack, page: Page) -> None:
    at_rest(stack)
    stack.label_next()
    expect(page.locator("#turn-due")).to_contain_text("1 new label")
    press(page, "turn", "turn-cancel")
    confirm(page, "would be dropped")
    wait_until(lambda: told(stack)["job"]["due"] is None, "cancelled turn")
    job = wait_until(lambda: stack.services.jobs.begin(stack.project, "a test", "a test"), "job of our own")
    stack.services.jobs.heartbeat(job, 0.42, "<b>reading</b>")
    expect(page.locator("#turn-doing")).to_contain_text("<b>reading</b>")
    assert page.locator("#turn-bar").evaluate("bar => bar.value") == 42
    press(page, "turn", "turn-cancel")
    confirm(page, "would stop at its next step")
    wait_until(lambda: stack.services.jobs.cancelled(job), "wish to cancel")
    stack.services.jobs.stop(job)
    expect(page.locator("#turn-idle")).to_be_visible()


def test_a_strategy_that_is_chosen_is_that_of_the_next_queue_and_a_paused_project_waits(
    stack: Stack, page: Page
) -> None:
    at_rest(stack)
    page.locator("#settings-strategy").select_option("margin")
    press(page, "settings", "settings-change")
    confirm(page, "Strategy: margin instead of auto.")
    wait_until(lambda: told(stack)["queue"]["strategy"] == "margin", "queue by the strategy that was chosen")
    assert told(stack)["settings"]["chosen"] == ["strategy"]
    at_rest(stack)
    press(page, "settings", "settings-pause")
    confirm(page, "Nothing would be trained")
    expect(page.locator("#paused")).to_be_visible()
    served = told(stack)["version"]["name"]
    for _ in range(LABELS):
        stack.label_next()
    expect(page.locator("#turn-due")).to_contain_text("which is paused")
    assert told(stack)["job"]["running"] is None
    press(page, "settings", "settings-resume")
    confirm(page, "A turn would begin at once")
    wait_until(lambda: told(stack)["version"]["name"] != served, "version trained on what came meanwhile")


def test_what_is_downloaded_is_what_the_commands_write(stack: Stack, page: Page, tmp_path: Path) -> None:
    at_rest(stack)
    with page.expect_download() as found:
        press(page, "downloads", "file-labels-csv")
    assert found.value.suggested_filename == "labels.csv"
    write_labels(stack.project, stack.services, partial(open_table, tmp_path / "labels.csv"))
    assert Path(found.value.path()).read_bytes() == (tmp_path / "labels.csv").read_bytes()
    with page.expect_download() as found:
        press(page, "downloads", "file-dataset-zip")
    with zipfile.ZipFile(found.value.path()) as packed:
        images = [name for name in packed.namelist() if name.endswith(".png")]
    assert len(images) == told(stack)["counts"]["labelled"]
    expect(page.locator("#file-said")).to_contain_text("dataset.zip is on its way")


def test_health_says_what_doctor_says(stack: Stack, page: Page) -> None:
    press(page, "health", "health-look")
    expect(page.locator("#health-said")).to_contain_text("Everything that was looked at is right.")
    expect(page.locator("#health-body table")).to_contain_text(f"{stack.settings.label_studio_url} answers.")
