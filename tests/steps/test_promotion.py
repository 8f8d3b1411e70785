"""Which new version is served: not one that is worse, whether at once or by small steps; and nearly every equal one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.stats import norm

from ml_backend.commands.sync import _accuracy_lines
from ml_backend.encoders.encoder import build_encoder
from ml_backend.errors import InvalidInputError
from ml_backend.imports.trained_model import ModelSource
from ml_backend.learning.head import Head
from ml_backend.learning.record import UNKNOWN, Record, digests
from ml_backend.steps.promotion import Answers, Promotion, first_better
from ml_backend.store import schema
from ml_backend.store.rows import PoolRows
from tests.bench import KINDS, Bench
from tests.slices import held_out

pytestmark = pytest.mark.slow

MEASURED, LEARNED, RUNS = 20, 200, 150
ALIKE = 0.9
"""Correlation of what two versions find hard: refitted on ten more labels, 1 to 5 % of answers change each way."""


def record(right: NDArray[np.bool_], labels: Sequence[int] | None = None) -> Record:
    count = len(right)
    return Record.of(np.arange(1000, 1000 + count, dtype=np.uint64), np.array(labels or [7] * count, np.uint32), right)


def answers(rng: np.random.Generator, accuracies: Sequence[float]) -> list[Answers]:
    """Versions of these true accuracies, oldest first, asked about the same tasks."""
    hard = rng.normal(size=MEASURED + LEARNED)
    versions = []
    for accuracy in accuracies:
        own = rng.normal(size=len(hard))
        right = np.sqrt(ALIKE) * hard + np.sqrt(1 - ALIKE) * own < norm.ppf(accuracy)
        versions.append(Answers(np.arange(MEASURED), right[:MEASURED], record(right[MEASURED:])))
    return versions


def refused(accuracies: Sequence[float]) -> float:
    """Share of runs in which the last version is refused; the one before it is in service."""
    rng = np.random.default_rng(5)
    runs = [answers(rng, accuracies) for _ in range(RUNS)]
    return float(np.mean([first_better(run[-1], run[-2::-1][:10], 0.05) is not None for run in runs]))


def test_a_decline_of_five_points_is_refused_in_most_runs_though_only_twenty_tasks_are_measured() -> None:
    assert refused([0.85, 0.80]) > 0.6
    assert refused([0.85] * 10 + [0.80]) > 0.6


def test_ten_declines_of_a_point_each_are_noticed() -> None:
    assert refused([0.85 - 0.01 * step for step in range(11)]) > 0.9


def test_an_equally_good_version_is_served_in_at_least_ninety_five_of_a_hundred_runs() -> None:
    assert refused([0.85, 0.85]) <= 0.05
    assert refused([0.85] * 11) <= 0.05


def test_answers_are_compared_under_the_same_label_alone_and_only_where_both_are_known() -> None:
    mine = record(np.array([True, True, False, True]), [1, 2, 3, 4])
    theirs = record(np.array([False, True, False, True]), [1, 9, 3, 4])
    theirs.right[2] = UNKNOWN
    now, then = mine.shared(theirs)
    assert (now.tolist(), then.tolist()) == ([True, True], [False, True])
    tuned = record(np.zeros(0, dtype=np.bool_), [])
    assert [len(side) for side in mine.shared(tuned)] == [0, 0], "a fine-tuned network has no folds"


def test_a_label_is_known_by_its_names_whatever_their_order() -> None:
    assert digests(np.array([0, 1]), ("cat", "dog")).tolist() == digests(np.array([1, 0]), ("dog", "cat")).tolist()
    ticked = np.array([[True, False, True], [False, False, False]])
    assert digests(ticked, KINDS)[0] == digests(ticked[:, ::-1], KINDS[::-1])[0]
    assert len(set(digests(ticked, KINDS).tolist())) == 2


def test_a_record_is_kept_beside_the_weights(tmp_path: Path) -> None:
    assert Record.load(tmp_path) is None
    kept = record(np.array([True, False]))
    kept.save(tmp_path)
    found = Record.load(tmp_path)
    assert found is not None
    assert all((getattr(found, name) == getattr(kept, name)).all() for name in ("images", "labels", "right"))


def _hold_out(rows: PoolRows, count: int) -> None:
    """The first tasks, as if they had been from the start."""
    rows.holdout[:count], rows.reached[:count], rows.found[:count] = True, 1, False
    rows.places[:count] = np.arange(count) / 1e6


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("one") / "data", tasks=200, measured=4)
    made.label(*range(1, 71))
    made.turn()
    made.services.database.close()
    return made


def test_a_version_that_learned_from_wrong_labels_is_not_served_though_hardly_anything_is_measured(
    bench: Bench,
) -> None:
    for task in range(71, 131):
        bench.label(task, as_=KINDS[(KINDS.index(bench.truth[task]) + 1) % 3])
    assert bench.turn().version == 1
    newest = bench.versions[0]
    assert newest.state == "rejected"
    assert "training labels right when asked by folds, v1 has" in newest.reason


def test_a_version_is_not_measured_on_what_it_learned_from(bench: Bench) -> None:
    corpus = bench.corpus()
    before = bench.promotion.answers(bench.project, corpus, bench.versions[0])
    assert before.tasks.tolist() == [1, 2, 3, 4]
    _hold_out(corpus.rows, 30)
    assert len(corpus.examples(held_out=True).tasks) == 30, "a larger share is held out from now on"
    now = bench.promotion.answers(bench.project, corpus, bench.versions[0])
    assert now.tasks.tolist() == [1, 2, 3, 4]
    corpus.rows.ids[:] += 1000  # the same images, imported again
    again = bench.promotion.answers(bench.project, corpus, bench.versions[0])
    assert again.tasks.tolist() == [1001, 1002, 1003, 1004]


def test_of_two_tasks_that_show_the_same_image_one_counts() -> None:
    images = np.array([5, 3, 5], np.uint64)
    kept = Record.of(images, np.array([1, 2, 3], np.uint32), np.array([True, False, False]))
    assert (kept.images.tolist(), kept.labels.tolist(), kept.right.tolist()) == ([3, 5], [2, 1], [0, 1])


def test_a_record_that_is_damaged_is_none(tmp_path: Path) -> None:
    good = record(np.array([True, False]))
    for broken in (
        replace(good, images=good.images[:1]),
        replace(good, labels=good.labels.astype(np.float32)),
        replace(good, images=good.images[[0, 0]]),
        replace(good, images=np.zeros((2, 2), np.uint64)),
        replace(good, right=np.array(1, np.int8)),
    ):
        broken.save(tmp_path)
        assert Record.load(tmp_path) is None


@pytest.fixture
def exported(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("ml_backend.learning.export_formats._compare", lambda *_: 0.0)
    monkeypatch.setattr("ml_backend.exports.model_files.sample_images", lambda *_: ["an image"])
    bench.services.model_exporter.save(bench.project, bench.versions[0], "bundle", tmp_path / "v1")
    return tmp_path / "v1"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_numpy_has_not_are_no_record_and_no_head(bench: Bench, exported: Path, kind: torch.dtype) -> None:
    record, head = load_file(exported / "record.safetensors"), load_file(exported / "head.safetensors")
    save_file(record | {"right": record["right"].to(kind)}, exported / "record.safetensors")
    assert Record.load(exported) is None
    bench.services.model_importer.start_from(bench.project, ModelSource(exported))
    odd = head | {"weight": head["weight"].to(kind)}
    save_file(odd, exported / "head.safetensors")
    with pytest.raises(InvalidInputError, match="not a complete model"):
        bench.services.model_importer.start_from(bench.project, ModelSource(exported))
    save_file(odd, bench.versions[0].folder / "head.safetensors")
    with pytest.raises(InvalidInputError, match="not a complete model"):
        bench.services.predictor.head(bench.project, bench.versions[0].number)


@pytest.mark.parametrize("told", [True, False])
def test_a_model_exported_from_this_very_project_is_not_measured_on_its_own_labels(
    bench: Bench, exported: Path, told: bool
) -> None:
    meta = json.loads((exported / "meta.json").read_text())
    assert meta["origin"] == {"store": bench.services.database.store_id, "project": str(bench.project.key)}
    if not told:  # a bundle of an earlier release
        (exported / "meta.json").write_text(json.dumps({**meta, "origin": None}))
        (exported / "record.safetensors").unlink()
    version, _ = bench.services.model_importer.start_from(bench.project, ModelSource(exported))
    assert version.meta.knows_labels is True
    corpus = bench.corpus()
    answers = bench.promotion.answers(bench.project, corpus, version)
    assert answers.tasks.tolist() == ([] if told else [1, 2, 3, 4])
    own = Record.load(bench.services.versions.version(bench.project, 1).folder)
    assert own is not None
    if told:
        assert answers.record is not None
        assert answers.record.right.tolist() == own.right.tolist(), "as it was by folds"
    else:
        assert answers.record is None
    bench.label(*range(71, 91))
    assert bench.turn().version == 3
    assert (bench.versions[0].meta.metrics.holdout or {})["n"] == 4, "the head that knows them is not gone on from"


def key(bench: Bench, task: int) -> int:
    """By which a record knows the task's image."""
    return int(bench.hash_of(task)[-16:], 16)


@pytest.fixture
def from_elsewhere(exported: Path) -> Path:
    """A model of another project that learned from the images of tasks 1 to 70."""
    meta = json.loads((exported / "meta.json").read_text())
    elsewhere = {"store": "another", "project": "http://elsewhere/projects/1"}
    (exported / "meta.json").write_text(json.dumps({**meta, "origin": elsewhere}))
    return exported


def test_a_model_from_elsewhere_is_measured_on_all_labels(bench: Bench, from_elsewhere: Path) -> None:
    (from_elsewhere / "record.safetensors").unlink()
    version, _ = bench.services.model_importer.start_from(bench.project, ModelSource(from_elsewhere))
    corpus = bench.corpus()
    answers = bench.promotion.answers(bench.project, corpus, version)
    assert answers.record is not None
    assert len(answers.record.images) == 66
    assert (answers.record.right >= 0).all()


def test_a_model_of_another_project_with_the_same_images_is_not_measured_on_those_it_learned_from(
    bench: Bench, from_elsewhere: Path
) -> None:
    bench.label(*range(71, 81))
    bench.turn()
    version, _ = bench.services.model_importer.start_from(bench.project, ModelSource(from_elsewhere))
    corpus = bench.corpus()
    _hold_out(corpus.rows, 75)
    answers = bench.promotion.answers(bench.project, corpus, version)
    assert answers.tasks.tolist() == [71, 72, 73, 74, 75]
    assert answers.record is not None
    assert len(answers.record.images) == 5, "the labels that came since"


def test_what_an_imported_model_learned_from_measures_nothing_that_comes_of_it(
    bench: Bench, from_elsewhere: Path
) -> None:
    bench.services.model_importer.start_from(bench.project, ModelSource(from_elsewhere))
    held_out(bench.services.ledger, bench.project, *range(1, 31), *range(71, 75))  # 1 to 30 it has learned from
    bench.label(*range(71, 81))
    bench.turn()
    newest = bench.versions[0]
    assert newest.meta.mode == "head"
    assert (newest.meta.metrics.holdout or {})["n"] == 4


def test_what_an_imported_model_learned_from_is_known_of_all_that_comes_of_it_whatever_is_imported_later(
    bench: Bench, from_elsewhere: Path, tmp_path: Path
) -> None:
    bench.services.model_importer.start_from(bench.project, ModelSource(from_elsewhere))
    held_out(bench.services.ledger, bench.project, *range(1, 31), *range(71, 75))
    for task in range(41, 51):
        del bench.answers[task]  # nobody has labelled it here
    bench.label(*range(71, 81))
    bench.turn()
    ours = bench.versions[0]
    bench.services.model_exporter.save(bench.project, ours, "bundle", tmp_path / "ours")
    bundle = Record.load(tmp_path / "ours")
    assert bundle is not None
    assert bundle.images.tolist() == sorted(key(bench, task) for task in range(1, 81))
    bench.services.model_importer.start_from(bench.project, ModelSource(tmp_path / "ours"))
    assert bench.promotion.answers(bench.project, bench.corpus(), ours).tasks.tolist() == [71, 72, 73, 74]
    bench.label(*range(81, 86))
    assert bench.turn().version == 5
    assert (bench.versions[0].meta.metrics.holdout or {})["n"] == 4


def test_a_label_that_an_imported_model_learned_from_is_none_that_what_comes_of_it_has_not_seen(
    bench: Bench, from_elsewhere: Path
) -> None:
    """Neither at the gate nor for what is ticked: it is in every fold."""
    bench.services.model_importer.start_from(bench.project, ModelSource(from_elsewhere))
    bench.label(*range(71, 91))
    bench.turn()
    newest = bench.versions[0]
    known = Record.load(newest.folder)
    assert known is not None
    assert known.images[known.right != UNKNOWN].tolist() == sorted(key(bench, task) for task in range(71, 91))
    assert newest.meta.confident_from is None, "20 others are too few to tell"
    bench.label(*range(91, 101))
    bench.turn()
    assert bench.versions[0].meta.confident_from is not None


def test_a_head_of_this_project_that_is_imported_takes_no_label_from_the_comparison(
    bench: Bench, exported: Path
) -> None:
    """It is not gone on from, and its encoder has learned from none."""
    bench.services.model_importer.start_from(bench.project, ModelSource(exported))
    bench.label(*range(71, 76))
    bench.turn()
    known = Record.load(bench.versions[0].folder)
    assert known is not None
    assert (known.right != UNKNOWN).sum() == 71


def test_an_encoder_has_learned_from_no_image_that_a_fold_tells_of_nor_from_one_held_out() -> None:
    images, labels = np.arange(4, dtype=np.uint64), np.zeros(4, np.uint32)
    apart = np.array([False, False, False, True])
    tuned = Record.of(images, labels, np.zeros(0, np.bool_), apart)
    head = Record.of(images, labels, np.array([True, False, True, False]), apart)
    assert tuned.of_encoder().images.tolist() == [0, 1, 2]
    assert head.of_encoder().images.tolist() == []
    assert head.after(tuned.of_encoder()).of_encoder().images.tolist() == [0, 1, 2], "a head on a fine-tuned network"


@pytest.mark.parametrize("pinned", [True, False])
def test_that_more_labels_measure_than_when_the_served_version_was_trained_is_told(
    tmp_path: Path, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "data", measured=40)
    bench.label(*range(1, 6), *range(41, 81))
    bench.turn()
    assert "v2" not in accuracy(bench)
    if pinned:
        bench.services.versions.pin(bench.project, 1)
    else:
        monkeypatch.setattr(Promotion, "refusal", lambda *_, **__: "worse")
    bench.label(*range(6, 31), *range(81, 101))
    bench.turn()
    assert "v1 was measured on 5 labels, and v2, which is not served, on 30: " in accuracy(bench)
    assert ("`ml-backend versions unpin`" in accuracy(bench)) == pinned
    assert ("nothing is to be done" in accuracy(bench)) != pinned
    bench.services.database.close()


def accuracy(bench: Bench) -> str:
    """What the status says of it."""
    return "\n".join(_accuracy_lines(bench.services.status.of(bench.project)["version"]))


def test_a_candidate_that_was_never_judged_is_judged_at_the_next_turn(bench: Bench) -> None:
    bench.label(*range(71, 81))
    bench.turn()
    with bench.services.database.write() as connection:  # as an earlier release left it, killed before it promoted
        connection.execute(sa.update(schema.versions).where(schema.versions.c.number == 2).values(state="candidate"))
        connection.execute(sa.update(schema.serving).values(number=1))
    assert bench.turn().version == 2
    assert [(version.number, version.state) for version in bench.versions] == [(2, "promoted"), (1, "promoted")]


def test_a_few_labels_of_some_kinds_take_nothing_from_an_imported_model(tmp_path: Path) -> None:
    """What spreads from labels of two kinds knows nothing of the other four, which the imported model knows."""
    kinds = ("ant", "bee", "cat", "dog", "eel", "fox")
    bench = Bench(tmp_path / "data", kinds=kinds, tasks=120)
    build_encoder("tests.bench:Wider", sample=lambda _: []).save(tmp_path / "theirs")
    weight = np.zeros((len(kinds), 12), np.float32)
    weight[np.arange(len(kinds)), np.arange(len(kinds))] = 6
    Head(kinds, weight, np.zeros(len(kinds), np.float32)).save(tmp_path / "theirs")
    meta = {"version": "v9", "labels": kinds, "origin": {"project": "http://other#9"}}
    (tmp_path / "theirs" / "meta.json").write_text(json.dumps(meta))
    bench.set(allowed_encoders=("tests.bench:Wider",))
    bench.services.model_importer.start_from(bench.project, ModelSource(tmp_path / "theirs"))
    bench.turn()
    bench.label(*[task for task in bench.ids[20:] if bench.truth[task] in kinds[:2]][:6])
    bench.turn()
    guesses = bench.guesses()
    assert sum(guesses[task] == bench.truth[task] for task in guesses) > 0.95 * len(guesses)
    bench.services.database.close()
