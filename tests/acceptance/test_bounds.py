"""How many looks a random sample needs: neither too few, by chance alone, nor more than there are."""

from __future__ import annotations

from math import comb, lgamma

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.acceptance import bounds
from ml_backend.acceptance.bounds import FORGIVEN, SHARES, enough, looks_needed


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
    """No wrong one in so many looks has a probability of at most its share of the risk, and in one less, more."""
    size, wrong, risk = 500, 11, 0.05
    first = looks_needed(size, wrong - 1, risk)[0]
    none_found = [comb(size - wrong, looks) / comb(size, looks) for looks in (first, first - 1)]
    share = SHARES[0] / SHARES[:wrong].sum()
    assert none_found[0] <= share * risk < none_found[1]


def let_pass(size: int, wrong: int, points: tuple[int, ...]) -> float:
    """Probability that a sample ends with "few enough" at any of its points; the paths are counted draw by draw."""
    paths, ended = np.eye(1, len(points) + 1)[0], 0.0
    left = np.maximum(wrong - np.arange(len(paths)), 0)
    for drawn in range(size + 1):
        if drawn:
            hit = paths * np.minimum(left / (size - drawn + 1), 1.0)
            paths = paths - hit
            paths[1:] += hit[:-1]
        enough_with = np.searchsorted(points, drawn, side="right")  # so few wrong ones end it here
        ended += paths[:enough_with].sum()
        paths[:enough_with] = 0.0
    return ended


@pytest.mark.parametrize("size", [1, 2, 7, 40, 180, 1500])
@pytest.mark.parametrize("share", [0.0, 0.004, 0.02, 0.1, 0.6])
@pytest.mark.parametrize("risk", [0.05, 0.0016])
def test_over_all_paths_the_risk_is_kept_and_nearly_used(size: int, share: float, risk: float) -> None:
    allowed = int(share * size)
    passed = let_pass(size, allowed + 1, looks_needed(size, allowed, risk))
    assert passed <= risk * (1 + 1e-9)
    if allowed >= 18 and share <= 0.1:
        assert passed >= 0.9 * risk, "what is not used costs looks"


def test_a_million_labels_take_as_few_steps_as_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logarithms that are asked for are counted, not the time."""
    asked = [0]

    def counted(number: float) -> float:
        asked[0] += 1
        return lgamma(number)

    monkeypatch.setattr(bounds, "lgamma", counted)
    steps = []
    for size in (4_000, 1_000_000):
        asked[0] = 0
        assert len(list(enough(size, int(0.02 * size), 0.04))) == FORGIVEN
        steps.append(asked[0])
    assert steps[1] <= 2 * steps[0]


def test_a_model_with_half_of_the_errors_that_are_allowed_is_vouched_for_before_two_thousand_looks() -> None:
    """As many wrong ones as are to be expected, in a sample of 8,000 labels, of which 2 % may be wrong and 1 % are."""
    points = looks_needed(8_000, 160, 0.04)
    assert next(looks for wrong, looks in enumerate(points) if 0.01 * looks <= wrong + 0.5) < 2_000


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
