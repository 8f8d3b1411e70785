"""The served model learns from every label, and what it is measured on is answered by heads that have not seen it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.learning.fold_heads import FILE, FoldHeads
from ml_backend.learning.head import Head
from ml_backend.learning.record import FOLDS, UNKNOWN, Record
from ml_backend.store.version import Version
from tests.bench import KINDS, Bench

MEASURED = 20


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("one") / "data", measured=MEASURED)
    made.label(*range(1, 61))
    made.turn()
    made.services.database.close()
    return made


def record(version: Version) -> Record:
    found = Record.load(version.folder)
    assert found is not None
    return found


def as_made_before(bench: Bench, version: Version) -> None:
    """As an earlier release left it: its head learned from no held-out image, and it has no fold heads."""
    (version.folder / FILE).unlink()
    known = record(version).without_apart()
    known.save(version.folder)


def test_the_served_head_learns_from_held_out_labels_and_the_heads_of_their_folds_do_not(bench: Bench) -> None:
    version = bench.versions[0]
    assert version.meta.labels == 60
    served, asked = Head.load(version.folder), FoldHeads.load(version.folder)
    assert len(asked.heads) == FOLDS
    assert all(not np.array_equal(head.weight, served.weight) for head in asked.heads)
    assert record(version).apart.sum() == MEASURED


def test_the_accuracy_shown_is_that_of_heads_that_have_not_seen_the_image(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", measured=60)
    bench.label(*range(1, 91))
    for task, kind in zip(range(1, 61), np.random.default_rng(1).choice(KINDS, 60), strict=True):
        bench.label(task, as_=str(kind))
    bench.turn()
    version = bench.versions[0]
    corpus = bench.corpus()
    held_out = corpus.examples(held_out=True)
    heads = FoldHeads.load(version.folder)
    right = held_out.right(heads.predict_proba(held_out.features, corpus.images(held_out)))
    shown = version.meta.metrics.holdout or {}
    assert shown["n"] == 60
    assert shown["accuracy"] == pytest.approx(right.mean())
    assert bench.promotion.answers(bench.project, corpus, version).right.tolist() == right.tolist()
    assert right.mean() < held_out.correct(Head.load(version.folder)).mean(), "who has seen them is right more often"
    bench.services.database.close()


def test_no_held_out_image_counts_twice_at_the_gate(bench: Bench) -> None:
    known = record(bench.versions[0])
    assert (known.right[known.apart > 0] == UNKNOWN).all()
    assert (known.right[known.apart == 0] != UNKNOWN).all()
    answers = bench.promotion.answers(bench.project, bench.corpus(), bench.versions[0])
    assert answers.tasks.tolist() == list(range(1, MEASURED + 1))


def test_a_new_held_out_label_is_learned_from(bench: Bench) -> None:
    bench.label(1, as_="owl")
    assert bench.turn().version == 2
    assert bench.turn().version == 2, "and once"


def test_a_held_out_label_that_does_not_measure_yet_is_kept_apart_for_when_it_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", measured=40)
    bench.label(*range(1, 6), *range(7, 41), *range(60, 80))
    bench.turn()
    version = bench.versions[0]
    assert (version.meta.metrics.holdout or {})["n"] == 5, "task 6 is open"
    assert record(version).apart.sum() == 39
    bench.label(6)
    bench._read()
    answers = bench.promotion.answers(bench.project, bench.corpus(), version)
    assert answers.tasks.tolist() == list(range(1, 41)), (
        "none of which its fold head had seen, labelled later or before"
    )
    bench.services.database.close()


def test_a_version_of_an_earlier_release_answers_by_itself_and_is_followed_by_one_that_learned_from_all(
    bench: Bench,
) -> None:
    before = bench.versions[0]
    as_made_before(bench, before)
    answers = bench.promotion.answers(bench.project, bench.corpus(), before)
    assert answers.tasks.tolist() == list(range(1, MEASURED + 1))
    assert answers.record is not None
    bench.label(61)
    assert bench.turn().version == 2
    assert (bench.versions[0].state, bench.versions[0].meta.labels) == ("promoted", 61)


def test_a_version_that_lost_its_fold_heads_is_asked_about_no_image_that_it_learned_from(bench: Bench) -> None:
    version = bench.versions[0]
    whole = (version.folder / FILE).read_bytes()
    (version.folder / FILE).unlink()
    assert not len(bench.promotion.answers(bench.project, bench.corpus(), version).tasks)
    (version.folder / FILE).write_bytes(whole[:100])
    with pytest.raises(InvalidInputError, match="not a complete model version"):
        bench.promotion.answers(bench.project, bench.corpus(), version)
    bench.label(61)
    assert bench.turn().version == 2, "it still serves, and the next one replaces it"


def test_labels_in_another_order_are_answered_by_name(bench: Bench) -> None:
    before = bench.promotion.answers(bench.project, bench.corpus(), bench.versions[0])
    bench.configure(("owl", "cat", "dog"))
    bench._read()
    after = bench.promotion.answers(bench.project, bench.corpus(), bench.versions[0])
    assert before.right.tolist() == after.right.tolist()
    assert before.right.mean() > 0.7


def test_two_kinds_known_from_held_out_labels_alone_make_a_model(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", measured=20)
    bench.label(1, 2, 3)
    assert bench.turn().version == 1
    bench.services.database.close()


def test_a_bundle_takes_no_fold_heads_along(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.learning.export_formats._compare", lambda *_: 0.0)
    monkeypatch.setattr("ml_backend.exports.model_files.sample_images", lambda *_: ["an image"])
    bench.services.model_exporter.save(bench.project, bench.versions[0], "bundle", tmp_path / "v1")
    assert not (tmp_path / "v1" / FILE).exists()
    assert Head.load(tmp_path / "v1").weight.tolist() == Head.load(bench.versions[0].folder).weight.tolist()
