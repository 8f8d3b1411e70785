"""`ml-backend export predictions`: what is written, what is said of it, and images that were not read yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_backend import cli
from ml_backend.encoders.encoder import Encoder
from ml_backend.encoders.patches import fit_patches
from ml_backend.encoding import Encoding
from ml_backend.errors import LabelStudioUnavailableError
from ml_backend.exports import missing_vectors
from ml_backend.learning.head import Head
from ml_backend.learning.training import train_head
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from tests.commands.test_commands_offline import contents, read
from tests.test_predictor import CONFIG, address, picture, png

HOST = "http://127.0.0.1:9"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHOWN = {1: "upright", 2: "level", 3: "upright", 4: "level", 5: "level"}


@pytest.fixture(scope="module")
def trained() -> tuple[Encoder, Head]:
    images = [picture(kind, i) for kind in ("upright", "level") for i in range(12)]
    encoder = fit_patches(images, seed=0)
    return encoder, train_head(encoder.encode(images), np.repeat([0, 1], 12), ("upright", "level"), seed=0).head


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setenv("LABEL_STUDIO_URL", HOST)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k" * 40)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.chdir(tmp_path)
    opened = Services.open(Settings(data_dir=tmp_path / "data", label_studio_url=HOST, label_studio_api_key="k" * 40))
    yield opened
    opened.database.close()


@pytest.fixture
def project(services: Services) -> Project:
    """Five tasks; the first is labelled."""
    project = services.registry.register(HOST, 1, CONFIG, created=1)
    rows = []
    for number, kind in SHOWN.items():
        image = address(png(picture(kind, number)))
        task = Task(number, image, {"image": image, "filename": f"{number}.png"}, NOW)
        answers = [Annotation(1, 1, ("upright",), False, False, 1, NOW, NOW)] if number == 1 else []
        rows.append((task, answers))
    services.ledger.reconcile(project, rows, full=True)
    return services.ledger.project(project.key)


@pytest.fixture
def model(services: Services, project: Project, trained: tuple[Encoder, Head]) -> Project:
    publish(services, project, 1, trained)
    services.versions.promote(project, 1)
    return project


def publish(services: Services, project: Project, number: int, trained: tuple[Encoder, Head]) -> None:
    def write(folder: Path) -> None:
        for part in trained:
            part.save(folder)

    services.versions.publish(project, number, write)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    capsys.readouterr()
    code = cli.main(["export", "predictions", *arguments, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.out
    return json.loads(said.out), said.err


@pytest.mark.usefixtures("model")
def test_images_that_nobody_has_read_are_read_first_and_only_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = run(capsys)
    assert (report["rows"], report["human"], report["predicted"], report["without_label"]) == (5, 1, 4, 0)
    told = read(tmp_path / "predictions.csv")
    assert {int(row["task_id"]): row["label"] for row in told} == SHOWN
    assert [row["origin"] for row in told] == ["human", *["predicted"] * 4]
    assert {row["version"] for row in told[1:]} == {"v1"}
    monkeypatch.setattr(Encoding, "encode", lambda *_: pytest.fail("an image is read again"))
    assert run(capsys)[0]["predicted"] == 4


def test_images_are_read_in_parts_and_each_is_counted_once(
    services: Services, model: Project, trained: tuple[Encoder, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_vectors, "PART", 2)
    encoder, features = trained[0], services.features
    missing = missing_vectors.without_vector(model, encoder.id, services.ledger, features)
    done: list[int] = []
    assert not missing_vectors.encode_tasks(model, encoder, missing, services.ledger, services.encoding, done.append)
    assert sum(done) == len(missing) == 5
    assert not len(missing_vectors.without_vector(model, encoder.id, services.ledger, features))


@pytest.mark.usefixtures("model")
def test_offline_no_image_is_read_and_that_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoding, "encode", lambda *_: pytest.fail("an image is read"))
    report, said = run(capsys, "--offline")
    assert (report["human"], report["without_label"]) == (1, 4)
    assert "4 tasks have no label because the image was not read" in said
    assert {row["error"] for row in read(tmp_path / "predictions.csv")[1:]} == {"The image has not been read yet."}


@pytest.mark.usefixtures("model")
def test_where_label_studio_goes_away_meanwhile_what_is_known_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise LabelStudioUnavailableError("Label Studio is away.")

    monkeypatch.setattr(Encoding, "encode", away)
    report, said = run(capsys)
    assert (report["rows"], report["without_label"]) == (5, 4)
    assert "Label Studio is away." in said


def test_a_dry_run_reads_no_image_and_says_how_many_it_would(
    services: Services, model: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = contents(services, tmp_path)
    assert cli.main(["export", "predictions", "--dry-run"]) == 0
    said, warned = capsys.readouterr()
    assert "Warning: 4 tasks" not in warned
    assert "5 rows would be written to predictions.csv" in said
    assert "5 images would be read first" in said
    assert contents(services, tmp_path) == before
    assert model.key.project_id == 1


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_probabilities_have_a_column_a_class_in_every_format(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, form: str
) -> None:
    run(capsys, "--probabilities", "--out", f"x.{form}")
    path = tmp_path / f"x.{form}"
    readers = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda p: pd.read_json(p, lines=True)}
    frame = readers[form](path)
    guessed = frame[frame["origin"] == "predicted"]
    assert (guessed["p:upright"] + guessed["p:level"]).tolist() == pytest.approx([1.0] * 4)
    assert guessed[["p:upright", "p:level"]].max(axis=1).tolist() == pytest.approx(guessed["confidence"].tolist())
    assert guessed["label"].tolist() == [SHOWN[i] for i in guessed["task_id"]]


def test_another_version_than_the_one_served_is_asked(
    services: Services,
    model: Project,
    trained: tuple[Encoder, Head],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    encoder, head = trained
    publish(services, model, 2, (encoder, Head(head.classes, -head.weight, -head.bias)))
    report, _ = run(capsys, "--version", "v2")
    assert report["version"] == "v2"
    other = {"upright": "level", "level": "upright"}
    assert [row["label"] for row in read(tmp_path / "predictions.csv")[1:]] == [other[SHOWN[i]] for i in range(2, 6)]
    assert cli.main(["export", "predictions", "--version", "v7"]) == 1
    assert "no version v7" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_a_project_without_a_model_has_its_labels_exported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report, said = run(capsys, "--probabilities")
    assert (report["rows"], report["human"], report["version"]) == (5, 1, None)
    assert "There is no model yet" in said
    assert [row["error"] for row in read(tmp_path / "predictions.csv")] == ["", *["There is no model yet."] * 4]
    assert read(tmp_path / "predictions.csv")[0]["p:level"] == ""


def test_a_damaged_model_is_named_and_nothing_is_written(
    services: Services, model: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (services.versions.version(model, 1).folder / "head.json").write_text("[")
    assert cli.main(["export", "predictions", "--offline"]) == 1
    assert "is not a complete model version" in capsys.readouterr().err
    assert not (tmp_path / "predictions.csv").exists()


def test_a_version_of_other_labels_is_refused_with_what_to_do(
    services: Services, model: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.replace("upright", "red").replace("level", "green")
    services.registry.register(HOST, model.key.project_id, config, created=1)
    assert cli.main(["export", "predictions", "--offline"]) == 1
    said = capsys.readouterr().err
    assert "v1 was trained for other labels than the project has now." in said
    assert "--version" in said


@pytest.mark.usefixtures("model")
def test_the_table_on_standard_output_is_alone_there(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["export", "predictions", "--offline", "--out", "-"]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(b"filename,label,origin,confidence,version,")


@pytest.mark.usefixtures("model")
def test_a_file_that_cannot_be_written_is_told_before_any_image_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoding, "encode", lambda *_: pytest.fail("an image is read"))
    assert cli.main(["export", "predictions", "--out", "-", "--format", "parquet"]) == 1
    assert "Parquet cannot go to standard output" in capsys.readouterr().err


def test_formulas_are_made_harmless_in_the_spreadsheet_form(
    services: Services, model: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nasty = ["=1+1.png", "a,b.png", "new\nline.png", 'quo"te.png', "p:level"]
    rows = [(Task(i, "/x", {"image": "/x", "filename": name}, NOW), None) for i, name in enumerate(nasty, 1)]
    services.ledger.reconcile(model, rows, full=True)
    _, said = run(capsys, "--offline", "--spreadsheet")
    assert "would run as a formula" not in said
    assert [row["filename"] for row in read(tmp_path / "predictions.csv")] == ["'=1+1.png", *nasty[1:]]
    _, said = run(capsys, "--offline")
    assert "1 row has a cell that starts with" in said
    assert [row["filename"] for row in read(tmp_path / "predictions.csv")] == nasty
