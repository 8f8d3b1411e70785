"""Commands that need no Label Studio: what the store knows, as status, rounds, labels and a data set."""

import base64
import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ml_backend import cli, diagnostics
from ml_backend.commands import options
from ml_backend.records import Annotation, Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.web.app import create_app
from ml_backend.worker import foreground
from ml_backend.worker.downloading import Download
from tests.slices import held_out

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOST = "http://127.0.0.1:9"
LABELS = ("cat", "dog/wolf")


def config(choice: str = "single") -> str:
    choices = "".join(f'<Choice value="{label}"/>' for label in LABELS)
    return f'<View><Image name="i" value="$image"/><Choices name="c" toName="i" choice="{choice}">{choices}</Choices></View>'


def picture(shade: int) -> str:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setenv("LABEL_STUDIO_URL", HOST)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k" * 40)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    opened = Services.open(Settings(data_dir=tmp_path / "data", label_studio_url=HOST, label_studio_api_key="k" * 40))
    yield opened
    opened.database.close()


def known(services: Services, project: Project, labels: dict[int, str], *, broken: int | None = None) -> None:
    """Five tasks; two of them have the same filename."""
    rows = []
    for i in range(1, 6):
        image = "data:broken" if i == broken else picture(i)
        task = Task(i, image, {"image": image, "filename": "same.png" if i < 3 else f"{i}.png"}, NOW)
        answers = [Annotation(i, i, (labels[i],), False, False, 1, NOW, NOW)] if i in labels else []
        rows.append((task, answers))
    services.ledger.reconcile(project, rows, full=True)


@pytest.fixture
def project(services: Services) -> Project:
    project = services.registry.register(HOST, 1, config(), created=1)
    known(services, project, {1: "cat", 2: "cat", 3: "dog/wolf"})
    queries = [Query(4, 0, "strategy", 0.5, "why not", 0.7, ("cat",)), Query(5, 1, "holdout", 0.0, "held out")]
    services.ledger.open_round(project, version=0, strategy="margin", seed=3, queries=queries)
    return project


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("project")
def test_status_is_told_without_label_studio(capsys: pytest.CaptureFixture[str]) -> None:
    status = asked(capsys, "sync", "status")
    assert (status["counts"]["labelled"], status["queue"]["strategy"]) == (3, "margin")
    assert cli.main(["sync", "status"]) == 0
    said = capsys.readouterr().out
    assert "labelled   3 of 5" in said
    assert "accuracy   not measured yet" in said


def test_a_queue_whose_tasks_are_all_skipped_is_told_to_be_used_up(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (round_,) = services.ledger.rounds(project)
    services.ledger.mark_verified(services.ledger.mark_pushed(round_))
    status = asked(capsys, "sync", "status")
    assert (status["queue"]["state"], status["queue"]["waiting"], status["counts"]["waiting"]) == ("verified", 2, 2)
    skip = [Annotation(90 + i, i, (), True, False, 1, NOW, NOW) for i in (4, 5)]
    tasks = {task.id: task for task in services.ledger.tasks(project)}
    services.ledger.reconcile(project, [(tasks[answer.task_id], [answer]) for answer in skip], full=False)
    assert asked(capsys, "sync", "status")["queue"]["state"] == "used_up"
    assert cli.main(["sync", "status"]) == 0
    said = capsys.readouterr().out
    assert "no tasks are left" in said
    assert "verified" not in said


def test_labels_accepted_of_the_model_are_told_apart_and_exported_only_where_they_are_asked_for(
    services: Services, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "accepted " not in cli_says(capsys, "sync", "status")
    tasks = list(services.ledger.tasks(project, [4, 5]))
    accepted = [(t, [Annotation(t.id, t.id, ("cat",), False, False, 9, NOW, NOW, accepted="c1")]) for t in tasks]
    services.ledger.reconcile(project, accepted, full=False)
    said = cli_says(capsys, "sync", "status")
    assert "labelled   3 of 5" in said
    assert "accepted   2 tasks" in said
    report = asked(capsys, "export", "labels", "--offline", "--out", "labels.csv")
    assert (report["rows"], report["accepted"], "origin" in read(tmp_path / "labels.csv")[0]) == (3, 0, False)
    report = asked(capsys, "export", "labels", "--offline", "--include", "accepted", "--minimal", "--out", "labels.csv")
    assert (report["rows"], report["labelled"], report["accepted"]) == (5, 3, 2)
    told = read(tmp_path / "labels.csv")
    assert list(told[0]) == ["filename", "label", "origin", "certificate"]
    assert [row["certificate"] for row in told] == ["", "", "", "c1", "c1"]
    dataset = asked(capsys, "export", "dataset", "--offline", "--include", "accepted", "--out", "set", "--dry-run")
    assert dataset["images"] == 5
    assert asked(capsys, "export", "dataset", "--offline", "--include", "accepted", "--out", "set")["images"] == 5
    assert asked(capsys, "export", "dataset", "--offline", "--out", "set")["images"] == 3


def cli_says(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_status_tells_how_many_labels_go_to_measuring(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (task,) = services.ledger.tasks(project, [5])
    project = held_out(services.ledger, project, 5)
    later = datetime.now(UTC)
    answer = Annotation(5, 5, ("cat",), False, False, 1, later, later)
    services.ledger.reconcile(project, [(task, [answer])], full=False)
    assert cli.main(["sync", "status"]) == 0
    said = capsys.readouterr().out
    assert "labelled   4 of 5, 1 of them held out to measure the accuracy" in said
    assert "1 of 2 tasks to go, 0 of them held out to measure the accuracy" in said


@pytest.mark.parametrize("arguments", [["sync", "status"], ["versions", "list"], ["doctor"]], ids=" ".join)
def test_looking_at_a_project_does_not_make_it_known(
    services: Services, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    found = {"id": 7, "title": "Birds", "label_config": config(), "created_at": "2026-01-01T00:00:00Z"}
    monkeypatch.setattr(options, "remote_project", lambda *_: found)
    monkeypatch.setattr(diagnostics, "_label_studio", lambda *_: iter(()))
    assert cli.main([*arguments, "--project", "7", "--json"]) == 1
    assert "Project 7 (Birds) is not connected to this service yet" in capsys.readouterr().out
    assert services.ledger.projects() == []


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_status_does_not_wait_for_torch() -> None:
    code = "import sys; from ml_backend import cli; cli.main(['sync', 'status']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.usefixtures("project")
def test_labels_are_exported_offline_and_with_label_studio_away_with_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(capsys, "export", "labels", "--offline")["rows"] == 3
    assert [row["label"] for row in read(tmp_path / "labels.csv")] == ["cat", "cat", "dog/wolf"]
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert cli.main(["export", "labels", "--out", "away.csv"]) == 0
    assert "as of" in capsys.readouterr().err
    assert (tmp_path / "away.csv").read_bytes() == (tmp_path / "labels.csv").read_bytes()


def test_a_project_s_settings_are_changed_reset_and_paused_from_the_command_line(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = asked(capsys, "settings", "set", "--strategy", "margin", "--dry-run")
    assert (dry["strategy"], dry["before"]["strategy"], dry["dry_run"]) == ("margin", "auto", True)
    assert services.ledger.project(project.key).state == project.state
    assert cli.main(["settings", "set", "--strategy", "nonsense", "--batch-size", "1000000000"]) == 1
    assert "batch_size must be less than or equal to 100000." in capsys.readouterr().err
    assert asked(capsys, "settings", "set", "--batch-size", "7")["chosen"] == ["batch_size"]
    assert asked(capsys, "settings", "pause")["paused"]
    assert cli.main(["sync", "status"]) == 0
    said = capsys.readouterr().out
    assert "settings   batch size 7 (the service's: 20)" in said
    assert "FIX        Paused since" in said
    assert cli.main(["settings", "reset", "batch-size"]) == 0
    assert "Batch size: 20 instead of 7." in capsys.readouterr().out
    assert cli.main(["settings", "resume"]) == 0
    assert services.ledger.project(project.key).state == project.state
    assert not asked(capsys, "settings", "list")["paused"]


@pytest.mark.parametrize("name", ["labels", "rounds", "predictions"])
def test_what_the_page_hands_out_is_what_the_command_writes(
    services: Services,
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Byte by byte, with the same warnings; here with Label Studio away."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert cli.main(["export", name, "--out", "theirs.csv"]) == 0
    said = capsys.readouterr().err
    download = Download(services.ledger.project(project.key), services, tmp_path / "ours")
    path = download.make(f"{name}.csv")  # type: ignore[arg-type]
    assert path.name == f"{name}.csv"
    assert path.read_bytes() == (tmp_path / "theirs.csv").read_bytes()
    assert [line for line in said.splitlines() if line.startswith("Warning: ")] == [
        f"Warning: {warning}" for warning in download.warnings
    ]


def test_a_data_set_is_handed_out_as_one_file_with_what_the_command_writes(
    services: Services, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert cli.main(["export", "dataset", "--out", "dataset", "--offline"]) == 0
    path = Download(services.ledger.project(project.key), services, tmp_path / "ours").make("dataset.zip")
    with zipfile.ZipFile(path) as packed:
        ours = {info.filename: packed.read(info) for info in packed.infolist()}
    assert ours == {
        f"dataset/{name}": (tmp_path / "dataset" / name).read_bytes() for name in files(tmp_path / "dataset")
    }
    assert files(tmp_path / "ours") == ["dataset.zip"]


@pytest.mark.usefixtures("project")
def test_strict_writes_nothing_where_there_is_a_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["export", "labels", "--offline", "--strict"]) == 1
    assert "2 rows with a filename that another row has too" in capsys.readouterr().err
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.usefixtures("project")
def test_strict_says_nothing_on_standard_output_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "labels", "--offline", "--strict", "--out", "-"]) == 1
    assert capsys.readouterr().out == ""


def test_strict_is_content_with_a_queue_that_waits_for_labels(
    services: Services, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    project = services.registry.register(HOST, 1, config(), created=1)
    known(services, project, {1: "cat", 3: "dog/wolf"})
    queries = [Query(4, 0, "strategy", 0.5, ""), Query(5, 1, "strategy", 0.4, "")]
    services.ledger.open_round(project, version=0, strategy="margin", seed=3, queries=queries)
    assert cli.main(["export", "labels", "--offline", "--strict"]) == 0
    said = capsys.readouterr()
    assert said.out == (
        "2 rows written to labels.csv. 2 tasks chosen but not labelled yet; use --include-unlabelled to include them.\n"
    )
    assert "Warning" not in said.err
    assert len(read(tmp_path / "labels.csv")) == 2


@pytest.mark.usefixtures("project")
def test_standard_output_holds_the_table_and_nothing_else(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["export", "labels", "--offline", "--minimal", "--out", "-"]) == 0
    assert capfdbinary.readouterr().out == b"filename,label\r\nsame.png,cat\r\nsame.png,cat\r\n3.png,dog/wolf\r\n"


def contents(services: Services, folder: Path) -> tuple[str, dict[str, bytes]]:
    """Everything in the store, and every file beside it."""
    with sqlite3.connect(services.settings.data_dir / "state.sqlite3") as database:
        dump = "\n".join(database.iterdump())
    return dump, {name: (folder / name).read_bytes() for name in files(folder) if "state.sqlite3" not in name}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "labels", "--offline"],
        ["export", "labels", "--offline", "--out", "-"],
        ["export", "predictions", "--offline"],
        ["sync", "export", "--offline"],
        ["export", "rounds", "--offline", "--queries"],
        ["export", "dataset", "--offline", "--out", "set"],
        ["export", "model", "--version", "v1"],
        ["simulate", "digits", "--out", "replay"],
    ],
    ids=" ".join,
)
def test_a_dry_run_says_what_it_would_write_and_writes_nothing(
    services: Services, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    services.versions.publish(project, 1, lambda folder: (folder / "weights").touch())
    before = contents(services, tmp_path)
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert re.search(r"(?i)would (be|write)", capsys.readouterr().out)
    assert contents(services, tmp_path) == before


def test_a_dry_run_of_a_store_that_is_not_there_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", HOST)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k" * 40)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert cli.main(["sync", "run", "--dry-run", "--json"]) == 1
    assert "cannot be reached" in json.loads(capsys.readouterr().out)["error"]
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("project")
def test_rounds_are_a_row_each_or_a_row_a_query(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked(capsys, "export", "rounds", "--offline")
    (row,) = read(tmp_path / "rounds.csv")
    assert (row["strategy"], row["seed"], row["queries"], row["held_out"]) == ("margin", "3", "2", "1")
    asked(capsys, "export", "rounds", "--offline", "--queries", "--out", "queries.jsonl")
    queries = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [(q["rank"], q["filename"], q["arm"]) for q in queries] == [
        (0, "4.png", "strategy"),
        (1, "5.png", "holdout"),
    ]


@pytest.mark.usefixtures("project")
def test_a_data_set_has_a_folder_a_label_and_a_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = asked(capsys, "export", "dataset", "--offline", "--out", "set")
    assert (report["images"], report["copied"]) == (3, 3)
    assert files(tmp_path / "set") == [
        ".dataset.json",
        "cat/same-2.png",
        "cat/same.png",
        "dog_wolf/3.png",
        "labels.csv",
    ]
    assert [row["path"] for row in read(tmp_path / "set" / "labels.csv")] == [
        "cat/same.png",
        "cat/same-2.png",
        "dog_wolf/3.png",
    ]
    asked(capsys, "export", "dataset", "--offline", "--out", "flat", "--layout", "manifest", "--splits")
    assert "train/images/3.png" in files(tmp_path / "flat")


def test_status_and_export_name_the_images_that_cannot_be_read(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The label of such an image is exported all the same."""
    services.ledger.set_image_errors(project, {1: "It is empty.", 4: "It is a web page.\n"})
    told = asked(capsys, "sync", "status")["unreadable"]
    assert told["total"] == 2
    assert [(i["task_id"], i["filename"], i["reason"]) for i in told["images"]] == [
        (1, "same.png", "It is empty."),
        (4, "4.png", "It is a web page.\\n"),
    ]
    cli.main(["sync", "status"])
    assert "    same.png (task 1): It is empty.\n    4.png (task 4): It is a web page." in capsys.readouterr().out
    assert asked(capsys, "export", "labels", "--offline")["labelled"] == 3
    cli.main(["export", "labels", "--offline"])
    assert "1 image is exported here, but cannot be read: same.png (task 1): It is empty." in capsys.readouterr().err


def test_images_that_could_not_be_read_are_tried_again_on_a_persons_word(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    services.ledger.set_image_errors(project, {1: "It is empty.", 4: "status 503"}, passing={4})
    problems = asked(capsys, "sync", "status")["problems"]
    assert any("1 image cannot be read" in told and "sync retry-images" in told for told in problems)
    assert any("1 image cannot be fetched at present" in told and told.endswith("status 503") for told in problems)
    assert asked(capsys, "sync", "retry-images", "--dry-run")["images"] == 2
    assert len(services.ledger.image_errors(project)) == 2
    assert asked(capsys, "sync", "retry-images")["images"] == 2
    assert services.ledger.image_errors(project) == {}
    assert services.jobs.status(project).due is not None
    assert asked(capsys, "sync", "retry-images")["images"] == 0


def test_all_unreadable_images_are_listed_over_http_page_by_page(services: Services, project: Project) -> None:
    services.ledger.set_image_errors(project, {i: f"fault {i}" for i in range(1, 6)})
    http = TestClient(create_app(services), "http://localhost")
    path = f"/projects/{project.id}/unreadable-images"
    first = http.get(path, params={"limit": 3}).json()
    rest = http.get(path, params={"limit": 3, "after": first["images"][-1]["task_id"]}).json()
    assert first["total"] == rest["total"] == 5
    assert [i["reason"] for i in first["images"] + rest["images"]] == [f"fault {i}" for i in range(1, 6)]
    assert http.get(f"/projects/{project.id}").json()["unreadable"]["images"][0]["name"] == "same.png (task 1)"


@pytest.mark.usefixtures("project")
def test_watch_tells_of_turns_that_changed_something_until_it_is_stopped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        {"labels_changed": 2, "labelled": 9, "version": 1, "served": "v1-r1", "seconds": {"train": 1.0}},
        {"labels_changed": 0, "labelled": 9, "version": 1, "served": "v1-r1", "seconds": {}},
    ]
    monkeypatch.setattr(foreground, "run_turn", lambda *_: turns.pop(0))

    def sleep(_seconds: float) -> None:
        if not turns:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    assert cli.main(["sync", "watch"]) == 130
    assert capsys.readouterr().out.count("9 labels, model v1") == 1
