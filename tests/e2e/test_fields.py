"""What the model thinks, as fields of the tasks of a real Label Studio: filtered, sorted, and taken away again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli
from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import annotation_result
from ml_backend.labelstudio.task_fields import TAB, FieldNames, TaskFields
from tests.e2e.helpers import FakeBackend
from tests.e2e.stack import Stack, inline, tell_commands

TASKS, LABELLED = 160, 110
NAMES = FieldNames.of("model_")


@pytest.fixture
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """A project with a model, and a few of its labels wrong."""
    tell_commands(monkeypatch, label_studio, tmp_path / "backend", ML_BACKEND_PORT=str(free_port()))
    with inline(label_studio, client, tmp_path, tasks=TASKS) as made:
        yield made


def rows(stack: Stack) -> dict[int, dict[str, Any]]:
    fields = TaskFields(stack.client, stack.project_id, NAMES)
    return {raw["id"]: raw["data"] for page in fields.tasks() for raw in page}


def shown(client: LabelStudio, tab: int) -> list[dict[str, Any]]:
    """What the Data Manager lists in this tab, in its order."""
    answer = client.transport.call("GET", "/api/tasks/", params={"view": tab, "page_size": 100, "fields": "task_only"})
    return list(answer["tasks"])


def columns(client: LabelStudio, number: int) -> set[str]:
    return set(client.transport.call("GET", f"/api/projects/{number}/summary/")["all_data_columns"])


def labelled(stack: Stack) -> list[int]:
    """Label most of the tasks, every twelfth wrongly; returns those."""
    names = {i: data["filename"] for i, data in rows(stack).items()}
    wrong = []
    for place, (task, name) in enumerate(list(names.items())[:LABELLED]):
        label = stack.truth[name]
        if place % 12 == 5:
            label = stack.schema.labels[(stack.schema.labels.index(label) + 3) % len(stack.schema.labels)]
            wrong.append(task)
        stack.client.create_annotation(task, annotation_result(stack.schema, [label]))
    return wrong


def test_the_tab_lists_what_the_model_doubts_and_everything_goes_away_again(
    stack: Stack, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    client, number = stack.client, stack.project_id

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert cli.main(["fields", *arguments, "--project", str(number), "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    mistakes = labelled(stack)
    stack.turn()
    client.create_webhook(number, url=f"{backend.url}/webhook", send_for_all_actions=True, send_payload=True)
    before, changed = rows(stack), {t.id: t.updated_at for t in client.tasks(number)}
    tabs, had = [tab["data"]["title"] for tab in client.tabs(number)], columns(client, number)

    planned = run("--dry-run")
    assert planned["changed"] > LABELLED * 0.9
    assert rows(stack) == before

    done = run()
    now = rows(stack)
    doubted = [i for i, data in now.items() if data.get(NAMES.status) == "wrong"]
    assert done["wrong"] == len(doubted)
    pool = stack.services.ledger.pool(stack.project)
    held_out = set(pool.ids[pool.holdout].tolist())
    assert len(set(mistakes) & set(doubted)) >= len(set(mistakes) - held_out) * 0.7, "most mistakes are found"
    assert {i: {k: v for k, v in data.items() if not k.startswith("model_")} for i, data in now.items()} == before
    for task in held_out:
        assert now[task] == before[task], "nothing is said of a held-out image"
    tab = next(tab for tab in client.tabs(number) if tab["data"]["title"] == TAB)
    listed = shown(client, tab["id"])
    assert {raw["id"] for raw in listed} == set(doubted)
    sure = [raw["data"][NAMES.confidence] for raw in listed]
    assert sure == sorted(sure, reverse=True)

    assert run()["changed"] == 0
    assert {t.id: t.updated_at for t in client.tasks(number)} == changed, "nothing is to be read again"
    versions = stack.services.versions.list(stack.project)
    stack.turn()
    assert stack.services.versions.list(stack.project) == versions, "nothing is to be learned from it"

    assert run("--remove")["removed"] == sum(NAMES.status in data for data in now.values())
    assert rows(stack) == before
    assert [list(data) for data in rows(stack).values()] == [list(data) for data in before.values()]
    assert [tab["data"]["title"] for tab in client.tabs(number)] == tabs
    assert columns(client, number) == had
    assert all(raw["is_labeled"] for page in TaskFields(client, number, NAMES).tasks() for raw in page[:LABELLED])
    stack.turn()
    assert stack.services.versions.list(stack.project) == versions
    client.create_annotation(max(before), annotation_result(stack.schema, ["1"]))
    backend.wait_for("ANNOTATION_CREATED")
    assert {event["action"] for event in backend.events} <= {"ANNOTATION_CREATED", "PROJECT_UPDATED"}


@pytest.fixture(params=["label_studio", "postgresql_label_studio"])
def fields(request: pytest.FixtureRequest) -> Iterator[Callable[[int], tuple[TaskFields, list[int]]]]:
    server: EmbeddedLabelStudio = request.getfixturevalue(request.param)
    with LabelStudio(server.url, server.token) as client:

        def make(count: int) -> tuple[TaskFields, list[int]]:
            number = int(client.create_project("fields", label_config(("cat", "dog")))["id"])
            client.import_tasks(number, [{"image": f"/{i}.png", "rest": {"a": [1, None, "ü"]}} for i in range(count)])
            made = TaskFields(client, number, NAMES)
            return made, [raw["id"] for page in made.tasks() for raw in page]

        yield make


def test_nine_is_less_than_eighty_five_in_the_tab(
    fields: Callable[[int], tuple[TaskFields, list[int]]],
) -> None:
    made, (one, two, three, four, *_) = fields(6)
    for task, sure in ((one, 9), (two, 85), (three, 100), (four, 20)):
        made.put(NAMES.confidence, sure, [task])
    made.put(NAMES.status, "wrong", [one, two, three])
    made.put(NAMES.guess, "ü 'cat\" \\ [x]", [one, two])
    assert made.show_tab()
    tab = made.client.tabs(made.project_id)[0]
    assert [raw["id"] for raw in shown(made.client, tab["id"])] == [three, two, one]
    data = {raw["id"]: raw["data"] for page in made.tasks() for raw in page}
    assert data[one]["model_guess"] == "ü 'cat\" \\ [x]"
    assert data[one]["model_confidence"] == 9
    assert data[three]["rest"] == {"a": [1, None, "ü"]}


def test_an_answer_keeps_its_counts_while_the_fields_go_and_the_columns_are_forgotten(
    fields: Callable[[int], tuple[TaskFields, list[int]]],
) -> None:
    made, ids = fields(8)
    schema = made.client.schema(made.project_id)
    for task in ids[:4]:
        made.client.create_annotation(task, annotation_result(schema, ["cat"]))
    for value in ("cat", "dog", "cat", "dog", "cat", "dog", "cat", "dog", "cat", "dog", "cat", "dog"):
        made.put(NAMES.guess, value, ids)
    # What Label Studio comes to where an answer is submitted between its reading and its writing of the task.
    stale = {"total_annotations": 0, "is_labeled": False}
    made.client.transport.call("PATCH", f"/api/tasks/{ids[0]}/", json=stale)
    made.client.transport.call("PATCH", f"/api/tasks/{ids[1]}/", json=stale)
    made.take_away(ids[1:])
    made.mend_all()
    listed = made.client.listed(made.project_id, ids[:5], "id,total_annotations,is_labeled,data")
    assert {raw["id"]: (raw["total_annotations"], raw["is_labeled"]) for raw in listed} == {
        **dict.fromkeys(ids[:4], (1, True)),
        ids[4]: (0, False),
    }
    made.take_away(ids[:1])
    made.uncount(ids)
    assert columns(made.client, made.project_id) == {"image", "rest"}
    assert all(raw["data"].keys() == {"image", "rest"} for page in made.tasks() for raw in page)
