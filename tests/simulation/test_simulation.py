"""Replays: paired, resumable, and told honestly."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend import cli
from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.simulation import code_version
from ml_backend.simulation.code_version import code_digest
from ml_backend.simulation.data import Data, Source, digits, duplicates, long_tail, unit_rows, wrong_labels
from ml_backend.simulation.labelled_images import encoded, from_csv, from_folder
from ml_backend.simulation.replay import FULL_POOL, Answers, Live, Round, Settings, full_pool, judged, replay
from ml_backend.simulation.runs import read, run_key, simulate
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.simulation.summary import NEVER, aulc, gathered, reached
from ml_backend.simulation.table import table
from ml_backend.strategies import STRATEGIES
from ml_backend.strategies.uncertainty import ByScore, least_confidence_uncertainty, random


def nearest_mean(
    features: NDArray[np.floating[Any]], rows: NDArray[np.int64], labels: NDArray[np.int64], classes: int, *_: Any
) -> Answers:
    """A head that is trained at once: the nearest class mean."""
    x = features[rows].astype(np.float32)
    means = np.stack(
        [x[labels == c].mean(0) if (labels == c).any() else np.full(x.shape[1], 9.0) for c in range(classes)]
    )

    def probabilities(asked: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        near = np.exp(-((asked.astype(np.float32)[:, None] - means[None]) ** 2).sum(2) * 10)
        scaled: NDArray[np.float32] = (near / near.sum(1, keepdims=True)).astype(np.float32)
        return scaled

    return Answers(probabilities, probabilities)


def blobs(seed: int) -> Data:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=90)
    features = unit_rows(np.eye(3)[labels] + 0.4 * rng.standard_normal((90, 3)))
    return Data("blobs", ("a", "b", "c"), features[:60], labels[:60], features[60:], labels[60:])


SETTINGS = Settings(batch=5, budget=20)


def test_a_replay_labels_a_batch_a_round_until_the_budget_is_spent() -> None:
    rounds = list(replay(blobs(0), "margin", 0, SETTINGS, nearest_mean))
    assert [r.labels for r in rounds] == [5, 10, 15, 20]
    assert all(0 <= r.accuracy <= 1 for r in rounds)


def test_a_small_pool_ends_the_replay() -> None:
    assert list(replay(blobs(0), "random", 0, Settings(batch=25, budget=500), nearest_mean))[-1].labels == 60


def test_runs_of_one_seed_share_their_start() -> None:
    first = [next(replay(blobs(1), name, 1, SETTINGS, nearest_mean)).accuracy for name in ("random", "random+margin")]
    assert first[0] == first[1]


def test_an_unknown_strategy_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no strategy 'margn'"):
        simulate(blobs, ["random", "margn"], [0], SETTINGS, nearest_mean, tmp_path / "runs.csv", progress=False)
    assert not (tmp_path / "runs.csv").exists()


def test_finished_runs_are_read_back_and_the_rest_is_done(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    once = simulate(blobs, ["random"], [0, 1], SETTINGS, nearest_mean, path, progress=False)

    trained = []

    def counting(*arguments: Any) -> Answers:
        trained.append(arguments)
        return nearest_mean(*arguments)

    again = simulate(blobs, ["random"], [0, 1], SETTINGS, counting, path, progress=False)
    assert (again, trained) == (once, [])
    more = simulate(blobs, ["random", "margin"], [0, 1], SETTINGS, counting, path, progress=False)
    assert len(trained) == 8
    assert {r.strategy for r in more} == {FULL_POOL, "random", "margin"}


def test_a_run_that_was_stopped_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    calls = []

    def failing(*arguments: Any) -> Answers:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return nearest_mean(*arguments)

    with pytest.raises(KeyboardInterrupt):
        simulate(blobs, ["random", "margin"], [0], SETTINGS, failing, path, progress=False)
    assert {r.strategy for r in read(path)} == {FULL_POOL, "random"}
    resumed = simulate(blobs, ["random", "margin"], [0], SETTINGS, nearest_mean, path, progress=False)
    straight = simulate(blobs, ["random", "margin"], [0], SETTINGS, nearest_mean, tmp_path / "b.csv", progress=False)
    assert [(r.strategy, r.labels, r.accuracy) for r in resumed] == [
        (r.strategy, r.labels, r.accuracy) for r in straight
    ]


def trainings_to_have(path: Path, source: Source, settings: Settings = SETTINGS) -> int:
    """How many trainings it takes to have the runs of `random` beside those that are in `path`."""
    trained = []

    def counting(*arguments: Any) -> Answers:
        trained.append(arguments)
        return nearest_mean(*arguments)

    simulate(source, ["random"], [0], settings, counting, path, progress=False)
    return len(trained)


def test_runs_of_other_data_of_the_same_name_are_not_read_as_these(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"

    def relabelled(seed: int) -> Data:
        data = blobs(seed)
        return replace(data, labels=(data.labels + 1) % 3)

    def reencoded(seed: int) -> Data:
        data = blobs(seed)
        return replace(data, test_features=data.test_features[::-1])

    here = simulate(blobs, ["random"], [0], SETTINGS, nearest_mean, path, progress=False)
    for other in (relabelled, reencoded):
        there = simulate(other, ["random"], [0], SETTINGS, nearest_mean, path, progress=False)
        assert {r.key for r in there}.isdisjoint({r.key for r in here})
        assert len(there) == len(here)
    assert trainings_to_have(path, blobs) == 0


def test_runs_under_other_settings_are_done_beside_these(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    assert trainings_to_have(path, blobs) == 5
    assert trainings_to_have(path, blobs, replace(SETTINGS, batch=4)) == 5
    assert trainings_to_have(path, blobs) == 0


def test_runs_of_another_version_of_the_code_are_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.csv"
    assert trainings_to_have(path, blobs) == 5
    monkeypatch.setattr("ml_backend.simulation.runs.code_digest", lambda *_: "another")
    assert trainings_to_have(path, blobs) == 5


def test_runs_of_a_release_that_knew_no_keys_are_kept_and_never_read_as_todays(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "data,strategy,seed,labels,accuracy,seconds,megabytes,train_seconds\nblobs,random,0,5,0.5,0.1,1.0,0.1\n"
    )
    assert trainings_to_have(path, blobs) == 5
    assert [r.accuracy for r in read(path) if not r.key] == [0.5]


def finish_runs(path: Path, strategy: str) -> None:
    simulate(blobs, [strategy], range(6), SETTINGS, nearest_mean, path, progress=False)


def test_two_simulations_into_one_folder_lose_no_run_and_keep_each_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    context = get_context("spawn")  # a fork of this process may wait for ever for threads that it does not have
    writers = [
        context.Process(target=finish_runs, args=(path, name), daemon=True) for name in ("random", "random", "margin")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(300)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with path.open(newline="") as file:
        rows = [(row["strategy"], row["seed"], row["labels"]) for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) == 3 + 2 * 6 * 4


def test_a_run_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rounds = simulate(blobs, ["margin"], [0], SETTINGS, nearest_mean, path, progress=False)
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines, *lines]))
    assert simulate(blobs, ["margin"], [0], SETTINGS, nearest_mean, path, progress=False) == rounds
    again = simulate(blobs, ["margin", "margin"], [0], SETTINGS, nearest_mean, tmp_path / "new.csv", progress=False)
    assert [(r.strategy, r.labels) for r in again] == [(r.strategy, r.labels) for r in rounds]


@pytest.mark.parametrize("cell", ["a tenth", ""])
def test_a_file_of_runs_with_a_bad_number_is_refused_in_words(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "runs.csv"
    simulate(blobs, ["margin"], [0], SETTINGS, nearest_mean, path, progress=False)
    lines = path.read_text().splitlines()
    cells = lines[2].split(",")
    cells[4:] = [cell, *cells[5:]] if cell else []
    path.write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]))
    with pytest.raises(ConflictError, match="line 3"):
        read(path)


def test_a_file_that_holds_no_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("name,price\nnail,1\n")
    with pytest.raises(ConflictError, match="another --out"):
        trainings_to_have(tmp_path / "runs.csv", blobs)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three rooms, one of which decides nothing."""
    sources = {
        "learning/head.py": "from ml_backend.records import Pool\nfrom ml_backend.web import app\nDEPTH = 1\n",
        "records.py": "class Pool: ...\n",
        "web/app.py": "PORT = 1\n",
        "strategies/other.py": "RULE = 1\n",
    }
    for name, source in sources.items():
        (tmp_path / "ml_backend" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ml_backend" / name).write_text(source)
    monkeypatch.setattr(code_version, "PACKAGE", tmp_path / "ml_backend")
    code_digest.cache_clear()
    yield tmp_path / "ml_backend"
    code_digest.cache_clear()


@pytest.mark.parametrize(
    ("file", "source", "other"),
    [
        ("learning/head.py", "from ml_backend.records import Pool\nfrom ml_backend.web import app\nDEPTH = 2\n", True),
        ("records.py", "class Pool:\n    labels = 1\n", True),
        ("records.py", '"""What is passed."""\nclass Pool:\n    """Rows."""  # all of them\n    ...\n', False),
        ("web/app.py", "PORT = 2\n", False),
        ("strategies/other.py", "RULE = 2\n", False),
    ],
)
def test_the_version_of_the_code_is_what_decides_and_no_word_about_it(
    package: Path, file: str, source: str, other: bool
) -> None:
    before = code_digest("ml_backend.learning.head")
    (package / file).write_text(source)
    code_digest.cache_clear()
    assert (code_digest("ml_backend.learning.head") != before) is other


def test_a_run_is_of_the_code_of_its_own_strategy_and_of_the_training() -> None:
    keys = [run_key("data", "badge", SETTINGS, LiveHead()), run_key("data", "auto", SETTINGS, LiveHead()),
            run_key("data", "badge", SETTINGS, nearest_mean)]  # fmt: skip
    assert len(set(keys)) == 3
    assert run_key("data", "badge", SETTINGS, LiveHead()) == keys[0]


def live(settings: Settings) -> Settings:
    return replace(settings, live=Live())


@pytest.mark.parametrize(
    ("changed", "strategy", "settings", "other"),
    [
        ("strategies/hybrid.py", "margin", SETTINGS, True),
        ("strategies/badge.py", "margin", SETTINGS, False),
        ("store/rows.py", "margin", live(SETTINGS), True),
        ("predictor.py", "badge", live(SETTINGS), True),
        ("settings.py", "auto", live(SETTINGS), True),
        ("store/jobs.py", "auto", live(SETTINGS), False),
        ("store/rows.py", "margin", SETTINGS, False),
    ],
)
def test_a_run_is_of_all_the_code_that_decides_it_and_of_no_other(
    changed: str, strategy: str, settings: Settings, other: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "PACKAGE", copytree(code_version.PACKAGE, tmp_path / "ml_backend"))
    keys = []
    for line in ("", "ANOTHER = 1\n"):
        with (tmp_path / "ml_backend" / changed).open("a") as file:
            file.write(line)
        code_digest.cache_clear()
        keys.append(run_key("data", strategy, settings, LiveHead()))
    code_digest.cache_clear()
    assert (keys[0] != keys[1]) is other


def test_a_run_is_of_what_the_registry_makes_its_strategy_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        return [run_key("data", name, SETTINGS, LiveHead()) for name in ("margin", "entropy", "herding", "badge")]

    before = keys()
    margin = cast("ByScore", STRATEGIES["margin"])
    monkeypatch.setitem(STRATEGIES, "margin", replace(margin, measure=least_confidence_uncertainty))
    monkeypatch.setitem(STRATEGIES, "entropy", replace(margin, without_model=random))
    monkeypatch.setitem(STRATEGIES, "herding", STRATEGIES["diversity"])
    assert [now == then for now, then in zip(keys(), before, strict=True)] == [False, False, False, True]


def test_balanced_accuracy_counts_every_class_alike() -> None:
    data = replace(blobs(0), test_labels=np.array([0] * 27 + [1] * 3))
    always_first = lambda features: np.tile(np.array([[0.8, 0.1, 0.1]], np.float32), (len(features), 1))  # noqa: E731
    assert judged(always_first, data) == (0.9, 0.5)


def curves(**accuracy: list[list[float]]) -> list[Round]:
    """Rounds with the given curves, one list of accuracies a seed, ten labels a round."""
    return [
        Round("d", name, seed, 10 * (i + 1), value, value / 2, 0.1, 1.0, 0.1)
        for name, seeds in accuracy.items()
        for seed, values in enumerate(seeds)
        for i, value in enumerate(values)
    ]


def test_labels_to_a_target_are_those_of_the_mean_curve() -> None:
    runs = gathered(curves(random=[[0.2, 0.4, 0.6, 0.8]] * 2, auto=[[0.5, 0.7, 0.9, 0.9], [0.5, 0.9, 0.9, 0.9]]))
    found = reached(runs, "auto", 0.8)
    assert (found.labels, found.ratio) == (20, 0.5)
    last = reached(runs, "auto", None)
    assert (last.target, last.labels, last.ratio) == (0.8, 20, 0.5)
    assert (last.low, last.high) == (0.5, 0.75)


def test_a_target_never_reached_is_told_as_such() -> None:
    runs = gathered(curves(random=[[0.2, 0.4]] * 3, auto=[[0.5, 0.7]] * 3))
    assert reached(runs, "random", 0.7).labels == NEVER
    assert reached(runs, "auto", 0.7).ratio == 1.0
    text = table(runs, [0.7])
    assert "| balanced |" in text
    assert "0.3500" in text  # of auto, at the end
    assert "never" in text
    assert "20 (<=1.00" in text


def test_the_area_under_a_curve_is_its_mean_height() -> None:
    runs = gathered(curves(random=[[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]]))
    assert aulc(runs, "random")[0] == pytest.approx(0.5)


def test_seeds_that_one_strategy_has_not_finished_are_not_compared() -> None:
    runs = gathered(curves(random=[[0.1], [0.9]], auto=[[0.5]]))
    assert runs.accuracy["random"].tolist() == [[0.1]]


def test_the_digits_split_is_the_seeds_and_no_test_row_is_in_the_pool() -> None:
    one, again, other = digits(0), digits(0), digits(1)
    np.testing.assert_array_equal(one.features, again.features)
    assert not np.array_equal(one.test_labels, other.test_labels)
    assert len(one.labels) + len(one.test_labels) == 1797


def test_stress_does_to_the_pool_what_it_says_and_leaves_the_test_set() -> None:
    data = digits(0)
    many, tail, wrong = duplicates(data, 0), long_tail(data, 0), wrong_labels(data, 0)
    for stressed in (many, tail, wrong):
        np.testing.assert_array_equal(stressed.test_features, data.test_features)
    assert len(many.labels) == 4 * len(data.labels)
    near = (many.features[: len(data.labels)] * many.features[len(data.labels) : 2 * len(data.labels)]).sum(1)
    assert near.min() > 0.99
    sizes = np.sort(np.bincount(tail.labels))
    assert sizes[-1] / sizes[0] == pytest.approx(10, rel=0.1)
    assert (wrong.labels != data.labels).mean() == pytest.approx(0.1, abs=0.03)


def test_the_full_pool_is_trained_on_every_label() -> None:
    assert full_pool(blobs(0), 0, nearest_mean).labels == 60


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
