"""Commands from another folder, beside a service: with the same store they work; with another one they change nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli, store_identity
from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.ownership import Owner, owner_of
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.worker.loop import Worker
from tests.e2e.helpers import write_pngs
from tests.e2e.stack import Stack, running, wait_until

COMMANDS = (
    "sync status", "sync query", "sync prioritize", "sync prioritize --dry-run", "sync run", "sync watch", "sync export", "export labels",
    "export rounds", "export model", "export dataset --out set", "doctor", "import-images pictures",
    "import-labels labels.csv", "import-model v1", "setup-project", "setup-project --check", "setup-project --remove",
    "versions list", "setup-project --dry-run", "simulate project --labels 20 --seeds 1 --quiet", "serve --only worker",
    "relabel 0 zero",
)  # fmt: skip
ASKING_LABEL_STUDIO = (
    "sync query", "sync prioritize", "sync run", "export labels", "export rounds", "export model", "export dataset --out set",
    "import-model v1", "setup-project --no-backend", "setup-project --remove", "sync status",
    "relabel 0 zero",
)  # fmt: skip


@pytest.fixture(scope="module")
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A service with the default data folder, some labels, and a queue."""
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "share"))
        with running(
            label_studio,
            client,
            folder,
            tasks=50,
            ML_BACKEND_POLL_SECONDS="3",
            ML_BACKEND_DATA_DIR="",
            ML_BACKEND_HOLDOUT_FIRST="5",
        ) as stack:
            first = stack.round_after(0)
            for _ in range(10):
                stack.label_next()
            stack.round_after(first.number)
            wait_until(lambda: has_learned_from(stack, 10), "turn with all labels")
            yield stack


def has_learned_from(stack: Stack, labels: int) -> bool:
    """Whether the turn that read so many is over, and none is to come: a poll may have come before the last of them."""
    read = stack.services.ledger.counts(stack.project).labelled
    status = stack.services.jobs.status(stack.project)
    return read == labels and status.running is None and status.due is None


@pytest.fixture
def elsewhere(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with things to import, and the environment of somebody who works there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_identity, "ANSWER_SECONDS", (60.0, 60.0))  # however busy this machine is
    write_pngs(tmp_path / "pictures", 2)
    (tmp_path / "labels.csv").write_text("filename,label\ndigit-0040.png,3\n")
    monkeypatch.setenv("LABEL_STUDIO_URL", stack.client.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", stack.settings.label_studio_api_key)
    monkeypatch.setenv("ML_BACKEND_PORT", str(stack.settings.port))
    monkeypatch.setenv("XDG_DATA_HOME", str(stack.settings.data_dir.parent))
    return tmp_path


def ours(stack: Stack, command: str) -> list[str]:
    """The command, about the project of the test."""
    return [*command.split(), *([] if command.startswith("serve") else ["--project", str(stack.project_id)])]


def all_of(stack: Stack) -> dict[str, Any]:
    """What a command could change of the project in Label Studio."""
    number, client = stack.project_id, stack.client
    return {
        "project": client.get_project(number),
        "tasks": [
            (raw["id"], raw["data"], raw["annotations"], [(p["id"], p["score"]) for p in raw["predictions"]])
            for raw in client.listing(number, "id,data,annotations,predictions", {}, fields="all")["tasks"]
        ],
        "versions": client.model_versions(number),
        "webhooks": client.webhooks(number),
        "tabs": client.tabs(number),
        "backends": [(backend["id"], backend["url"]) for backend in client.backends(number)],
    }


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_with_another_store_than_the_service_that_runs_a_command_does_nothing_and_says_why(
    stack: Stack, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", "ml-backend-data")
    before, there = all_of(stack), files(elsewhere)
    assert cli.main(ours(stack, command)) == 1
    said = capsys.readouterr()
    assert f"http://localhost:{stack.settings.port}" in said.err
    assert str(elsewhere / "ml-backend-data") in said.err
    assert "ML_BACKEND_DATA_DIR" in said.err
    assert said.out == ""
    assert all_of(stack) == before
    assert files(elsewhere) == there


def test_with_the_default_store_commands_work_from_any_folder(
    stack: Stack, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ML_BACKEND_URL", stack.settings.url)

    def asked(command: str) -> Any:
        capsys.readouterr()
        assert cli.main([*ours(stack, command), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    status = asked("sync status")
    assert status["counts"]["labelled"] == 10
    assert status["store"] == {
        "id": stack.services.database.store_id, "data_dir": str(stack.settings.data_dir), "database": None
    }  # fmt: skip
    assert asked("doctor")["ok"]
    assert asked("sync run")["labelled"] == 10
    asked("export labels")
    with (elsewhere / "labels.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10


@pytest.fixture
def another(stack: Stack, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Another store, and no service that could be asked."""
    monkeypatch.setenv("ML_BACKEND_PORT", str(free_port()))
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", "another")
    settings = Settings.from_environ(
        {
            "LABEL_STUDIO_URL": stack.client.url,
            "LABEL_STUDIO_API_KEY": stack.settings.label_studio_api_key,
            "ML_BACKEND_DATA_DIR": "another",
        }
    )
    services = Services.open(settings)
    yield services
    services.database.close()


@pytest.mark.parametrize("command", ASKING_LABEL_STUDIO)
def test_a_project_of_another_store_is_left_alone_without_a_service_too(
    stack: Stack, another: Services, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = all_of(stack)
    assert cli.main(ours(stack, command)) == 1
    said = capsys.readouterr()
    assert f"setup-project --project {stack.project_id} --take-over" in said.err
    assert stack.services.database.store_id[:8] in said.err
    assert all_of(stack) == before
    assert another.ledger.projects() == []


def test_a_worker_of_another_store_changes_nothing_and_says_so_in_its_status(stack: Stack, another: Services) -> None:
    config = stack.client.get_project(stack.project_id)["label_config"]
    another.registry.register(stack.client.url, stack.project_id, config, created=None)
    before = all_of(stack)
    assert Worker(another).work()
    (project,) = another.ledger.projects()
    assert "--take-over" in another.status.of(project)["problems"][0]
    assert all_of(stack) == before


def test_a_mark_that_a_new_label_config_drops_is_put_back_and_meanwhile_nobody_else_has_the_project(
    stack: Stack, another: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    def mark() -> Owner | None:
        return owner_of(stack.client.get_project(stack.project_id))

    before = mark()
    stack.client.update_project(stack.project_id, control_weights={})
    assert cli.main(ours(stack, "sync run")) == 1
    refusal = capsys.readouterr().err  # one or the other: the service may have put the mark back already
    assert (
        "which another store pushed" in refusal or f"another store ({stack.services.database.store_id[:8]}" in refusal
    )
    config = stack.client.get_project(stack.project_id)["label_config"]
    stack.client.update_project(stack.project_id, label_config=f"{config}\n")
    assert wait_until(mark, "mark") == before


def test_a_project_is_taken_over_deliberately_and_its_former_store_then_stands_back(
    stack: Stack, another: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*ours(stack, "setup-project"), "--no-backend", "--take-over"]) == 0
    owner = owner_of(stack.client.get_project(stack.project_id))
    assert owner is not None
    assert owner.store == another.database.store_id
    capsys.readouterr()
    assert cli.main([*ours(stack, "sync run"), "--json"]) == 0
    served = stack.client.get_project(stack.project_id)["model_version"]
    assert served == json.loads(capsys.readouterr().out)["served"]

    stack.label_next()
    stack.services.jobs.mark_due(stack.project, immediately=True, reason="the former store's next turn")
    wait_until(lambda: stack.project.state.another_store, "refusal")
    assert stack.client.get_project(stack.project_id)["model_version"] == served

    monkeypatch.setenv("ML_BACKEND_PORT", str(stack.settings.port))
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", "")
    assert cli.main([*ours(stack, "setup-project"), "--take-over"]) == 0
    assert cli.main(ours(stack, "sync run")) == 0
    assert stack.project.state.another_store is None
