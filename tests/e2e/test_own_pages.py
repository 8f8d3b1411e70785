"""Label Studio's own pages in a real browser: the images it shows are our queue, and what it lists of them can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ml_backend.commands.first_queue import make_tabs
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio import queue
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.read_only import DryRun
from ml_backend.records import BLIND, Query
from tests.e2e.annotator import Annotator, annotator, find_chromium
from tests.e2e.stack import Stack, inline

IMAGES = 10
TOP = 5
"""Rows of a list that surely fit into the window."""
CELLS = """() => [...document.querySelectorAll('.lsf-table__row-wrapper, .lsf-table-head')].map(row =>
    [...row.querySelectorAll('.lsf-table__cell')].map(cell => cell.innerText.trim()))"""
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A project with a model, whose guesses are all shown, and a queue of it with held-out images in between."""
    find_chromium()
    folder = tmp_path_factory.mktemp("own-pages")
    with inline(label_studio, client, folder, tasks=200, prelabels="always", holdout_first=20) as stack:
        stack.turn()
        for _ in range(30):
            stack.label_next()
        stack.turn()
        yield stack


@pytest.fixture(scope="module")
def person(
    stack: Stack, label_studio: EmbeddedLabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Annotator]:
    """Somebody who has logged in."""
    who, pictures = (label_studio.username, label_studio.password), tmp_path_factory.mktemp("pictures")
    with annotator(label_studio.url, stack.project_id, *who, pictures=pictures) as person:
        yield person
        assert person.diary.troubles == []


def served(stack: Stack) -> list[int]:
    """The tasks that Label Studio has yet to serve of our queue, the next one first, by its API; those skipped included."""
    version = stack.client.get_project(stack.project_id)["model_version"]
    query = queue.of_version(version)
    rows = stack.client.listing(stack.project_id, "id,is_labeled,predictions", query, fields="all")["tasks"]
    ours = {
        raw["id"]: next(p["score"] for p in raw["predictions"] if p["model_version"] == version)
        for raw in rows
        if not raw["is_labeled"]
    }
    return [task for task in sorted(ours, key=lambda task: ours[task]) if ours[task] < queue.LIVE]


def asked(stack: Stack) -> dict[int, Query]:
    round_ = stack.services.ledger.last_round(stack.project)
    assert round_ is not None
    return {query.task_id: query for query in stack.services.ledger.queries(round_)}


def truth(stack: Stack, person: Annotator) -> str:
    return stack.truth[person.data["filename"]]


def answers(stack: Stack, task: int) -> list[Any]:
    """What Label Studio has of a task: the choices of each answer, None for a skip."""
    given = stack.client.task(task)["annotations"]
    return [None if one["was_cancelled"] else one["result"][0]["value"]["choices"] for one in given]


def test_label_all_tasks_shows_our_queue_image_by_image_with_our_guess_and_none_on_held_out_ones(
    stack: Stack, person: Annotator
) -> None:
    queries, arms = asked(stack), []
    person.open_stream()
    for _ in range(IMAGES):
        query = queries[person.task]
        assert person.task == served(stack)[0], "not the head of the queue"
        assert person.chosen == (() if query.arm in BLIND else query.prediction)
        words = person.page.locator(".lsf-text-area").inner_text() if person.chosen else ""
        assert (query.reason[:20] in words) == bool(person.chosen)
        arms.append(query.arm)
        if person.chosen != (truth(stack, person),):
            person.choice(truth(stack, person)).click()
        person.submit(truth(stack, person), by_button=True)
    assert {"holdout", "strategy"} <= set(arms), "one kind was never met"


def test_a_skip_an_update_and_a_deletion_are_what_label_studio_has_and_an_image_without_its_answer_is_next_again(
    stack: Stack, person: Annotator
) -> None:
    person.open_stream()
    skipped = person.task
    person.skip()
    first, right = person.task, truth(stack, person)
    assert served(stack)[:2] == [skipped, first]
    wrong = next(label for label in stack.schema.labels if label != right)
    person.submit(wrong, by_button=True)
    open_still = person.task
    person.back()
    assert person.task == first
    person.update(right)
    assert (answers(stack, skipped), answers(stack, first)) == ([None], [[right]])
    person.open_task(first)
    person.delete()
    assert answers(stack, first) == []
    assert served(stack)[:2] == [skipped, first]
    person.open_stream()
    assert person.task == open_still, "which Label Studio keeps for who had it open"
    person.submit(truth(stack, person), by_button=True)
    assert person.task == first


def table(person: Annotator, tab: int) -> tuple[list[str], list[dict[str, str]]]:
    """What a tab of the Data Manager shows: the heads of its columns, and its rows as far as they are drawn."""
    person.page.goto(f"{person.url}/projects/{person.project_id}/data?tab={tab}")
    person.page.wait_for_function("n => document.querySelectorAll('.lsf-table__row-wrapper').length >= n", arg=TOP)
    head, *rows = person.page.evaluate(CELLS)
    return head, [dict(zip(head, row, strict=True)) for row in rows]


def tab_of(stack: Stack, title: str) -> dict[str, Any]:
    return next(tab for tab in stack.client.tabs(stack.project_id) if tab["data"]["title"] == title)


def test_the_tabs_order_is_the_order_served_and_its_columns_can_be_read(stack: Stack, person: Annotator) -> None:
    for title in (queue.TAB, queue.EVERYTHING):
        head, rows = table(person, tab_of(stack, title)["id"])
        assert len(rows) >= TOP
        assert {"ID", "image", "filename"} <= {name.split("\n")[0] for name in head}
        assert not [cell for row in rows for cell in row.values() if set(cell) & set("[]{}")]
        if title == queue.TAB:
            assert [int(row["ID"]) for row in rows[:TOP]] == served(stack)[:TOP]


def test_setup_project_renews_the_columns_of_a_tab_that_nobody_changed_says_so_before_and_leaves_others(
    stack: Stack, client: LabelStudio, person: Annotator
) -> None:
    raw = ["tasks:inner_id", "tasks:annotations_results", "tasks:annotations_ids", "tasks:predictions_model_versions"]
    raw += [f"tasks:{name}" for name in ("file_upload", "storage_filename", "created_at", "updated_at", "updated_by")]
    raw += ["tasks:avg_lead_time", "tasks:draft_exists"]  # the first version of ours: raw JSON of predictions is shown
    old = {"hiddenColumns": {"explore": raw, "labeling": raw}, "columnsWidth": {}}
    ours, everything = tab_of(stack, queue.TAB), tab_of(stack, queue.EVERYTHING)
    client.update_tab(ours["id"], {**ours["data"], **old})
    client.update_tab(everything["id"], {**everything["data"], **old, "columnsWidth": {"tasks:id": 200}})
    project = client.get_project(stack.project_id)
    head, rows = table(person, ours["id"])
    assert any("{" in cell for row in rows for cell in row.values()), "an earlier version showed JSON"
    with DryRun(client.url, stack.settings.hosts()[client.url]) as dry:
        assert make_tabs(dry, project) == [f"set the columns of the tab {queue.TAB!r}"]
    assert tab_of(stack, queue.TAB)["data"]["hiddenColumns"] == old["hiddenColumns"]
    assert make_tabs(client, project) == [f"set the columns of the tab {queue.TAB!r}"]
    assert make_tabs(client, project) == []
    assert tab_of(stack, queue.TAB)["data"]["hiddenColumns"] == ours["data"]["hiddenColumns"]
    assert tab_of(stack, queue.EVERYTHING)["data"]["hiddenColumns"] == old["hiddenColumns"]
    head, rows = table(person, ours["id"])
    assert "Completed" not in head
    assert not any("{" in cell for row in rows for cell in row.values())
