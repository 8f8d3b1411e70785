"""Advice: stopping, and what was saved. The truth is known because the curves are made here."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from ml_backend.errors import InvalidInputError
from ml_backend.strategies.advice import cohen_kappa, interval_text, labels_saved, stopping_advice


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


def test_stopping_is_advised_after_three_stable_rounds_in_a_row() -> None:
    assert not stopping_advice(changing([300, 5, 5])).advised
    assert stopping_advice(changing([300, 5, 5, 5])).advised
    assert not stopping_advice(changing([300, 5, 5, 5, 100])).advised


def test_stopping_says_why() -> None:
    assert "too early" in stopping_advice(changing([])).reason
    assert "still changing" in stopping_advice(changing([300])).reason
    assert "more labels will change little" in stopping_advice(changing([1, 1, 1])).reason


def outcomes(accuracy: float | list[float], rows: int = 2000) -> NDArray[np.bool_]:
    """Whether each held-out row is right: the same rows are hard for every model."""
    return rng(5).random(rows) < np.asarray(accuracy)[..., None]


def test_labels_saved_are_read_off_the_random_curve() -> None:
    """Random: 0.95 - n^-0.5, so that 0.87 takes 156 random labels; 60 were given."""
    sizes = [10, 20, 40, 80, 120]
    random_right = outcomes([0.95 - n**-0.5 for n in sizes])
    saved = labels_saved(60, outcomes(0.87), sizes, random_right, rng())
    assert saved.low < 156 - 60 < saved.high
    assert saved.labels == pytest.approx(96, rel=0.4)
    assert not saved.at_least
    assert interval_text(saved).startswith("about ")


def test_an_accuracy_random_never_shows_is_told_as_a_lower_bound() -> None:
    sizes = [10, 20, 40, 80]
    saved = labels_saved(60, outcomes(0.99), sizes, outcomes([0.6, 0.61, 0.61, 0.61]), rng())
    assert saved.at_least
    assert interval_text(saved).startswith("at least ")


def test_nothing_saved_is_not_made_something() -> None:
    sizes = [10, 20, 40, 80, 160]
    random_right = outcomes([0.95 - n**-0.5 for n in sizes])
    saved = labels_saved(80, random_right[3], sizes, random_right, rng())
    assert saved.low <= 0 <= saved.high


def test_too_few_random_models_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least three"):
        labels_saved(60, outcomes(0.9), [10, 20], outcomes([0.5, 0.6]), rng())
