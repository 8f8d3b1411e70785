"""The head: right, calibrated, repeatable, and ready for whatever labels there are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from ml_backend.learning.head import CHUNK, Head
from ml_backend.learning.logistic import Design, Problems, solve
from ml_backend.learning.training import train_head

pytestmark = pytest.mark.slow

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]

CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = load_digits()
    features = data.data - data.data.mean(0)
    order = np.random.default_rng(0).permutation(len(features))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)[order], data.target[order]


def accuracy(head: Head, features: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    return float((head.predict_proba(features).argmax(1) == labels).mean())


@pytest.mark.parametrize("n", [50, 300])
def test_solution_is_scikit_learns(digits: Digits, n: int) -> None:
    features, labels = digits[0][:n], digits[1][:n]
    penalty = 1e-2
    design = Design.of(torch.from_numpy(features))
    targets = torch.eye(10)[:, torch.from_numpy(labels)]
    problems = Problems(design, targets, torch.full((1, 1, n), 1 / n), torch.tensor([penalty]), False)
    (weight,), _ = design.unrotate(solve(problems, tolerance=1e-8, max_steps=300))
    # The bias is penalised here and is not there: a constant column makes the two problems one.
    centred = np.hstack([features - features.mean(0), np.ones((n, 1), np.float32)])
    peer = LogisticRegression(C=1 / (n * penalty), fit_intercept=False, tol=1e-8, max_iter=2000).fit(centred, labels)
    assert np.abs(weight.numpy() - peer.coef_[:, :-1]).max() < 2e-3


def test_many_classes_are_solved_to_the_same_end_in_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    problems, steps = many_classes(), 20
    best = problems.value_and_gradient(solve(problems, tolerance=1e-9, max_steps=500))[0]
    off = []
    for few in (1_000, 32):  # the careful bound, and the one of many classes
        monkeypatch.setattr("ml_backend.learning.logistic.FEW_CLASSES", few)
        found = solve(problems, tolerance=0.0, max_steps=steps)
        off.append(float(problems.value_and_gradient(found)[0] / best - 1))
    assert off[1] < 1e-3
    assert off[1] < off[0] / 10


def test_rows_a_few_at_a_time_give_the_sums_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = many_classes()
    w = torch.randn(1, 100, problems.design.rows.shape[1], generator=torch.Generator().manual_seed(0))
    value, gradient = problems.value_and_gradient(w)
    monkeypatch.setattr("ml_backend.learning.logistic.ENTRIES", 700)
    in_parts, added = problems.value_and_gradient(w)
    assert torch.allclose(value, in_parts, rtol=1e-5)
    assert torch.allclose(gradient, added, atol=1e-5)


def many_classes() -> Problems:
    """As vectors of networks are: most of their variance lies in few directions."""
    labels = torch.arange(300) % 100
    centres = torch.randn(100, 128, generator=torch.Generator().manual_seed(1))
    rows = 0.5 * centres[labels] + torch.randn(300, 128, generator=torch.Generator().manual_seed(2))
    design = Design.of(torch.nn.functional.normalize(rows / torch.arange(1, 129).sqrt()))
    return Problems(design, torch.eye(100)[:, labels], torch.full((1, 1, 300), 1 / 300), torch.tensor([1e-4]), False)


def test_a_long_training_comes_to_what_a_short_one_does(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """One problem after another, on the rows that each may know, instead of all at once."""
    features, labels = digits
    apart = np.where(np.arange(400) % 10 == 0, np.arange(400) // 10 % 5, -1)
    short = train_head(features[:400], labels[:400], CLASSES, seed=0, apart=apart, penalties=(1e-4,))
    monkeypatch.setattr("ml_backend.learning.cross_validation.LONG", 1)
    long = train_head(features[:400], labels[:400], CLASSES, seed=0, apart=apart, penalties=(1e-4,))
    assert long.report.fold_probabilities is not None
    assert (long.report.fold_probabilities.argmax(1) == labels[:400]).mean() == pytest.approx(
        short.report.accuracy, abs=0.02
    )
    for one, other in zip((long.head, *long.fold_heads), (short.head, *short.fold_heads), strict=True):
        assert np.abs(one.predict_proba(features) - other.predict_proba(features)).mean() < 0.01


def test_no_head_of_a_long_training_begins_with_what_it_may_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels at random: a head that began with those of its fold, and stopped early, would be right too often there."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((600, 64)), rng.integers(10, size=600)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    monkeypatch.setattr("ml_backend.learning.cross_validation.LONG", 1)
    fold = np.arange(600) % 5
    trained = train_head(features, labels, CLASSES, seed=0, apart=np.where(np.arange(600) < 300, fold, -1))
    right = [
        trained.fold_heads[k].predict_proba(features[:300]).argmax(1)[fold[:300] == k] == labels[:300][fold[:300] == k]
        for k in range(5)
    ]
    assert np.concatenate(right).mean() < 0.17
    assert trained.report.accuracy is not None
    assert trained.report.accuracy < 0.15


@pytest.mark.parametrize("n", [200, 1000])
def test_accuracy_is_not_below_scikit_learns_cross_validated(digits: Digits, n: int) -> None:
    features, labels = digits
    test = slice(1000, None)
    gains = []
    for seed in range(3):  # the choice of one penalty on few labels is a matter of luck, theirs and ours
        picked = np.random.default_rng(seed).permutation(1000)[:n]
        head = train_head(features[picked], labels[picked], CLASSES, seed=0).head
        peer = GridSearchCV(LogisticRegression(max_iter=500), {"C": [1, 10, 100]}, cv=5)
        peer.fit(features[picked], labels[picked])
        gains.append(accuracy(head, features[test], labels[test]) - peer.score(features[test], labels[test]))
    assert np.mean(gains) >= -0.01


def test_same_labels_and_seed_give_the_same_weights(digits: Digits) -> None:
    one, two = (train_head(digits[0][:200], digits[1][:200], CLASSES, seed=3).head for _ in range(2))
    assert np.array_equal(one.weight, two.weight)
    assert one.temperature == two.temperature


def test_probabilities_are_calibrated_on_images_it_has_not_seen(digits: Digits) -> None:
    features, labels = digits
    head = train_head(features[:300], labels[:300], CLASSES, seed=0).head
    probabilities = head.predict_proba(features[300:])
    assert calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[300:]) < 0.05
    assert -np.log(probabilities[np.arange(len(probabilities)), labels[300:]]).mean() < 0.35


def calibration_error(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal bins, weighted by their size (Guo et al., ICML 2017)."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def test_fold_probabilities_tell_the_accuracy_to_come(digits: Digits) -> None:
    features, labels = digits
    trained = train_head(features[:300], labels[:300], CLASSES, seed=0)
    assert trained.report.fold_probabilities is not None
    assert trained.report.fold_probabilities.shape == (300, 10)
    assert trained.report.accuracy is not None
    assert abs(trained.report.accuracy - accuracy(trained.head, features[300:], labels[300:])) < 0.05


def test_class_without_a_label_keeps_a_small_probability(digits: Digits) -> None:
    features, labels = digits
    seen = np.flatnonzero(labels < 9)[:200]
    probabilities = train_head(features[seen], labels[seen], CLASSES, seed=0).head.predict_proba(features)
    assert probabilities.shape == (len(features), 10)
    assert 0 < probabilities[:, 9].mean() < 0.1


@pytest.mark.parametrize("labels", [[4], [4, 4], [0, 1], [0, 1, 2], [7] * 20])
def test_any_number_of_labels_makes_a_head(digits: Digits, labels: list[int]) -> None:
    trained = train_head(digits[0][: len(labels)], np.array(labels), CLASSES, seed=0)
    probabilities = trained.head.predict_proba(digits[0][: len(labels)])
    assert np.isfinite(probabilities).all()
    assert probabilities.argmax(1).tolist() == labels
    assert probabilities.max() < 1.0


def test_identical_images_with_different_labels_share_the_probability(digits: Digits) -> None:
    features = np.repeat(digits[0][:1], 10, 0)
    head = train_head(features, np.array([0, 1] * 5), CLASSES, seed=0).head
    assert head.predict_proba(features)[0, :2] == pytest.approx([0.5, 0.5], abs=0.1)


def test_balanced_weights_find_more_of_a_rare_class(digits: Digits) -> None:
    features, labels = digits
    rare = np.concatenate([np.flatnonzero(labels[:1000] != 8), np.flatnonzero(labels[:1000] == 8)[:4]])
    found = []
    for weighting in (None, "balanced"):
        head = train_head(features[rare], labels[rare], CLASSES, seed=0, class_weight=weighting).head
        found.append((head.predict_proba(features[1000:])[labels[1000:] == 8].argmax(1) == 8).mean())
    assert found[1] > found[0]


def test_several_labels_an_image_are_learned_apart(digits: Digits) -> None:
    features, labels = digits
    truth = np.stack([labels % 2 == 0, labels > 4, labels == 3, labels == 99], 1)
    trained = train_head(features[:500], truth[:500], ("even", "large", "three", "never"), seed=0)
    assert trained.head.multilabel
    probabilities = trained.head.predict_proba(features[500:])
    assert ((probabilities >= 0.5) == truth[500:]).mean(0)[2:].min() > 0.95
    assert ((probabilities >= 0.5) == truth[500:]).mean() > 0.9
    assert probabilities[:, 3].max() < 0.1


@pytest.mark.parametrize("margin", [10.0, 30.0, 45.0, 1000.0])
def test_a_prior_that_is_right_and_all_but_certain_fails_no_training(margin: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = rng.integers(2, size=20)
        features = rng.normal(size=(20, 16))
        features[:, 0] = 3 * (2 * labels - 1)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        weight = np.zeros((2, 16), np.float32)
        weight[:, 0] = -margin, margin
        prior = Head(("a", "b"), weight, np.zeros(2, np.float32), 1.0, False)
        head = train_head(features, labels, ("a", "b"), seed=0, prior=prior).head
        assert accuracy(head, features, labels) == 1.0


def test_prior_head_is_kept_with_few_labels_and_outgrown_with_many(digits: Digits) -> None:
    features, labels = digits
    prior = train_head(features[:400], labels[:400], CLASSES, seed=0).head
    few = slice(400, 420)
    from_prior = train_head(features[few], labels[few], CLASSES, seed=0, prior=prior).head
    cold = train_head(features[few], labels[few], CLASSES, seed=0).head
    test = slice(1000, None)
    assert accuracy(from_prior, features[test], labels[test]) > accuracy(cold, features[test], labels[test]) + 0.1
    shuffled = (labels[400:900] + 1) % 10
    relearned = train_head(features[400:900], shuffled, CLASSES, seed=0, prior=prior).head
    assert accuracy(relearned, features[test], (labels[test] + 1) % 10) > 0.85


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (np.zeros((0, 4)), np.zeros(0, np.int64)),
        (np.zeros((3, 4)), np.zeros(2, np.int64)),
        (np.zeros((2, 4)), np.array([0, 10])),
        (np.zeros((2, 4)), np.array([-1, 0])),
        (np.zeros((2, 4)), np.zeros((2, 3), bool)),
    ],
)
def test_rows_and_labels_that_do_not_fit_are_refused(features: NDArray[np.floating[Any]], labels: NDArray[Any]) -> None:
    with pytest.raises(ValueError):
        train_head(features, labels, CLASSES, seed=0)


def test_saved_head_predicts_the_same(digits: Digits, tmp_path: Path) -> None:
    head = train_head(digits[0][:100], digits[1][:100], [f"Größe {i}" for i in range(10)], seed=0).head
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    assert loaded.classes == head.classes
    assert np.array_equal(loaded.predict_proba(digits[0]), head.predict_proba(digits[0]))


def test_half_precision_maps_longer_than_a_chunk_are_scored(digits: Digits, tmp_path: Path) -> None:
    head = train_head(digits[0][:100], digits[1][:100], CLASSES, seed=0).head
    rows = np.resize(digits[0], (CHUNK + 10, 64)).astype(np.float16)
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float16, "r", shape=rows.shape)
    probabilities = head.predict_proba(mapped)
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.abs(probabilities[-5:] - head.predict_proba(rows[-5:].astype(np.float32))).max() < 1e-6


def test_features_of_another_encoder_are_refused(digits: Digits) -> None:
    head = train_head(digits[0][:50], digits[1][:50], CLASSES, seed=0).head
    with pytest.raises(ValueError, match="must be"):
        head.predict_proba(np.zeros((3, 65), np.float32))
