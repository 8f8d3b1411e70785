"""Runs that are finished: known by what decided them, read back, never lost and never taken for others."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree
from typing import Any, cast

import pytest

from ml_backend.errors import ConflictError
from ml_backend.simulation import code_version
from ml_backend.simulation.code_version import code_digest
from ml_backend.simulation.data import Data, Source
from ml_backend.simulation.replay import FULL_POOL, Answers, Live, Settings
from ml_backend.simulation.runs import read, run_key, simulate
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.strategies import STRATEGIES
from ml_backend.strategies.uncertainty import ByScore, least_confidence_uncertainty, random
from tests.simulation.blobs import SETTINGS, blobs, nearest_mean


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


@pytest.mark.slow
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


@pytest.mark.slow
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
