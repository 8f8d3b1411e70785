"""The map in a real browser, by mouse and by keyboard alone, against a real Label Studio and a running service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from playwright.sync_api import Page, expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.chosen_tab import TAB
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task
from tests.e2e.annotator import Annotator, Diary
from tests.e2e.finishing import at_rest
from tests.e2e.helpers import sign_up
from tests.e2e.signed_in import signed_in
from tests.e2e.stack import Stack, running, wait_until

TASKS = 150


@pytest.fixture(scope="module")
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Digits, some of them labelled, and a model."""
    with running(label_studio, client, tmp_path_factory.mktemp("map"), tasks=TASKS) as stack:
        wait_until(lambda: stack.services.ledger.counts(stack.project).tasks == TASKS, "project that was read")
        at_rest(stack)
        while stack.services.versions.current(stack.project) is None:
            for _ in range(10):
                stack.label_next()
            at_rest(stack)
        yield stack


def opened(stack: Stack, what: str, token: str) -> AbstractContextManager[Page]:
    return signed_in(f"{stack.settings.url}/projects/{stack.project.id}/{what}", token)


def chosen_on(page: Page) -> list[int]:
    return list(page.evaluate("chosen.ids"))


def queue(stack: Stack) -> list[int]:
    """What Label Studio serves next, in order, as it says itself."""
    last = stack.services.ledger.last_round(stack.project)
    assert last is not None
    assert stack.client.get_project(stack.project_id)["model_version"] == last.served_name
    stored = stack.client.predictions_of(stack.project_id, [task.id for task in stack.client.tasks(stack.project_id)])
    scores = {
        task: made["score"]
        for task, all_ in stored.items()
        for made in all_
        if made["model_version"] == last.served_name
    }
    return sorted((task for task, score in scores.items() if score < 1e-6), key=scores.__getitem__)


def tab(page: Page, name: str, most: int = 80) -> None:
    """Come to it by Tab alone."""
    for _ in range(most):
        if page.evaluate("document.activeElement.id") == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way by keyboard to {name}")


@pytest.mark.browser
def test_a_lasso_on_the_map_is_asked_for_next_and_shown_as_a_tab_of_label_studio(
    stack: Stack, label_studio: EmbeddedLabelStudio
) -> None:
    person = sign_up(label_studio, "mapper@example.com")
    with opened(stack, "map", person.transport.auth.api_key) as page:
        expect(page.locator("#points")).to_have_attribute("data-points", str(TASKS))

        page.select_option("#colour", "kind")
        expect(page.locator("#values")).to_contain_text("waiting for a label")
        box = page.locator("#points").bounding_box()
        assert box is not None
        left, top, width, height = (box[side] for side in ("x", "y", "width", "height"))
        page.mouse.move(left + 2, top + 2)
        page.mouse.down()
        for across, down in ((0.5, 0.0), (0.5, 0.6), (0.0, 0.6)):
            page.mouse.move(left + 2 + across * width, top + 2 + down * height, steps=4)
        page.mouse.up()
        expect(page.locator("#count")).to_contain_text("chosen")
        tasks = chosen_on(page)
        assert 0 < len(tasks) < TASKS
        expect(page.locator("#tiles img").first).to_be_visible()
        page.click("#show-chosen")
        expect(page.locator("#ask-says")).to_contain_text(f"would show {len(tasks)} image")
        page.click("#ask-yes")
        expect(page.locator("#told")).to_contain_text("Label Studio shows")
        (made,) = [each for each in stack.client.tabs(stack.project_id) if each["data"].get("title") == TAB]
        shown = stack.client.transport.call("GET", f"/api/tasks/?view={made['id']}&fields=task_only&page_size=1000")
        assert {task["id"] for task in shown["tasks"]} == set(tasks)
        assert rows_of_tab(stack, made["id"], page) == len(tasks)
        waiting = [task for task in tasks if stack.services.ledger.pool(stack.project).waiting[task_at(stack, task)]]
        page.click("#ask-next")
        expect(page.locator("#ask-says")).to_contain_text(f"{len(waiting)} image")
        page.click("#ask-yes")
        expect(page.locator("#told")).to_contain_text("The queue in Label Studio is now")
    assert queue(stack) == waiting
    served = next_task(person, stack.project_id)
    assert served is not None
    assert served["id"] == waiting[0]


@pytest.mark.browser
def test_by_keyboard_alone_images_are_found_by_the_form_and_labelled_under_ones_own_name(
    stack: Stack, label_studio: EmbeddedLabelStudio
) -> None:
    person = sign_up(label_studio, "typist@example.com")
    rows = stack.services.ledger.pool(stack.project)
    free = rows.ids[rows.waiting & ~rows.holdout].tolist()
    name = next(t.data["filename"] for t in stack.client.tasks(stack.project_id) if t.id == free[-1])
    with opened(stack, "search", person.transport.auth.api_key) as page:
        expect(page.locator("#name")).to_be_focused()
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        expect(page.locator("#count")).to_have_text("1 image chosen")
        expect(page.locator("#count")).to_be_focused()
        assert chosen_on(page) == [free[-1]]
        tab(page, "as")
        page.keyboard.type(stack.truth[name])
        tab(page, "label-chosen")
        page.keyboard.press("Enter")
        expect(page.locator("#ask-says")).to_contain_text("1 image would get the label")
        tab(page, "ask-yes", 5)
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("1 image labelled")
    (annotation,) = stack.client.task(free[-1])["annotations"]
    assert annotation["result"][0]["value"]["choices"] == [stack.truth[name]]
    assert annotation["completed_by"]["id"] == person.whoami()["id"]


def rows_of_tab(stack: Stack, tab: int, page: Page) -> int:
    """How many tasks Label Studio's own page says that the tab has."""
    assert page.context.browser is not None
    annotator = Annotator(
        page.context.browser.new_page(), stack.client.url, stack.project_id, Diary("mapper@example.com")
    )
    annotator.log_in("mapper@example.com", "pass12345")
    page = annotator.page
    page.goto(f"{stack.client.url}/projects/{stack.project_id}/data?tab={tab}")
    expect(page.get_by_text(TAB, exact=True).first).to_be_visible(timeout=45_000)
    told = page.get_by_text(re.compile(r"^Tasks: *[0-9]+ */ *[0-9]+"))
    expect(told.first).to_be_visible(timeout=20_000)
    assert annotator.diary.troubles == []
    return int(re.findall("[0-9]+", told.first.inner_text())[0])


def task_at(stack: Stack, task: int) -> int:
    return int(stack.services.ledger.pool(stack.project).ids.searchsorted(task))
