"""What labels chosen at random would have given: measured on the same held-out images, and never in the strategy's favour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.learning.held_out_answers import HeldOutAnswers
from tests.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.label(*bench.ids[:20])
    bench.turn()  # the held-out ones are asked for from here on
    return bench


def test_labels_that_somebody_chose_change_nothing_of_what_labels_at_random_give(bench: Bench, tmp_path: Path) -> None:
    astray = bench.copied(tmp_path / "astray")
    bench.label(*bench.ids[20:60])
    astray.label(*astray.ids[20:60], as_="owl")
    for each in (bench, astray):
        each.turn()
    told = [next(v for v in each.versions if v.meta.metrics.random).meta.metrics.random for each in (bench, astray)]
    assert told[0] is not None
    assert told[0] == told[1]
    assert told[0]["of"] == told[0]["held_out"] == told[0]["n"] == 20


def test_what_was_learned_from_at_random_is_counted_without_the_fold_that_is_asked(bench: Bench) -> None:
    bench.label(*bench.ids[20:40])
    bench.turn()
    told = bench.versions[0].meta.metrics.random
    assert told is not None
    sizes = np.bincount(bench.corpus().folds(bench.corpus().examples(held_out=True)), minlength=5)
    assert told["labels"] == round(20 - (sizes**2).sum() / 20) < 20


def test_it_is_measured_anew_only_once_there_are_a_tenth_more_labels_drawn_at_random(bench: Bench) -> None:
    bench.label(*bench.ids[20:40])
    bench.turn()
    bench.label(*bench.ids[40:60])
    bench.turn()
    assert [v.meta.metrics.random is not None for v in bench.versions] == [False, True, False]


def test_nobody_waits_for_it_where_a_training_is_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.learning.cross_validation.LONG", 1)
    bench.label(*bench.ids[20:60])
    bench.turn()
    assert bench.versions[0].meta.metrics.random is None


def test_each_version_keeps_what_it_said_of_the_held_out_images(bench: Bench) -> None:
    bench.label(*bench.ids[20:60])
    bench.turn()
    version = bench.versions[0]
    answers = HeldOutAnswers.load(version.folder)
    assert answers is not None
    assert set(answers.tasks) == set(bench.ids[:20])
    holdout = version.meta.metrics.holdout
    assert holdout is not None
    assert (answers.truth == answers.said).all(axis=1).mean() == holdout["accuracy"]
    assert [bench.truth[int(t)] for t in answers.tasks] == [version.meta.classes[row.argmax()] for row in answers.truth]  # type: ignore[index]
    (version.folder / "held_out.safetensors").write_bytes(b"\0" * 40)
    assert HeldOutAnswers.load(version.folder) is None
