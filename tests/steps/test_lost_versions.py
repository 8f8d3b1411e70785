"""Versions that are gone, pruned or deleted by hand, stop no project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_backend.encoders.encoder import build_encoder
from ml_backend.imports.trained_model import ModelSource
from ml_backend.learning.head import Head
from tests.bench import KINDS, Bench

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data", tasks=260)
    made.set(keep_versions=2)
    yield made
    made.services.database.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model of the other encoder, as `export model` writes it, that knows nothing yet."""
    folder = tmp_path / "theirs"
    build_encoder("tests.bench:Wider", sample=lambda _: []).save(folder)
    Head(KINDS, np.zeros((3, 12), np.float32), np.zeros(3, np.float32)).save(folder)
    (folder / "meta.json").write_text(json.dumps({"version": "v9", "labels": KINDS}))
    return folder


def imported(bench: Bench, bundle: Path) -> None:
    bench.set(allowed_encoders=("tests.bench:Wider",))
    bench.services.model_importer.start_from(bench.project, ModelSource(bundle))


def test_an_imported_model_is_there_as_long_as_training_goes_on_from_it(bench: Bench, bundle: Path) -> None:
    imported(bench, bundle)
    for last in range(40, 231, 45):
        bench.label(*range(1, last))
        outcome = bench.turn()
    assert outcome.version > 4
    kept = [version.number for version in bench.versions if version.state != "pruned"]
    assert kept == [outcome.version, outcome.version - 1, 1]
    assert bench.versions[0].meta.encoder.name == "tests.bench:Wider"


@pytest.mark.parametrize("heirs", [False, True])
def test_an_imported_model_that_was_deleted_fails_no_turn(
    bench: Bench, bundle: Path, heirs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a later version still has its encoder, training goes on with it; else with that of the settings."""
    imported(bench, bundle)
    if heirs:
        bench.label(*range(1, 61))
        bench.turn()
    shutil.rmtree(bench.services.versions.version(bench.project, 1).folder)
    bench.services.encoders.built.clear()
    bench.label(*range(1, 101))
    outcome = bench.turn()
    newest = bench.versions[0]
    assert (newest.number, newest.state) == (outcome.version, "promoted")
    assert newest.meta.encoder.name == ("tests.bench:Wider" if heirs else "tests.bench:Blobs")
    assert ("is lost" in caplog.text) != heirs


def problems(bench: Bench) -> list[str]:
    """What its status finds wrong, but for the bench's own split, which is smaller than the settings ask for."""
    found = bench.services.status.of(bench.project)["problems"]
    return [problem for problem in found if "HOLDOUT_SHARE" not in problem]


def test_a_served_version_that_was_deleted_is_told_and_replaced_at_the_next_turn(bench: Bench) -> None:
    bench.label(*range(1, 61))
    assert bench.turn().version == 1
    shutil.rmtree(bench.versions[0].folder)
    bench.services.predictor._models.clear()
    assert bench.guesses() == {}
    (problem,) = problems(bench)
    assert "v1" in problem
    assert bench.turn().version == 2, "though no label has changed"
    assert problems(bench) == []
    assert len(bench.guesses()) == 240


@pytest.mark.parametrize(
    ("file", "damage"),
    [("head.safetensors", b""), ("encoder.json", b""), ("head.json", b"[]"), ("head.json", b'{"classes": null}')],
)
def test_a_served_version_that_is_damaged_is_replaced_at_the_next_turn(bench: Bench, file: str, damage: bytes) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    (bench.versions[0].folder / file).write_bytes(damage)
    bench.services.predictor._models.clear()
    assert bench.turn().version == 2


def test_a_pinned_version_that_was_deleted_fails_no_turn_and_trains_once(bench: Bench) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    bench.services.versions.pin(bench.project, 1)
    shutil.rmtree(bench.versions[0].folder)
    bench.services.predictor._models.clear()
    for _ in range(2):
        assert bench.turn().version == 0
    assert [version.number for version in bench.versions] == [2, 1]
    bench.services.versions.unpin(bench.project)
    assert bench.turn().version == 2


def test_the_version_that_the_last_advice_was_about_may_be_gone(bench: Bench) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    shutil.rmtree(bench.versions[0].folder)
    bench.label(*range(61, 81))
    assert bench.turn().version == 2
    assert bench.project.state.advice is not None
    assert bench.project.state.advice.version == 2


def test_where_the_served_version_cannot_answer_the_newest_good_one_that_can_is_served_and_nothing_is_trained_twice(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "data", tasks=200, measured=4)
    bench.label(*range(1, 71))
    bench.turn()
    bench.configure(KINDS, multiple=True)
    assert bench.turn().version == 2
    for task in range(71, 140):
        bench.label(task, as_=KINDS[(KINDS.index(bench.truth[task]) + 1) % 3])
    bench.configure(KINDS)
    for _ in range(3):
        assert bench.turn().version == 1
    assert [version.state for version in bench.versions] == ["rejected", "promoted", "promoted"]
    bench.services.database.close()


def test_what_could_not_be_served_either_keeps_no_version_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", tasks=120)
    bench.label(*range(1, 71))
    bench.turn()
    bench.set(encoder="tests.bench:Wider")  # v1's own class is not trusted any more, once the service is started again
    bench.services.predictor._models.clear()
    for task in range(71, 111):
        bench.label(task, as_=KINDS[(KINDS.index(bench.truth[task]) + 1) % 3])
    assert [bench.turn().version for _ in range(2)] == [2, 2]
    bench.services.database.close()


def test_labels_whose_image_could_not_be_read_are_learned_once_it_can(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", tasks=130, measured=20)
    away = range(61, 101)
    bench.services.ledger.set_image_errors(bench.project, dict.fromkeys(away, "gone"))
    bench.label(*range(1, 101))
    bench.turn()
    bench.services.ledger.set_content_hash(bench.project, {task: bench.hash_of(task) for task in away})
    bench.turn()
    bench.turn()
    assert [version.meta.labels for version in bench.versions] == [100, 60]
    bench.services.database.close()
