"""The commands as a person runs them, on a real Label Studio."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from ml_backend import cli
from ml_backend.demo.digits import CLASSES, write_digits
from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.labelstudio.queue import LIVE
from ml_backend.labelstudio.results import annotation_result
from ml_backend.settings import Settings
from ml_backend.strategies import STRATEGIES
from tests.e2e.stack import service

NASTY = (
    "with space.png", "brackets (1) [2].png", 'quo"te.png', "it's.png", "com,ma.png", "=1+1.png", "=HYPERLINK(x).png",
    "+1.png", "-x.png", "@home.png", "日本語.png", "ключ.png", "é & ñ.png", "100%.png", "a#b?c.png", "007.png",
)  # fmt: skip


@dataclass
class Person:
    """Somebody at a terminal, with the environment set."""

    client: LabelStudio
    environment: dict[str, str]
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: object) -> tuple[int, str]:
        self.capture.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        said = self.capture.readouterr()
        assert self.environment["LABEL_STUDIO_API_KEY"] not in said.out + said.err, "the token was printed"
        return code, said.out if code == 0 else said.err + said.out

    def ask(self, *arguments: object) -> Any:
        """Run with --json; the command must succeed."""
        code, out = self.run(*arguments, "--json")
        assert code == 0, out
        return json.loads(out)

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ml_backend.cli", *map(str, arguments)]
        return subprocess.Popen(
            command, env=os.environ | self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def project(self, title: str, labels: str = ",".join(CLASSES)) -> int:
        made = self.ask("setup-project", "--title", title, "--labels", labels, "--no-backend")
        return int(made["project"])

    def state(self, project: int) -> tuple[Any, ...]:
        """Everything in Label Studio that a command could change."""
        rows = self.client.listing(project, "id,data,annotations,predictions", {}, fields="all")["tasks"]
        kept = [(r["id"], r["data"], r["annotations"], [(p["id"], p["score"]) for p in r["predictions"]]) for r in rows]
        about = self.client.get_project(project)
        return kept, about["model_version"], about["sampling"], len(self.client.tabs(project))


@pytest.fixture
def person(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Person:
    environment = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "ML_BACKEND_DATA_DIR": str(tmp_path / "backend"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return Person(client, environment, capsys)


@pytest.fixture
def pictures(label_studio: EmbeddedLabelStudio, tmp_path: Path) -> Iterator[Path]:
    """An empty folder that Label Studio sees."""
    assert label_studio.document_root is not None
    folder = label_studio.document_root / tmp_path.name
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def digits(folder: Path, count: int, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The first `count` digits in `folder`, the first of them under `names`; returns filename -> truth."""
    truth = list(write_digits(folder.with_name(f"{folder.name}-all") / "digits").items())[:count]
    told = {}
    for place, (name, label) in enumerate(truth):
        new = names[place] if place < len(names) else name
        shutil.copy(folder.with_name(f"{folder.name}-all") / "digits" / name, folder / new)
        told[new] = label
    shutil.rmtree(folder.with_name(f"{folder.name}-all"))
    return told


def write_labels(path: Path, labels: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("filename", "label"), *labels.items()])
    return path


def exported(path: Path) -> dict[str, str]:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(frame.columns[:2]) == ["filename", "label"]
    assert frame["filename"].is_unique
    return dict(zip(frame["filename"], frame["label"], strict=True))


def every_task_has_a_label(
    person: Person, project: int, path: Path, given: dict[str, str], truth: dict[str, str]
) -> None:
    """Those of people as they are, and guesses that are mostly right."""
    report = person.ask("export", "predictions", "--project", project, "--out", path)
    assert (report["human"], report["predicted"], report["version"]) == (len(given), len(truth) - len(given), "v1")
    told = exported(path)
    assert {name: told[name] for name in given} == given
    assert sum(told[name] == label for name, label in truth.items()) > 0.7 * len(truth)


def test_from_a_folder_and_a_csv_to_a_queue_and_an_exact_export(person: Person, pictures: Path, tmp_path: Path) -> None:
    truth = digits(pictures, 1_000, NASTY)
    first = dict(list(truth.items())[:100])
    project = person.project("The walk")
    labels = write_labels(tmp_path / "known.csv", first)
    report = person.ask("import-images", pictures, "--labels", labels, "--project", project)
    assert (report["imported"], report["labelled"], report["unreadable"], report["missing"]) == (1_000, 100, [], [])
    assert "without copying" in report["stored"]

    turn = person.ask("sync", "run", "--project", project)
    assert (turn["version"], turn["labelled"]) == (1, 100)
    before = person.state(project)
    again = person.ask("sync", "run", "--project", project)
    assert (again["version"], again["new_queue"]) == (1, False)
    assert person.state(project) == before

    for strategy in STRATEGIES:
        batch = person.ask("sync", "query", "--strategy", strategy, "--size", 20, "--project", project)
        chosen = {query["task_id"] for query in batch["queries"]}
        assert len(chosen) == 20, strategy
        assert not chosen & {task for task, _, annotations, _ in before[0] if annotations}, strategy
    assert person.state(project) == before, "a query changes nothing"

    person.ask(
        "sync", "query", "--strategy", "margin", "--size", 20, "--out", tmp_path / "queue.csv", "--project", project
    )
    pushed = person.ask("sync", "prioritize", "--csv", tmp_path / "queue.csv", "--project", project)
    assert pushed["state"] == "verified"
    due = [int(row["task_id"]) for row in csv.DictReader((tmp_path / "queue.csv").open(encoding="utf-8", newline=""))]
    schema = person.client.schema(project)
    labelled = {}
    for expected in due:
        task = next_task(person.client, project)
        assert task is not None
        assert task["id"] == expected
        name = task["data"]["filename"]
        labelled[name] = truth[name]
        person.client.create_annotation(task["id"], annotation_result(schema, [truth[name]]))

    said = person.ask("export", "labels", "--project", project, "--out", tmp_path / "labels.csv")
    assert said["rows"] == 120
    assert exported(tmp_path / "labels.csv") == first | labelled
    person.ask("sync", "export", "--minimal", "--project", project, "--out", tmp_path / "minimal.csv")
    assert exported(tmp_path / "minimal.csv") == first | labelled
    every_task_has_a_label(person, project, tmp_path / "predictions.csv", first | labelled, truth)
    person.ask("export", "labels", "--spreadsheet", "--project", project, "--out", tmp_path / "safe.csv")
    assert "'=1+1.png" in exported(tmp_path / "safe.csv")
    for file in ("labels.csv", "safe.csv"):
        back = person.ask("import-labels", tmp_path / file, "--project", project)
        assert (back["written"], back["same"], back["unknown"]) == (0, 120, [])
    assert person.ask("sync", "status", "--project", project)["counts"]["labelled"] == 120

    replay = (
        "--strategies",
        "random,margin",
        "--seeds",
        1,
        "--batch",
        10,
        "--labels",
        30,
        "--out",
        tmp_path / "replay",
    )
    code, table = person.run("simulate", "project", "--project", project, *replay, "--quiet")
    assert code == 0, table
    with (tmp_path / "replay" / "runs.csv").open(encoding="utf-8", newline="") as written:
        rounds = list(csv.DictReader(written))
    assert {row["data"] for row in rounds} == {"The walk"}
    assert {row["strategy"] for row in rounds} >= {"random", "margin"}


def test_files_that_label_studio_does_not_see_are_uploaded_once_and_keep_their_names(
    person: Person, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    truth = digits(tmp_path / "far", 60, NASTY)
    Image.effect_noise((40, 30), 90).convert("CMYK").save(tmp_path / "far" / "scan.tif")  # browsers do not show it
    project = person.project("Uploads")
    report = person.ask("import-images", tmp_path / "far", "--project", project)
    assert (report["imported"], report["stored"][:8]) == (61, "uploaded")
    assert person.ask("import-images", tmp_path / "far", "--project", project)["there"] == 61
    tasks = list(person.client.tasks(project))
    assert {task.data["filename"] for task in tasks} == {*truth, "scan.tif"}
    assert all(task.image and task.image.startswith("/data/upload/") for task in tasks)
    scan = next(str(task.image) for task in tasks if task.data["filename"] == "scan.tif")
    shown = Image.open(io.BytesIO(person.client.transport.send("GET", scan).content))
    assert (shown.format, shown.size) == ("PNG", (40, 30))
    refused, said = person.run("import-images", tmp_path / "far", "--storage", "local", "--project", project)
    assert refused == 0, said  # nothing is new, so nothing has to be stored
    picture = tmp_path / "far" / "new.png"
    Image.new("L", (9, 9), 77).save(picture)
    refused, said = person.run("import-images", picture, "--storage", "local", "--project", project)
    assert refused == 1
    assert "document root" in said


def test_an_address_in_a_bucket_that_nobody_can_read_is_named_and_strict_imports_none(person: Person) -> None:
    """Label Studio takes any address for a task; whether an image is there shows when it is asked to resolve it."""
    project = person.project("Buckets")
    report = person.ask("import-images", "s3://pics/nope.png", "--project", project)
    assert (report["imported"], report["unconnected"]) == (1, ["s3://pics"])
    assert re.fullmatch(
        r"nope\.png \(task \d+\): s3://pics/nope\.png does not exist \(404\): connect the bucket .*", *report["faulty"]
    )
    code, said = person.run("import-images", "gs://pics/two.png", "--project", project, "--strict")
    assert (code, "the project has no storage for gs://pics" in said) == (1, True)
    assert person.client.get_project(project)["task_number"] == 1


def test_a_project_is_made_once_adopted_checked_and_let_go(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    more = {"ML_BACKEND_PORT": str(port), "ML_BACKEND_URL": f"http://127.0.0.1:{port}", "ML_BACKEND_LOG_LEVEL": "WARNING",
            "ML_BACKEND_USER": "label-studio", "ML_BACKEND_PASSWORD": "geheim"}  # fmt: skip
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    own = person.environment | more
    with service(own, Settings.from_environ(own)):
        made = person.ask("setup-project", "--title", "Birds", "--labels", "robin,wren")
        assert made["ok"]
        again = person.ask("setup-project", "--title", "Birds", "--labels", "robin,wren")
        assert (again["project"], again["changed"]) == (made["project"], [])
        assert person.ask("setup-project", "--project", made["project"], "--check")["ok"]
        assert person.run("setup-project", "--title", "Birds", "--labels", "robin,owl")[0] == 1
        code, said = person.run("doctor", "--project", made["project"])
        assert code == 0, said
        assert "geheim" not in said
        removed = person.ask("setup-project", "--project", made["project"], "--remove")["removed"]
        assert len(removed) == 3, "the backend, and a webhook each for labels and for tasks"
        assert person.ask("setup-project", "--project", made["project"], "--remove")["removed"] == []
        assert person.run("setup-project", "--project", made["project"], "--check")[0] == 1
        code, said = person.run("doctor", "--project", made["project"])
        assert code == 1
        assert "FIX   ML backend" in said
        assert "FIX   webhook" in said


def test_the_service_does_the_turn_where_there_is_one(
    person: Person, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    own = person.environment | {"ML_BACKEND_PORT": str(port), "ML_BACKEND_URL": f"http://127.0.0.1:{port}", "ML_BACKEND_LOG_LEVEL": "WARNING"}  # fmt: skip
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    truth = digits(pictures, 120)
    with service(own, Settings.from_environ(own)):
        project = int(person.ask("setup-project", "--title", "Beside", "--labels", ",".join(CLASSES))["project"])
        labels = write_labels(tmp_path / "known.csv", dict(list(truth.items())[:40]))
        person.ask("import-images", pictures, "--labels", labels, "--project", project)
        assert person.ask("sync", "run", "--project", project)["labelled"] == 40
        mine = [task.id for task in person.client.tasks(project)][90:95]
        person.ask("sync", "prioritize", "--tasks", ",".join(map(str, mine)), "--project", project)
        assert person.ask("sync", "run", "--project", project)["new_queue"] is False
        served = next_task(person.client, project)
        assert served is not None
        assert served["id"] == mine[0]
        code, said = person.run("doctor", "--project", project)
        assert code == 0, said


@pytest.mark.slow
def test_a_default_label_studio_names_what_must_change_and_only_that_and_is_well_afterwards(
    person: Person,
    label_studio_binary: Path,
    label_studio_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, studio_port = free_port(), free_port()
    needed: dict[str, str] = {}
    own = {"ML_BACKEND_PORT": str(port), "ML_BACKEND_URL": f"http://127.0.0.1:{port}", "ML_BACKEND_LOG_LEVEL": "WARNING",
           "LABEL_STUDIO_URL": f"http://127.0.0.1:{studio_port}"}  # fmt: skip
    for name, value in own.items():
        monkeypatch.setenv(name, value)

    def label_studio() -> EmbeddedLabelStudio:
        return EmbeddedLabelStudio(
            label_studio_binary,
            tmp_path / "studio",
            port=studio_port,
            template=label_studio_template,
            environment=needed,
        )

    with label_studio() as server, LabelStudio(server.url, server.token) as legacy:
        # The kind of token that works on a default Label Studio.
        own["LABEL_STUDIO_API_KEY"] = str(legacy.transport.call("POST", "/api/token/", json={})["token"])
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", own["LABEL_STUDIO_API_KEY"])
        person.environment |= own
        with service(person.environment, Settings.from_environ(person.environment)):
            code, said = person.run("doctor")
        assert code == 1
        assert "personal access token" in said
        assert set(re.findall(r"[A-Z_]{8,}=\w+", said)) == {"ML_BLOCK_LOCAL_IP=false", "SSRF_PROTECTION_ENABLED=false"}
        needed |= dict(setting.split("=") for setting in re.findall(r"[A-Z_]{8,}=\w+", said))
    with label_studio(), service(person.environment, Settings.from_environ(person.environment)):
        code, said = person.run("doctor")
        assert code == 0, said
        person.ask("setup-project", "--title", "Now it works", "--labels", "cat,dog")
        code, said = person.run("doctor")
        assert code == 0, said


def killed(start: Callable[[], subprocess.Popen[bytes]], moments: random.Random, longest: float, times: int) -> int:
    """Start and kill -9 at random moments; returns how many were killed before they had ended."""
    caught = 0
    for _ in range(times):
        process = start()
        time.sleep(moments.uniform(0.2, longest))
        if process.poll() is None:
            caught += 1
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return caught


@pytest.mark.slow
def test_commands_killed_at_random_moments_end_as_if_they_had_not_been(
    person: Person, pictures: Path, tmp_path: Path
) -> None:
    moments = random.Random(int(os.environ.get("KILL_SEED", "0")))
    times = int(os.environ.get("KILLS", "4"))
    truth = digits(pictures, 400, NASTY)
    far = tmp_path / "far"
    shutil.copytree(pictures, far)
    labels = write_labels(tmp_path / "known.csv", dict(list(truth.items())[:50]))
    caught = 0
    for folder in (pictures, far):
        project = person.project(f"Killed {folder.name}")
        importing = ("import-images", folder, "--labels", labels, "--project", project)
        began = time.monotonic()
        caught += killed(lambda command=importing: person.start(*command), moments, 3.0, times)  # type: ignore[misc]
        person.ask(*importing)
        last = time.monotonic() - began
        tasks = list(person.client.tasks(project))
        assert sorted(task.data["filename"] for task in tasks) == sorted(truth), f"after {last:.0f} s"
        answers = [a for _, given in person.client.annotated(project) for a in given]
        assert len(answers) == 50
    # The last project's files were uploaded: no file may be there twice either.
    uploads = person.client.transport.call("GET", f"/api/projects/{project}/file-uploads", params={"all": "true"})
    assert len(uploads) == len(truth)

    person.ask("sync", "run", "--project", project)
    mine = [task.id for task in tasks if task.data["filename"] not in dict(list(truth.items())[:50])][:200]
    pushing = ("sync", "prioritize", "--tasks", ",".join(map(str, mine)), "--project", project)
    caught += killed(lambda: person.start(*pushing), moments, 8.0, times)
    name = person.ask(*pushing)["served_as"]
    rows = person.client.predictions_of(project, [task.id for task in tasks])
    served = sorted((p["score"], task) for task, given in rows.items() for p in given if p["model_version"] == name)
    assert [task for score, task in served if score < LIVE] == mine

    out = tmp_path / "out" / "labels.csv"
    exporting = ("export", "labels", "--project", project, "--out", out)
    caught += killed(lambda: person.start(*exporting), moments, 8.0, times)
    person.ask(*exporting)
    assert [path.name for path in out.parent.iterdir()] == ["labels.csv"]
    assert exported(out) == dict(list(truth.items())[:50])
    assert caught >= times, "hardly anything was killed: the moments came too late"
