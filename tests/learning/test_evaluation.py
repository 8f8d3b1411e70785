"""Numbers about models, against values known from elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ml_backend.learning.evaluation import confident_from, significantly_worse, wilson_interval


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
