"""Measured numbers and their intervals: right on known data, and covering the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from ml_backend.commands.sync import _accuracy_lines
from ml_backend.commands.versions import _compared
from ml_backend.learning.evaluation import wilson_interval
from ml_backend.learning.metrics import measured
from ml_backend.wording import imbalance, small_slice, undecided
from ml_backend.wording import measured as shown

KINDS = ("cat", "dog", "owl")


def certain(answers: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.eye(len(KINDS))[answers]


def test_every_number_has_its_interval_and_classes_that_never_occur_are_left_out() -> None:
    truth, said = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    found = measured(certain(said), truth, KINDS)
    assert (found["n"], found["accuracy"], (found["low"], found["high"])) == (5, 0.8, wilson_interval(4, 5))
    cat, dog = found["classes"]
    assert (cat["name"], cat["support"], cat["precision"]["value"]) == ("cat", 3, 1.0)
    low, high = wilson_interval(2, 3)
    assert cat["recall"] == {"value": 0.6667, "low": round(low, 4), "high": round(high, 4), "n": 3}
    assert dog["precision"]["n"] == 3
    f1 = found["macro_f1"]
    assert f1["value"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-4)
    assert f1["low"] < f1["value"] < f1["high"]


def test_several_labels_are_measured_class_by_class() -> None:
    truth = np.array([[True, False, True], [False, True, False], [False, False, False]])
    said = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.7], [0.1, 0.2, 0.3]])
    found = measured(said, truth, KINDS)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["classes"][2]["recall"]["value"] == found["classes"][2]["precision"]["value"] == 0.0
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(truth, said >= 0.5, average="macro"), abs=1e-4)


def test_what_nobody_could_be_wrong_about_is_not_known() -> None:
    said_only = measured(certain(np.array([1])), np.array([0]), KINDS)
    assert [(c["name"], c["recall"], c["precision"]) for c in said_only["classes"]][1][1] is None
    assert measured(np.zeros((0, 3)), np.zeros(0, np.int64), KINDS)["macro_f1"] is None
    nothing = measured(np.zeros((2, 3)), np.zeros((2, 3), dtype=bool), KINDS)
    assert (nothing["accuracy"], nothing["macro_f1"], nothing["classes"]) == (1.0, None, [])


def test_a_dozen_right_answers_make_nothing_certain() -> None:
    found = measured(certain(np.arange(12) % 3), np.arange(12) % 3, KINDS)
    assert found["macro_f1"]["value"] == found["macro_f1"]["high"] == 1.0
    assert found["macro_f1"]["low"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("n", "accuracy"), [(20, 0.9), (50, 0.8), (100, 0.85)])
def test_the_interval_of_macro_f1_holds_the_truth_in_nineteen_of_twenty_cases(n: int, accuracy: float) -> None:
    rng = np.random.default_rng(n)

    def draw(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        truth = rng.choice(3, size, p=[0.5, 0.3, 0.2])
        wrong = (truth + rng.integers(1, 3, size)) % 3
        return truth, np.where(rng.random(size) < accuracy, truth, wrong)

    truth, said = draw(200_000)
    true = measured(certain(said), truth, KINDS)["macro_f1"]["value"]
    inside = 0
    for _ in range(400):
        truth, said = draw(n)
        found = measured(certain(said), truth, KINDS)["macro_f1"]
        inside += found["low"] <= true <= found["high"]
    assert inside / 400 >= 0.92


def test_a_small_slice_is_told_in_words() -> None:
    twelve = measured(certain(np.array([1, 1, *[0] * 10])), np.zeros(12, np.int64), KINDS)
    assert small_slice(twelve) == "12 images measured: the true accuracy may be anywhere between 55% and 96%"
    right = measured(certain(np.zeros(12, np.int64)), np.zeros(12, np.int64), KINDS)
    assert small_slice(right) == "12 images measured: the true accuracy may be 75% or more"
    many = measured(certain(np.zeros(200, np.int64)), np.zeros(200, np.int64), KINDS)
    assert small_slice(many) is None
    assert small_slice(None) is None


def test_images_without_a_label_are_told_beside_the_accuracy_with_what_they_may_hide() -> None:
    found = measured(certain(np.array([1, 1, 1, *[0] * 34])), np.zeros(37, np.int64), KINDS, undecided=12)
    assert shown(found) == "91.9% (78.7% to 97.2%, n=37, 12 without a label)"
    assert undecided(found) == (
        "12 of 49 images were skipped or have no agreed label, and may be hard: with those the true accuracy is between "
        "55% and 98%"
    )
    assert (found["worst"], found["best"]) == (wilson_interval(34, 49)[0], wilson_interval(46, 49)[1])
    assert undecided(measured(certain(np.zeros(4, np.int64)), np.zeros(4, np.int64), KINDS)) is None
    one = measured(certain(np.zeros(4, np.int64)), np.zeros(4, np.int64), KINDS, undecided=1)
    assert (undecided(one) or "").startswith("1 of 5 images was skipped or has no agreed label")
    told = list(_accuracy_lines({"holdout": found, "undecided_in_words": undecided(found)}))
    assert told[1].strip() == undecided(found)


def test_status_and_comparison_tell_the_intervals_and_what_they_leave_open() -> None:
    twelve = measured(certain(np.array([1, 1, *[0] * 10])), np.zeros(12, np.int64), KINDS)
    words = "12 images measured: the true accuracy may be anywhere between 55% and 96%"
    told = list(_accuracy_lines({"holdout": twelve, "in_words": words}))
    assert [line.split()[0] for line in told] == ["accuracy", "12", "macro-F1"]
    assert told[1].strip() == words
    before, now, *rest = _compared(["v1", "v2"], [twelve, twelve])
    assert "macro-F1" in before
    assert before.replace("v1", "v2") == now
    assert rest[0] == f"v1: {words}."
    assert "recall of v1" in rest[-1]
    assert "83.3% (55.2% to 95.3%)" in rest[-1]


def test_the_balanced_accuracy_is_the_mean_recall_of_the_classes_that_are_there() -> None:
    truth, said = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 2, 2])
    found = measured(certain(said), truth, KINDS)
    balanced = found["balanced_accuracy"]
    assert (balanced["value"], balanced["classes"]) == (0.375, 2)
    assert 0 <= balanced["low"] < 0.375 < balanced["high"] <= 1
    assert found["commonest"] == {"name": "cat", "share": 0.8}
    one = measured(certain(truth[:4]), truth[:4], KINDS)["balanced_accuracy"]
    low, high = wilson_interval(4, 4)
    assert (one["low"], one["high"]) == (round(low, 4), round(high, 4))


@pytest.mark.slow
def test_the_interval_of_the_balanced_accuracy_holds_the_truth_nearly_as_often_as_it_says() -> None:
    rng, recall = np.random.default_rng(0), np.array([0.95, 0.8, 0.6])
    held = 0
    for _ in range(400):
        truth = rng.choice(3, size=60, p=[0.6, 0.3, 0.1])
        said = np.where(rng.random(60) < recall[truth], truth, (truth + 1) % 3)
        balanced = measured(certain(said), truth, KINDS)["balanced_accuracy"]
        held += balanced["low"] <= recall[np.unique(truth)].mean() <= balanced["high"]
    assert 0.89 <= held / 400 <= 0.98


def test_an_accuracy_that_one_answer_would_have_is_told_with_the_balanced_one() -> None:
    truth = np.array([0] * 59 + [1])
    blind = measured(certain(np.zeros(60, np.int64)), truth, KINDS)
    words = imbalance(blind)
    assert words is not None
    assert words.startswith("always answering 'cat' would be right on 98.3%: go by the balanced accuracy, 50.0% (")
    told = list(_accuracy_lines({"holdout": blind, "imbalance_in_words": words}))
    assert told[1].strip() == words
    even = np.arange(60) % 3
    assert imbalance(measured(certain(even), even, KINDS)) is None
    assert imbalance(measured(certain(np.zeros(2, np.int64)), np.array([0, 1]), KINDS)) is None, (
        "two images tell nothing"
    )
    ticks = np.ones((5, 3), dtype=bool)
    assert imbalance(measured(ticks.astype(float), ticks, KINDS)) is None, "several labels have no commonest"
    assert imbalance({"n": 60, "low": 0.2, "accuracy": 0.9}) is None, "as an earlier release measured it"
    assert imbalance(None) is None
