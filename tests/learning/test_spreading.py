"""A head that learns from the unlabelled, beside what the labels alone say."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.learning.neighbours import NeighbourGraph
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import TrainedHead, train_head
from ml_backend.simulation.data import Data, digits

NAMES = tuple("0123456789")


def few_labels(data: Data, count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).choice(len(data.labels), count, replace=False))


def unlabelled(data: Data, at: NDArray[np.int64]) -> Unlabelled:
    places = np.arange(len(data.features))
    return Unlabelled(NeighbourGraph.of(data.features, places), data.features, places, at)


def accuracy(trained: TrainedHead, data: Data) -> float:
    return float((trained.head.predict_proba(data.test_features).argmax(axis=1) == data.test_labels).mean())


def test_the_unlabelled_teach_more_than_forty_labels_alone() -> None:
    gains = []
    for seed in range(3):
        data = digits(seed)
        at = few_labels(data, 40, seed)
        alone = train_head(data.features[at], data.labels[at], NAMES, seed=0)
        spread = train_head(data.features[at], data.labels[at], NAMES, seed=0, pool=unlabelled(data, at))
        gains.append(accuracy(spread, data) - accuracy(alone, data))
    assert min(gains) > 0
    assert np.mean(gains) > 0.05


def test_where_neighbours_say_nothing_the_head_is_that_of_the_labels() -> None:
    """A graph without any sense must not cost accuracy: the folds notice."""
    data = digits(0)
    at = few_labels(data, 300)
    shuffled = unlabelled(data, at)
    places = np.random.default_rng(1).permutation(len(data.features))
    senseless = Unlabelled(NeighbourGraph.of(data.features, places), data.features, shuffled.places, at)
    alone = train_head(data.features[at], data.labels[at], NAMES, seed=0)
    spread = train_head(data.features[at], data.labels[at], NAMES, seed=0, pool=senseless)
    assert accuracy(spread, data) > accuracy(alone, data) - 0.01


def test_the_unlabelled_correct_a_prior_that_is_wrong_and_leave_one_alone_that_is_right() -> None:
    data = digits(0)
    elsewhere, here = np.split(np.random.default_rng(0).permutation(len(data.features)), [150])
    here = np.sort(here)
    pool = Data("pool", NAMES, data.features[here], data.labels[here], data.test_features, data.test_labels)

    def gain(shift: int, labels: int) -> float:
        """Of a model from elsewhere, whose classes are so many places off, corrected here by so many labels."""
        prior = train_head(data.features[elsewhere], (data.labels[elsewhere] + shift) % 10, NAMES, seed=0).head
        at = few_labels(pool, labels)
        alone = train_head(pool.features[at], pool.labels[at], NAMES, seed=0, prior=prior)
        spread = train_head(pool.features[at], pool.labels[at], NAMES, seed=0, prior=prior, pool=unlabelled(pool, at))
        return accuracy(spread, data) - accuracy(alone, data)

    assert gain(3, 40) > 0.1
    assert gain(0, 5) > -0.02


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_class_that_only_the_prior_knows_is_not_forgotten(multilabel: bool) -> None:
    """The unlabelled say of a class without a label that nothing is of it."""
    kept = []
    for seed in range(3):
        data = digits(seed)
        truth = np.eye(10, dtype=bool)[data.labels] if multilabel else data.labels
        elsewhere, here = np.split(np.random.default_rng(seed).permutation(len(data.features)), [150])
        prior = train_head(data.features[elsewhere], truth[elsewhere], NAMES, seed=0).head
        at = np.sort(here[data.labels[here] < 5][:60])
        apart = np.where(np.arange(60) % 6 == 0, np.arange(60) // 6 % 5, -1)
        rest = data.test_labels >= 5
        for pool in (None, unlabelled(data, at)):
            trained = train_head(data.features[at], truth[at], NAMES, seed=0, prior=prior, pool=pool, apart=apart)
            assert trained.blind is not None
            asked = (
                head.predict_proba(data.test_features) for head in (trained.head, trained.blind, *trained.fold_heads)
            )
            kept.append([(p.argmax(1) == data.test_labels)[rest].mean() for p in asked])
    alone, spread = np.mean(kept[::2], axis=0), np.mean(kept[1::2], axis=0)
    assert (spread > alone - 0.02).all(), f"{spread} instead of {alone}"


def test_what_a_row_is_answered_by_folds_does_not_know_its_label() -> None:
    """Labels at random: folds that had seen them, or what came of them, would be right more often than one in ten."""
    data = digits(0)
    at = few_labels(data, 400)
    labels = np.random.default_rng(2).integers(10, size=400)
    trained = train_head(data.features[at], labels, NAMES, seed=0, pool=unlabelled(data, at))
    assert trained.report.accuracy is not None
    assert trained.report.accuracy < 0.16


def test_several_labels_an_image_are_spread_each_for_itself() -> None:
    data = digits(0)
    at = few_labels(data, 60)
    truth = np.stack([data.labels % 2 == 0, data.labels > 4], axis=1)
    tested = np.stack([data.test_labels % 2 == 0, data.test_labels > 4], axis=1)
    right = []
    for pool in (None, unlabelled(data, at)):
        trained = train_head(data.features[at], truth[at], ("even", "large"), seed=0, pool=pool)
        right.append(((trained.head.predict_proba(data.test_features) > 0.5) == tested).mean())
    assert right[1] > right[0] + 0.03


def test_with_several_labels_an_image_each_decision_on_the_folds_is_heard() -> None:
    """Twenty labels an image, each rare and none to be seen in the image: what neighbours have is not ticked."""
    names, more = [str(number) for number in range(20)], []
    for seed in range(3):
        data = digits(seed)
        at = few_labels(data, 10, seed)
        given = np.random.default_rng(4 + seed).random((len(at), 20)) < 0.1
        alone, spread = (
            train_head(data.features[at], given, names, seed=0, pool=pool) for pool in (None, unlabelled(data, at))
        )
        ticked = [(head.head.predict_proba(data.test_features) > 0.5).sum(axis=1).mean() for head in (alone, spread)]
        more.append(ticked[1] - ticked[0])
    assert np.mean(more) < 0.1


def test_the_same_rows_and_seed_give_the_same_head() -> None:
    data = digits(0)
    at = few_labels(data, 50)
    first, second = (
        train_head(data.features[at], data.labels[at], NAMES, seed=3, pool=unlabelled(data, at)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.head.weight, second.head.weight)
