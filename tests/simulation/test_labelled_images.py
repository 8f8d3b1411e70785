"""Images of one's own, by folder or by CSV, and the command that replays on them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend import cli
from ml_backend.errors import ConfigError, InvalidInputError
from ml_backend.simulation.data import Data
from ml_backend.simulation.labelled_images import encoded, from_csv, from_folder
from tests.encoders.hub_stand_in import standing_in

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for c, level in (("dark cat", 60), ("light dog", 190)):
        (tmp_path / "images" / c).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(level + 30 * rng.standard_normal((16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / c / f"{i}.png")
    return tmp_path / "images"


def test_a_folder_by_class_and_a_csv_of_it_give_the_same_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "light dog" / "broken.png").write_bytes(b"no image")
    rows = [(path.relative_to(folder), path.parent.name) for path in sorted(folder.rglob("*.png"))]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "label"), *rows])
    by_folder, by_csv = from_folder(folder), from_csv(tmp_path / "labels.csv", folder)
    assert [(e.name, e.label) for e in by_folder] == [(e.name, e.label) for e in by_csv]
    data = encoded("x", by_folder, "patches", tmp_path / "out", progress=False)(0)
    assert (data.classes, len(data.labels) + len(data.test_labels)) == (("dark cat", "light dog"), 40)
    assert "left out" in capsys.readouterr().out
    other = encoded("x", by_csv, "patches", tmp_path / "out", progress=False)(0)
    np.testing.assert_array_equal(data.features, other.features)


def test_features_of_a_folder_are_known_by_what_is_in_the_images(folder: Path, tmp_path: Path) -> None:
    def features() -> Data:
        return encoded("x", from_folder(folder), "patches", tmp_path / "out", progress=False)(0)

    def kept() -> set[str]:
        return {path.name for path in (tmp_path / "out").glob("features-*")}

    before, one = features(), kept()
    features()
    assert kept() == one
    first, second = folder / "dark cat" / "1.png", folder / "light dog" / "1.png"
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)
    assert not np.array_equal(before.features, features().features)
    assert len(kept()) == 2


def test_features_that_a_killed_command_left_a_part_of_are_made_again(folder: Path, tmp_path: Path) -> None:
    def features() -> NDArray[np.floating[Any]]:
        return encoded("x", from_folder(folder), "patches", tmp_path / "out", progress=False)(0).features

    before = features()
    (file,) = (tmp_path / "out").iterdir()
    whole = file.read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(part)
        np.testing.assert_array_equal(features(), before)
        assert [(path, path.read_bytes()) for path in file.parent.iterdir()] == [(file, whole)]


def test_a_command_stopped_while_it_writes_features_leaves_no_part_of_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(file: Any, **_: Any) -> None:
        Path(file if isinstance(file, Path) else file.name).write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stopped)
    with pytest.raises(KeyboardInterrupt):
        encoded("x", from_folder(folder), "patches", tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_a_row_of_a_csv_that_ends_early_has_no_label_or_no_image(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,filename\nlight dog,light dog/1.png\ndark cat\n")
    examples = from_csv(tmp_path / "a.csv", folder)
    with pytest.raises(OSError, match="directory"):
        examples[1].read()


def test_a_csv_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,class\n1.png,cat\n")
    with pytest.raises(InvalidInputError, match="filename and label"):
        from_csv(tmp_path / "a.csv")


def test_the_command_writes_runs_table_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["digits", "--strategies", "random,margin", "--seeds", "1", "--batch", "10", "--labels", "20"]
    assert cli.main(["simulate", *arguments, "--out", str(out), "--quiet"]) == 0
    assert {path.name for path in out.iterdir()} >= {"runs.csv", "table.md", "accuracy.png", "accuracy.svg"}
    assert "margin" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.csv"],
        ["digits", "--strategies", "best"],
        ["digits", "--seeds", "0"],
        ["digits", "--protocol", "live", "--power", "-1"],
        ["digits", "--dry-run", "--power", "nan"],
    ],
)
def test_a_command_that_cannot_run_says_why_in_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["simulate", *arguments, "--out", str(tmp_path), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "bug" not in told


def test_nothing_is_downloaded_where_it_must_not_be(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_in(monkeypatch, tmp_path / "cache") as hub:
        with pytest.raises(ConfigError, match="ML_BACKEND_DOWNLOADS=no"):
            encoded("x", from_folder(folder), "resnet18", tmp_path / "out", progress=False, downloads=False)
        assert hub.requests == []
