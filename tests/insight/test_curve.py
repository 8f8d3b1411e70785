"""The curve that is drawn and forecast: every version where it belongs, 500 of them thin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from ml_backend.insight.curve import Curve, Point, RandomPoint, beside, thinned, to_forecast


def point(number: int, labels: int, **more: object) -> Point:
    made = Point(number, "promoted", "head", labels, 50, 0.9, 0.8, 0.95, 0, datetime(2026, 1, 1, tzinfo=UTC))
    return replace(made, **more)  # type: ignore[arg-type]


def test_five_hundred_versions_are_drawn_thin_with_the_ends_and_the_one_that_is_served() -> None:
    points = [point(n, 20 * n, served=n == 321) for n in range(1, 501)]
    drawn = thinned(points, 150)
    assert len(drawn) <= 151
    assert {drawn[0].number, drawn[-1].number, 321} >= {1, 500}
    assert any(each.served for each in drawn)
    assert [each.number for each in drawn] == sorted(each.number for each in drawn)


def test_a_forecast_goes_by_what_learned_from_ever_more_of_the_labels_there_are() -> None:
    points = [
        point(1, 40, mode="import"),
        point(2, 60),
        point(3, 80, state="rejected", passed=False),
        point(4, 500),
        point(5, 70, accuracy=None),
        point(6, 90),
        point(7, 90),
        point(8, 120),
        point(9, 130, state="pruned"),
        point(10, 135, state="pruned", passed=False),
        point(11, 138, state="rolled_back", passed=False),
    ]
    assert [each.labels for each in to_forecast(points, 140)] == [60, 90, 120, 130]


def test_the_arms_are_compared_at_the_same_number_of_labels_never_where_the_strategy_had_more() -> None:
    points = (point(1, 20), point(2, 40), point(3, 60))
    arm = RandomPoint(3, 45, 50, 50, 0.8, 0.7, 0.9)
    assert beside(Curve(points, (arm,))) == (arm, points[1])
    assert beside(Curve(points[2:], (arm,))) is None
