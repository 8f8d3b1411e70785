"""What is expected of more labels: nothing too early, nothing surer than it is, and no figure out of reach."""

from __future__ import annotations

import numpy as np

from ml_backend.insight.forecast import Measured, forecast, too_early


def versions(floor: float, labels: range, share: float = 0.1, seed: int = 0) -> list[Measured]:
    """As a project measures: ever more of the same held-out images, whose difficulty stays."""
    luck = np.random.default_rng(seed).random(10_000)
    found = []
    for count in labels:
        n = max(20, round(share * count))
        error = floor + 2.0 * count**-0.6
        found.append(Measured(count, n, int((luck[:n] >= error).sum())))
    return found


def test_too_little_is_no_ground_for_a_forecast() -> None:
    few = versions(0.1, range(40, 100, 20))
    assert "it takes 4 measured versions" in str(too_early(few))
    assert "held-out labels" in str(too_early([Measured(c, 8, 7) for c in range(40, 200, 20)]))
    assert "too alike" in str(too_early(versions(0.1, range(400, 480, 20))))
    assert too_early(versions(0.1, range(40, 200, 20))) is None


def test_of_curves_that_are_as_it_takes_them_to_be_four_in_five_end_in_the_range() -> None:
    inside = 0
    for seed in range(100):
        found = forecast(versions(0.1, range(40, 301, 20), seed=seed), [600])[0]
        inside += found.low <= 0.9 - 2.0 * 600**-0.6 <= found.high
    assert inside >= 78


def test_more_labels_are_less_sure_and_never_beyond_everything_right() -> None:
    points = [Measured(count, 30, 30) for count in range(40, 400, 40)]
    soon, late = forecast(points, [450, 4_000])
    assert 0.0 <= soon.low <= soon.accuracy <= soon.high <= 1.0
    assert late.high <= 1.0
    curve = versions(0.05, range(40, 301, 20))
    near, far = forecast(curve, [320, 3_000])
    assert far.high - far.low >= near.high - near.low
    assert far.accuracy >= near.accuracy


def test_the_same_versions_give_the_same_forecast() -> None:
    points = versions(0.1, range(40, 301, 20))
    assert forecast(points, [500]) == forecast(points, [500])


def test_a_steep_start_with_few_images_is_no_error() -> None:
    points = [Measured(2, 2, 0), Measured(4, 3, 0), Measured(300, 20, 20), Measured(400, 20, 20)]
    assert 0.0 <= forecast(points, [500])[0].low <= 1.0
