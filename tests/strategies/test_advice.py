"""Advice: stopping, and what it takes to give it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from ml_backend.errors import InvalidInputError
from ml_backend.strategies.advice import cohen_kappa, doubt_of, stopping_advice


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_kappa_is_cohens() -> None:
    first, second = rng().integers(4, size=(2, 300))
    second[:200] = first[:200]
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_two_models_that_only_know_one_class_agree() -> None:
    assert cohen_kappa(np.zeros(9, dtype=np.int64), np.zeros(9, dtype=np.int64)) == 1.0


def test_kappa_of_different_rows_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="same rows"):
        cohen_kappa(np.zeros(3, dtype=np.int64), np.zeros(4, dtype=np.int64))


def changing(changes: list[int]) -> list[float]:
    """Kappas of models with the one before: of 1,000 predictions that many change each time."""
    current = rng().integers(5, size=1000)
    models = [current]
    for count in changes:
        current = current.copy()
        current[:count] = (current[:count] + 1) % 5
        models.append(current)
    return [cohen_kappa(before, after) for before, after in pairwise(models)]


def test_stopping_is_advised_after_three_stable_comparisons_in_a_row() -> None:
    assert not stopping_advice(changing([300, 5, 5]), None).advised
    assert stopping_advice(changing([300, 5, 5, 5]), None).advised
    assert not stopping_advice(changing([300, 5, 5, 5, 100]), None).advised


def test_stopping_says_why() -> None:
    assert "too early" in stopping_advice(changing([]), None).reason
    assert "agree by 0.6" in stopping_advice(changing([300]), None).reason
    assert "more labels will change little" in stopping_advice(changing([1, 1, 1]), None).reason


def test_a_model_that_nothing_is_known_of_is_no_reason_to_stop_however_stable() -> None:
    advice = stopping_advice(changing([1, 1, 1]), "it takes no image for 'crack': label more of them")
    assert not advice.advised
    assert "hardly changes, but it takes no image for 'crack'" in advice.reason


NARROW = {"value": 0.9, "low": 0.85, "high": 0.95}


@pytest.mark.parametrize(
    ("labelled", "predicted", "held_out", "balanced", "said"),
    [
        ([9, 0, 9], [9, 0, 9], [9, 0, 9], NARROW, "no image is labelled 'b'"),
        ([9, 9, 9], [9, 9, 0], [9, 9, 9], NARROW, "it takes no image for 'c'"),
        ([9, 9, 9], [9, 9, 9], [0, 9, 0], NARROW, "accuracy is labelled 'a' (and 1 other class): go on"),
        ([9, 9, 9], [9, 9, 9], [9, 9, 9], {"value": 0.7, "low": 0.5, "high": 0.85}, "50% to 85%"),
        ([9, 9, 9], [9, 9, 9], [9, 9, 9], None, "no more is known than nothing"),
    ],
)
def test_what_is_not_known_of_a_model_is_said_with_what_would_end_it(
    labelled: list[int], predicted: list[int], held_out: list[int], balanced: dict[str, float] | None, said: str
) -> None:
    doubt = doubt_of(("a", "b", "c"), np.array(labelled), np.array(predicted), np.array(held_out), balanced)
    assert doubt is not None
    assert said in doubt


def test_a_model_that_is_known_leaves_no_doubt() -> None:
    assert doubt_of(("a", "b"), np.array([9, 9]), np.array([5, 5]), np.array([3, 3]), NARROW) is None
