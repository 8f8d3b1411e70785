"""A dry run beside the real thing, on a real Label Studio: it says what then happens, and changes nothing before."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli
from ml_backend.demo.digits import CLASSES
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.results import annotation_result
from ml_backend.settings import Settings
from tests.e2e.stack import Stack, inline, of_service, service, tell_commands

pytestmark = pytest.mark.e2e


@pytest.fixture
def environment(label_studio: EmbeddedLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return tell_commands(monkeypatch, label_studio, tmp_path / "backend", **of_service())


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    code = cli.main([*map(str, arguments), "--json"])
    said = capsys.readouterr().out
    assert code == 0, said
    return json.loads(said)


def everything(client: LabelStudio, project: int, folder: Path) -> tuple[Any, ...]:
    """What a command could change: in Label Studio, in the store, in files."""
    rows = client.listing(project, "id,annotations,predictions", {}, fields="all")["tasks"]
    kept = [(r["id"], r["annotations"], [(p["id"], p["score"]) for p in r["predictions"]]) for r in rows]
    hooks = [(h["id"], h["url"], h["is_active"], h["actions"]) for h in client.webhooks(project)]
    backends = [(b["id"], b["url"], b["title"]) for b in client.backends(project)]
    about = client.get_project(project)
    dump = []
    if (folder / "backend" / "state.sqlite3").exists():
        with sqlite3.connect(folder / "backend" / "state.sqlite3") as database:
            dump = list(database.iterdump())
    files = sorted(str(p) for p in folder.rglob("*") if p.is_file() and "state.sqlite3" not in p.name)
    return kept, hooks, backends, about["model_version"], about["sampling"], client.tabs(project), dump, files


def label(stack: Stack, count: int) -> None:
    for task in list(stack.client.tasks(stack.project_id))[:count]:
        name = stack.truth[task.data["filename"]]
        stack.client.create_annotation(task.id, annotation_result(stack.schema, [name]))


def test_a_turn_is_foretold_as_it_then_is(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    environment: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with inline(label_studio, client, tmp_path, tasks=60) as stack:
        wanted = ("--project", stack.project_id)
        label(stack, 12)
        before = everything(client, stack.project_id, tmp_path)
        plan = ask(capsys, "sync", "run", *wanted, "--dry-run")
        assert (plan["tasks"], plan["labels"], plan["images"], plan["version"], plan["queue"]) == (60, 12, 60, 1, None)
        assert everything(client, stack.project_id, tmp_path) == before
        done = ask(capsys, "sync", "run", *wanted)
        assert (done["labelled"], done["version"], done["new_queue"]) == (12, 1, True)

        before = everything(client, stack.project_id, tmp_path)
        plan = ask(capsys, "sync", "run", *wanted, "--dry-run")
        assert (plan["labels"], plan["images"], plan["version"], plan["queue"]) == (0, 0, None, done["served"])
        ask(capsys, "sync", "prioritize", "--strategy", "random", *wanted, "--dry-run")
        ask(capsys, "sync", "watch", *wanted, "--dry-run")
        ask(capsys, "sync", "query", "--out", "batch.csv", *wanted, "--dry-run")
        ask(capsys, "export", "labels", *wanted, "--dry-run")
        ask(capsys, "versions", "pin", "v1", *wanted, "--dry-run")
        ask(capsys, "export", "model", *wanted, "--format", "bundle", "--out", tmp_path / "model")
        files = everything(client, stack.project_id, tmp_path)[:-1]
        assert ask(capsys, "import-model", tmp_path / "model", *wanted, "--dry-run")["version"] == "v2"
        assert everything(client, stack.project_id, tmp_path)[:-1] == files == before[:-1]


def test_a_connection_is_foretold_as_it_then_is_made(
    client: LabelStudio, environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ("setup-project", "--title", "Foretold", "--labels", ",".join(CLASSES))
    assert ask(capsys, *made, "--dry-run")["project"] is None
    assert [p for p in client.projects() if p["title"] == "Foretold"] == []
    project = int(ask(capsys, *made, "--no-backend")["project"])
    setup = ("setup-project", "--project", project)
    with service(environment, Settings.from_environ(environment)):
        before = everything(client, project, tmp_path)[:-2]
        told = ask(capsys, *setup, "--dry-run")
        assert len(told["changed"]) >= 4
        assert everything(client, project, tmp_path)[:-2] == before
        assert ask(capsys, *setup)["changed"] == told["changed"]
        assert ask(capsys, *setup, "--dry-run")["changed"] == []
        assert client.webhooks(project) != []
        would = ask(capsys, *setup, "--remove", "--dry-run")["removed"]
        assert ask(capsys, *setup, "--remove")["removed"] == would != []


def test_a_choice_among_several_is_foretold_to_be_right(
    client: LabelStudio, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    choices = "".join(
        f'<Choices name="{name}" toName="i"><Choice value="a"/><Choice value="b"/></Choices>' for name in ("one", "two")
    )
    config = f'<View><Image name="i" value="$image"/>{choices}</View>'
    project = int(client.create_project("Two questions", config)["id"])
    told = ask(capsys, "setup-project", "--project", project, "--choices", "two", "--dry-run")
    assert [finding for finding in told["findings"] if not finding["ok"]] == []
    assert client.backends(project) == []
