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
from tests.e2e.annotator import find_chromium
from tests.e2e.finishing import at_rest
from tests.e2e.helpers import sign_up
from tests.e2e.signed_in import confirm, press, signed_in
from tests.e2e.stack import PATIENCE, Stack, running, wait_until

pytestmark = pytest.mark.browser
TURNS, MOST, LABELS = 3, 15, 8
"""Turns of so many labels each; more, up to MOST, where they were over before the page had looked twice."""
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
    with signed_in(f"{stack.settings.url}/", person.transport.auth.api_key, script=WATCH) as page:
        page.locator(f"#project-{stack.project.id} a").click()
        expect(page.locator("#labelled")).to_contain_text("labelled")
        page.evaluate("window.marked = true")
        yield page
        assert page.evaluate("window.marked"), "it was never loaded again"
        assert page.evaluate("violations") == []


def told(stack: Stack) -> dict[str, Any]:
    """What the API says of the project."""
    return dict(requests.get(f"{stack.settings.url}/projects/{stack.project.id}", timeout=PATIENCE).json())


def agree(page: Page, says: str) -> None:
    confirm(page, says)
    expect(page.locator("#ask")).to_be_hidden()


def test_the_bar_moves_and_the_counts_grow_while_the_page_is_open(stack: Stack, page: Page) -> None:
    for turn in range(1, MOST + 1):
        wait_until(lambda: stack.services.ledger.last_round(stack.project), "queue")
        for _ in range(LABELS):
            stack.label_next()
        expect(page.locator("#labelled strong")).to_have_text(str(turn * LABELS))
        wait_until(lambda: told(stack)["job"]["running"] is None and told(stack)["job"]["due"] is None, "rest")
        if turn >= TURNS and page.evaluate("bars.size") >= 2:
            break
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
    press(page, f"pin-{newest}", after="versions-title")
    agree(page, "until it is unpinned")
    expect(page.locator("#unpin")).to_be_visible()
    assert (told(stack)["version"]["name"], told(stack)["pinned"]) == (newest, True)
    press(page, page.locator("[id^=undo-]").first.get_attribute("id") or "", after="log-title")
    agree(page, "each better one from now on")
    wait_until(lambda: not told(stack)["pinned"], "unpinned version")
    before = stack.services.versions.before(stack.project)
    press(page, "roll-back", after="versions-title")
    agree(page, f"{before.name} ")
    wait_until(lambda: told(stack)["version"]["name"] == before.name, "roll-back")
    expect(page.locator("#served")).to_contain_text(before.name)
    (done, *_) = stack.services.acts.list(stack.project)
    assert (done.what, done.account) == ("roll-back", "lead@example.com")


def test_what_waits_or_runs_is_cancelled(stack: Stack, page: Page) -> None:
    at_rest(stack)
    stack.label_next()
    expect(page.locator("#turn-due")).to_contain_text("1 new label")
    press(page, "turn-cancel", after="turn-title")
    agree(page, "would be dropped")
    wait_until(lambda: told(stack)["job"]["due"] is None, "cancelled turn")
    job = wait_until(lambda: stack.services.jobs.begin(stack.project, "a test", "a test"), "job of our own")
    stack.services.jobs.heartbeat(job, 0.42, "<b>reading</b>")
    expect(page.locator("#turn-doing")).to_contain_text("<b>reading</b>")
    assert page.locator("#turn-bar").evaluate("bar => bar.value") == 42
    press(page, "turn-cancel", after="turn-title")
    agree(page, "would stop at its next step")
    wait_until(lambda: stack.services.jobs.cancelled(job), "wish to cancel")
    stack.services.jobs.stop(job)
    expect(page.locator("#turn-idle")).to_be_visible()


def test_a_strategy_that_is_chosen_is_that_of_the_next_queue_and_a_paused_project_waits(
    stack: Stack, page: Page
) -> None:
    at_rest(stack)
    page.locator("#settings-strategy").select_option("margin")
    press(page, "settings-change", after="settings-title")
    agree(page, "Strategy: margin instead of auto.")
    wait_until(lambda: told(stack)["queue"]["strategy"] == "margin", "queue by the strategy that was chosen")
    assert told(stack)["settings"]["chosen"] == ["strategy"]
    at_rest(stack)
    press(page, "settings-pause", after="settings-title")
    agree(page, "Nothing would be trained")
    expect(page.locator("#paused")).to_be_visible()
    served = told(stack)["version"]["name"]
    for _ in range(LABELS):
        stack.label_next()
    expect(page.locator("#turn-due")).to_contain_text("which is paused")
    assert told(stack)["job"]["running"] is None
    press(page, "settings-resume", after="settings-title")
    agree(page, "A turn would begin at once")
    wait_until(lambda: told(stack)["version"]["name"] != served, "version trained on what came meanwhile")


def test_what_is_downloaded_is_what_the_commands_write(stack: Stack, page: Page, tmp_path: Path) -> None:
    at_rest(stack)
    with page.expect_download() as found:
        press(page, "file-labels-csv", after="downloads-title")
    assert found.value.suggested_filename == "labels.csv"
    write_labels(stack.project, stack.services, partial(open_table, tmp_path / "labels.csv"))
    assert Path(found.value.path()).read_bytes() == (tmp_path / "labels.csv").read_bytes()
    with page.expect_download() as found:
        press(page, "file-dataset-zip", after="downloads-title")
    with zipfile.ZipFile(found.value.path()) as packed:
        images = [name for name in packed.namelist() if name.endswith(".png")]
    assert len(images) == told(stack)["counts"]["labelled"]
    expect(page.locator("#file-said")).to_contain_text("dataset.zip is on its way")


def test_health_says_what_doctor_says(stack: Stack, page: Page) -> None:
    press(page, "health-look", after="health-title")
    expect(page.locator("#health-said")).to_contain_text("Everything that was looked at is right.")
    expect(page.locator("#health-body table")).to_contain_text(f"{stack.settings.label_studio_url} answers.")
