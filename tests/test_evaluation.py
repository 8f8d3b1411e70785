"""Numbers about models, against values known from elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ml_backend.learning.evaluation import confident_from, evaluate, significantly_worse, wilson_interval
from ml_backend.learning.quality import suspects


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_interval_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    correct, n = counts
    expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_interval_of_nothing_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_right_answers_than_answers_are_refused() -> None:
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


def test_candidate_that_loses_ten_and_wins_none_is_significantly_worse() -> None:
    current = np.ones(100, bool)
    candidate = current.copy()
    candidate[:10] = False
    assert significantly_worse(candidate, current)
    assert not significantly_worse(current, candidate)


def test_few_differences_prove_nothing() -> None:
    current, candidate = np.ones(20, bool), np.ones(20, bool)
    candidate[:4] = False  # 0.5 ** 4 = 0.0625
    assert not significantly_worse(candidate, current)
    candidate[4] = False
    assert significantly_worse(candidate, current)


def test_equal_models_and_no_examples_are_not_worse() -> None:
    assert not significantly_worse(np.ones(9, bool), np.ones(9, bool))
    assert not significantly_worse(np.zeros(0, bool), np.zeros(0, bool))


def test_models_judged_on_different_examples_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same examples"):
        significantly_worse(np.ones(3, bool), np.ones(4, bool))


def test_equally_good_models_are_rarely_called_worse() -> None:
    generator = np.random.default_rng(0)
    draws = [significantly_worse(*(generator.random((2, 80)) < 0.9)) for _ in range(500)]
    assert np.mean(draws) < 0.05


def test_single_label_report() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.4, 0.5, 0.1]])
    report = evaluate(probabilities, np.array([0, 1, 1, 1]), ["a", "b", "c"])
    assert report.accuracy == 0.75
    assert report.correct.tolist() == [True, True, False, True]
    assert (report.low, report.high) == wilson_interval(3, 4)
    assert report.log_loss == pytest.approx(-np.log([0.8, 0.7, 0.3, 0.5]).mean())
    a, b, c = report.classes
    assert (a.support, a.precision, a.recall) == (1, 0.5, 1.0)
    assert (b.support, b.precision) == (3, 1.0)
    assert b.recall == pytest.approx(2 / 3)
    assert (c.support, c.precision, c.recall) == (0, None, None)


def test_multi_label_report_counts_whole_sets() -> None:
    probabilities = np.array([[0.9, 0.2], [0.9, 0.6], [0.1, 0.1]])
    report = evaluate(probabilities, np.array([[True, False], [True, False], [False, False]]), ["a", "b"])
    assert report.correct.tolist() == [True, False, True]
    assert report.classes[1].precision == 0.0


def test_calibration_error_of_an_overconfident_model_is_its_gap() -> None:
    probabilities = np.tile([0.95, 0.05], (100, 1))
    labels = np.array([0] * 60 + [1] * 40)
    assert evaluate(probabilities, labels, ["a", "b"]).calibration_error == pytest.approx(0.35)


def test_nothing_to_evaluate_is_told_as_such() -> None:
    report = evaluate(np.zeros((0, 2)), np.zeros(0, np.int64), ["a", "b"])
    assert (report.accuracy, report.low, report.high) == (None, 0.0, 1.0)


def test_wrong_labels_are_the_most_doubtful_ones() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(3, size=300)
    probabilities = np.full((300, 3), 0.05, np.float32)
    probabilities[np.arange(300), truth] = generator.uniform(0.6, 0.9, 300)
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = truth.copy()
    labels[:10] = (truth[:10] + 1) % 3
    found = suspects(probabilities, labels)
    assert {suspect.row for suspect in found} <= set(range(10))
    assert len(found) >= 3
    assert all(suspect.suggested == truth[suspect.row] for suspect in found)
    assert found == sorted(found, key=lambda suspect: -suspect.score)


def test_guesses_are_ticked_only_where_right_answers_prove_it() -> None:
    sure = np.linspace(0.5, 1.0, 100)
    right = sure > 0.8
    least = confident_from(sure, right, 0.9)
    assert least is not None
    assert 0.75 < least < 0.85
    above = right[sure >= least]
    assert wilson_interval(int(above.sum()), len(above), 0.9)[0] >= 0.9
    assert confident_from(sure[-24:], right[-24:], 0.9) is None, "24 right answers of 24 do not show 9 in 10"
    assert confident_from(sure[-25:], right[-25:], 0.9) is not None
    assert confident_from(sure, np.zeros(100, bool), 0.9) is None
    assert confident_from(np.zeros(0), np.zeros(0, bool), 0.9) is None


def test_guesses_of_equal_confidence_are_judged_together() -> None:
    same = np.full(60, 0.97)
    assert confident_from(same, np.arange(60) < 40, 0.9) is None, "however the 40 right ones are sorted"
    assert confident_from(same, np.arange(60) < 59, 0.9) == 0.97
