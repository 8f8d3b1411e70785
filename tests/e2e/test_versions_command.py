"""Going back to a former version on a real Label Studio: the queue follows, and a pinned version stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e.stack import Stack, inline, tell_commands

pytestmark = pytest.mark.e2e


@pytest.fixture
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, tasks=80) as opened:
        tell_commands(monkeypatch, label_studio, opened.settings.data_dir)
        yield opened


def ask(capsys: pytest.CaptureFixture[str], stack: Stack, *arguments: str) -> Any:
    capsys.readouterr()
    code = cli.main([*arguments, "--project", str(stack.project_id), "--json"])
    said = capsys.readouterr().out
    assert code == 0, said
    return json.loads(said)


def test_a_former_version_is_served_with_its_queue_until_another_is_chosen(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.turn()
    for _ in range(3):
        for _ in range(16):
            stack.label_next()
        ask(capsys, stack, "sync", "run")
    newest, *_, oldest = ask(capsys, stack, "versions", "list")["versions"]
    assert newest["served"]
    assert newest["holdout"]["n"] > 0

    compared = ask(capsys, stack, "versions", "compare", oldest["name"], newest["name"])
    assert compared["comparable"], compared
    assert compared["measured_together"][0]["n"] == compared["measured_together"][1]["n"] == newest["holdout"]["n"]

    assert ask(capsys, stack, "versions", "promote", oldest["name"])["before"] == newest["name"]
    assert ask(capsys, stack, "sync", "run")["served"].startswith(f"{oldest['name']}-r")
    served = stack.client.get_project(stack.project_id)["model_version"]
    assert served.startswith(f"{oldest['name']}-r")

    ask(capsys, stack, "versions", "pin", oldest["name"])
    for _ in range(12):
        stack.label_next()
    assert ask(capsys, stack, "sync", "run")["served"].startswith(f"{oldest['name']}-r")
    listed = ask(capsys, stack, "versions", "list")["versions"]
    assert len(listed) == 1 + int(newest["name"].removeprefix("v")), "training went on"
    assert [v["name"] for v in listed if v["pinned"]] == [oldest["name"]]
    unpinned = ask(capsys, stack, "versions", "unpin")
    good = next(v["name"] for v in listed if v["state"] in {"passed", "promoted"})
    assert (unpinned["was_pinned"], unpinned["version"]) == (True, good)
    assert ask(capsys, stack, "sync", "run")["served"].startswith(f"{good}-r")
