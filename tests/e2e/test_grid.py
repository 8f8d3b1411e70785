"""The grid in a real browser, by keyboard alone, against a real Label Studio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.bulk_annotations import BY_HAND, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.web.persons import TOKEN_HEADER
from tests.e2e.annotator import browser, find_chromium
from tests.e2e.helpers import sign_up
from tests.e2e.stack import PATIENCE, Stack, running, wait_until

FIRST = 60
"""Images that somebody has labelled before, so that there is a model."""
TICKED = '#tiles [role=checkbox][aria-checked="true"]'


@pytest.fixture(scope="module")
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A project of digits with a model."""
    with running(label_studio, client, tmp_path_factory.mktemp("grid"), tasks=1_700) as stack:
        wait_until(lambda: stack.services.ledger.counts(stack.project).tasks == 1_700, "project that was read")
        tasks = list(client.tasks(stack.project_id))[:FIRST]
        labels = {task.id: (stack.truth[task.data["filename"]],) for task in tasks}
        write_annotations(stack.project_id, stack.schema, labels, client)
        wait_until(lambda: stack.services.versions.current(stack.project), "model")
        yield stack


@contextmanager
def opened(stack: Stack, **context: object) -> Iterator[Page]:
    """The grid in a browser that has no token yet, and in which nothing goes wrong unnoticed."""
    find_chromium()
    with browser() as chromium:
        page = chromium.new_context(viewport={"width": 1280, "height": 900}, **context).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE * 1_000)
        expect.set_options(timeout=PATIENCE * 1_000)
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.goto(f"{stack.settings.url}/projects/{stack.project.id}/grid")
        yield page
        assert [told for told in troubles if "403" not in told] == []


def sign_in(page: Page, token: str) -> None:
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    page.keyboard.type(token)
    page.keyboard.press("Enter")


def shown(page: Page, before: list[int]) -> list[int]:
    """Wait until another page of images than `before` is there, each drawn; returns the tasks in order."""
    known = "all => all.map(one => Number(one.dataset.task))"
    wait_until(lambda: page.eval_on_selector_all("#tiles [role=checkbox]", known) != before, "next page")
    tasks = page.eval_on_selector_all("#tiles [role=checkbox]", known)
    page.wait_for_function("n => document.querySelectorAll('#tiles img').length === n", arg=len(tasks))
    return list(map(int, tasks))


@pytest.mark.browser
def test_120_images_are_labelled_by_keyboard_alone_under_the_persons_name_but_for_3_unticked(
    stack: Stack, label_studio: EmbeddedLabelStudio
) -> None:
    person = sign_up(label_studio, "grid@example.com")
    before = set(client_answers(stack))
    last = stack.services.ledger.last_round(stack.project)
    assert last is not None
    with opened(stack) as page:
        sign_in(page, person.transport.auth.api_key)
        first = shown(page, [])
        label = page.locator('#classes [aria-current="true"] .name').inner_text()
        began = time.monotonic()
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        assert page.locator(TICKED).count() == len(first) - 2
        page.keyboard.press("Enter")
        second = shown(page, first)
        page.keyboard.press("End")
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        third = shown(page, second)
        seconds = time.monotonic() - began
        expect(page.locator("#told")).to_contain_text(f"59 labelled as {label}, 1 left to be labelled one by one")
        looked = [*first, *second]
        print(f"\n{len(looked)} looks in {seconds:.1f} s: {60 * len(looked) / seconds:.0f} a minute")
        assert len(set(looked)) == 120
        assert 60 * len(looked) / seconds >= 60
        page.keyboard.press("Enter")
        shown(page, third)
        page.keyboard.press("u")
        expect(page.locator("#told")).to_contain_text(f"{len(third)} labels as {label} taken back.")
    answers = {task: given for task, given in client_answers(stack).items() if task not in before}
    assert len(answers) == 117
    left = set(looked) - set(answers)
    assert (len(left), len(left & set(first)), {first[2], second[-1]} <= left) == (3, 2, True)
    who = person.whoami()["id"]
    assert {(labels, annotator) for given in answers.values() for labels, annotator in given} == {((label,), who)}
    assert not [
        name for name, count in stack.client.model_versions(stack.project_id).items() if count and BY_HAND in name
    ]

    def follows() -> bool:
        now = stack.services.ledger.last_round(stack.project)
        counts = stack.services.ledger.counts(stack.project)
        return now is not None and now.number > last.number and counts.labelled == len(before) + 117

    wait_until(follows, "queue that knows of the labels")
    queue = stack.round_after(last.number)
    assert set(stack.ranking(queue)).isdisjoint(answers)


def test_two_people_at_the_grid_and_an_import_at_once_label_each_task_once_each_under_their_name(
    stack: Stack, label_studio: EmbeddedLabelStudio
) -> None:
    before = set(client_answers(stack))
    people = [sign_up(label_studio, f"grid-{index}@example.com") for index in range(2)]
    address = f"{stack.settings.url}/projects/{stack.project.id}/grid"

    def ask(person: LabelStudio, what: str, **body: object) -> Any:
        headers = {TOKEN_HEADER: person.transport.auth.api_key}
        answer = requests.post(f"{address}/{what}", json=body, headers=headers, timeout=PATIENCE)
        assert answer.ok, answer.text
        return answer.json()

    pages = {person: ask(person, "page", label="3") for person in people}
    shown = {person: [task["id"] for task in page["tasks"]] for person, page in pages.items()}
    assert not set.intersection(*map(set, shown.values()))
    open_ = [task.id for task in stack.client.tasks(stack.project_id) if task.id not in before]
    imported = dict.fromkeys([task for task in open_ if not any(task in ids for ids in shown.values())][:200], ("5",))

    def label(person: LabelStudio) -> Any:
        return ask(person, "labels", label="3", tasks=shown[person], seconds=30)

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write_annotations, stack.project_id, stack.schema, imported, stack.client)
        written = dict(zip(people, pool.map(label, people), strict=True))
        assert sorted(writing.result().written) == sorted(imported)
    assert [said["written"] for said in written.values()] == [len(shown[person]) for person in people]
    answers = {task: given for task, given in client_answers(stack).items() if task not in before}
    expected = dict.fromkeys(imported, (("5",), stack.client.whoami()["id"]))
    for person in people:
        expected |= dict.fromkeys(shown[person], (("3",), person.whoami()["id"]))
    assert answers == {task: [given] for task, given in expected.items()}


def client_answers(stack: Stack) -> dict[int, list[tuple[tuple[str, ...], int | None]]]:
    return {
        task.id: [(a.labels, a.annotator) for a in given]
        for task, given in stack.client.annotated(stack.project_id, schema=stack.schema)
    }
