"""How many looks a random sample needs: neither too few, by chance alone, nor more than there are."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.acceptance.bounds import looks_needed


def says_so(wrong_at: NDArray[np.int64], points: tuple[int, ...]) -> bool:
    """Whether a sample ends with "few enough", where the wrong ones come at these places of it, ascending from 0."""
    found = np.searchsorted(wrong_at, points)
    return bool((found <= np.arange(len(points))).any())


@pytest.mark.parametrize(
    ("size", "most_wrong", "risk"), [(7500, 150, 0.04), (300, 6, 0.05), (60, 2, 0.05), (2000, 200, 0.05)]
)
def test_one_wrong_label_too_many_is_let_pass_as_often_as_the_risk_says_and_no_more(
    size: int, most_wrong: int, risk: float
) -> None:
    """Looked at after each label, and ended at the best moment."""
    rng, points, runs = np.random.default_rng(1), looks_needed(size, most_wrong, risk), 4000
    passed = sum(says_so(np.sort(rng.choice(size, most_wrong + 1, replace=False)), points) for _ in range(runs))
    assert passed / runs <= risk + 3 * (risk / runs) ** 0.5
    assert passed / runs >= risk / 3, "a bound that never lets anything pass would be no use"


def test_the_first_number_is_that_of_the_urn() -> None:
    """No wrong one in so many looks has a probability of at most six tenths of the risk, and in one less, more."""
    size, wrong, risk = 500, 11, 0.05
    first = looks_needed(size, wrong - 1, risk)[0]
    none_found = [comb(size - wrong, looks) / comb(size, looks) for looks in (first, first - 1)]
    assert none_found[0] <= 0.6 * risk < none_found[1]


def test_each_wrong_one_costs_more_looks() -> None:
    points = looks_needed(10_000, 200, 0.05)
    assert list(points) == sorted(set(points))


def test_with_none_allowed_and_a_small_risk_all_have_to_be_looked_at() -> None:
    assert looks_needed(40, 0, 0.01) == (40,)
    assert looks_needed(1, 0, 0.05) == (1,)


def test_a_sample_with_more_wrong_ones_than_are_allowed_says_nothing_whatever_its_length() -> None:
    assert all(len(looks_needed(size, most, 0.05)) <= most + 1 for size, most in ((20, 1), (50, 2), (9, 0)))


def test_where_all_may_be_wrong_no_look_is_needed() -> None:
    assert looks_needed(5, 5, 0.05) == (0,)
