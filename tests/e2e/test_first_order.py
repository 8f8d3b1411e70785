"""From connecting to the model's own queue, as a person sees it in Label Studio: there is always something to label."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend import cycle
from ml_backend.commands.first_queue import make_tabs
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.labelstudio.queue import EVERYTHING, TAB
from ml_backend.steps import sync_labels
from ml_backend.steps.encode_images import CorpusBuilder
from tests.e2e import acts
from tests.e2e.stack import Stack, inline

TASKS = 60


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, tasks=TASKS) as stack:
        yield stack


def titles(stack: Stack) -> list[str]:
    return [tab["data"]["title"] for tab in stack.client.tabs(stack.project_id)]


def shown(stack: Stack, title: str) -> list[int]:
    """Ids of the tasks that Label Studio lists under a tab."""
    (tab,) = (tab for tab in stack.client.tabs(stack.project_id) if tab["data"]["title"] == title)
    answer = stack.client.transport.call("GET", "/api/tasks/", params={"view": tab["id"], "page_size": 100})
    return [task["id"] for task in answer["tasks"]]


def while_encoding(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    """Do something once, before the first image is read."""
    really = CorpusBuilder.encode_missing

    def encode(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(CorpusBuilder, "encode_missing", really)
        do()
        return really(*given, **more)

    monkeypatch.setattr(CorpusBuilder, "encode_missing", encode)


def test_the_queue_tab_is_never_empty_between_connecting_and_the_models_own_queue(stack: Stack) -> None:
    make_tabs(stack.client, stack.client.get_project(stack.project_id))
    looks = [shown(stack, TAB)]
    turn = threading.Thread(target=stack.turn)
    turn.start()
    while turn.is_alive():
        looks.append(shown(stack, TAB))
    turn.join()
    looks.append(shown(stack, TAB))
    assert all(looks)
    queue = stack.ranking(stack.services.ledger.rounds(stack.project)[0])
    assert looks[-1][: len(queue)] == queue, "and what is in reserve after it"


def test_tasks_are_served_in_the_first_order_while_the_images_are_read_and_the_tab_outlasts_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[int] = []
    left: list[int] = []

    def label() -> None:
        served.extend(stack.label_next() for _ in range(25))
        left.extend(shown(stack, TAB))

    while_encoding(monkeypatch, label)
    monkeypatch.setattr(cycle, "LONG", 0.0)
    round_ = stack.turn()
    first = stack.services.ledger.round(stack.project, 0)
    assert served[:20] == stack.ranking(first)
    assert sorted(served[:20]) != served[:20], "in random order"
    assert len(left) == TASKS - 25
    assert round_.number == 1
    assert round_.version == 1, "what was labelled meanwhile is trained on"
    assert not set(stack.ranking(round_)) & set(served), "and not asked for again"


def test_a_tab_of_all_tasks_is_made_once_and_a_person_may_remove_it(stack: Stack) -> None:
    stack.turn()
    assert titles(stack) == [TAB, EVERYTHING]
    assert len(shown(stack, EVERYTHING)) == TASKS
    (tab,) = (tab for tab in stack.client.tabs(stack.project_id) if tab["data"]["title"] == EVERYTHING)
    acts.delete_tab(stack.client, tab["id"])
    for _ in range(12):
        stack.label_next()
    assert stack.turn().number == 2
    assert titles(stack) == [TAB]


def test_label_studios_own_tab_without_filters_is_one_of_all_tasks(stack: Stack) -> None:
    stack.client.create_tab(stack.project_id, {"title": "Default"})
    stack.turn()
    assert titles(stack) == ["Default", TAB]


def test_what_was_read_just_now_is_not_listed_again_but_what_came_in_late_is_found(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_labels, "PAGE", 10)
    services, listed = stack.services, [0]
    client = services.hosts.client(stack.project.key.host)
    really = client.listing

    def listing(*given: Any, **more: Any) -> dict[str, Any]:
        answer = really(*given, **more)
        listed[0] += len(answer["tasks"])
        return answer

    monkeypatch.setattr(client, "listing", listing)
    services.label_sync.sync(stack.project, full=True)
    moment = client.clock() + timedelta(seconds=1)
    services.ledger.reconcile(stack.project, [], full=False, now=moment)  # as if the import had ended a second before
    listed[0] = 0
    services.label_sync.sync(stack.project, full=False)
    assert listed[0] <= 1, "a count alone"
    services.ledger.reconcile(stack.project, [], full=False, now=moment)
    stack.client.import_tasks(stack.project_id, [{"image": "/data/local-files/?d=samples/digits/late.png"}])
    services.ledger.reconcile(stack.project, [], full=False, now=client.clock() + timedelta(seconds=2))
    services.label_sync.sync(stack.project, full=False)
    assert services.ledger.counts(stack.project).tasks == TASKS + 1


def test_with_a_text_side_the_first_queue_has_guesses_and_none_of_them_is_ticked(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    with inline(label_studio, client, tmp_path, tasks=TASKS, encoder="tests.named_pixels:Pixels") as stack:
        round_ = stack.turn()
        assert round_.served_name == "v1-r1"
        asked = stack.services.ledger.queries(round_)
        truth = {
            task.id: stack.truth[task.data["filename"]] for task in client.tasks(stack.project_id, schema=stack.schema)
        }
        guessed = [query for query in asked if query.arm == "strategy"]
        assert np.mean([query.prediction == (truth[query.task_id],) for query in guessed]) > 0.1 + 0.3
        assert {query.prediction for query in asked if query.arm == "holdout"} == {()}
        told = next_task(client, stack.project_id)
        assert told is not None
        assert not [part for each in told["predictions"] for part in each["result"] if part["type"] == "choices"]
        for _ in range(8):
            stack.label_next()
        stack.turn()
        modes = [version.meta.mode for version in stack.services.versions.list(stack.project)]
        assert modes == ["head", "names"]
