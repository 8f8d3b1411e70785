"""Replays: paired, resumable, and told honestly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.simulation.data import digits, duplicates, long_tail, wrong_labels
from ml_backend.simulation.replay import Round, Settings, full_pool, judged, replay
from ml_backend.simulation.runs import simulate
from ml_backend.simulation.summary import NEVER, aulc, gathered, reached
from ml_backend.simulation.table import table
from tests.simulation.blobs import SETTINGS, blobs, nearest_mean


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
