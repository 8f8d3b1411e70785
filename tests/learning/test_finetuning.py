"""Fine-tuning: better than the head where features are poor. test_checkpoint.py: repeatable, and resumable."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, headless, new_network
from ml_backend.encoders.patches import fit_patches
from ml_backend.errors import ConfigError
from ml_backend.learning.augmentation import augment
from ml_backend.learning.finetuning import Refitted, finetune, refit
from ml_backend.learning.head import Head
from ml_backend.learning.training import train_head
from ml_backend.learning.tuning_run import Recipe

pytestmark = pytest.mark.slow

Poor = tuple[NetworkEncoder, NDArray[np.uint8], NDArray[np.int64]]

CLASSES = tuple("0123456789")
RECIPE = Recipe(epochs=7, batch_size=32, learning_rate=0.05, head_learning_rate=0.05, flip=False)


@pytest.fixture(scope="module")
def poor() -> Poor:
    """An untrained network, whose features are poor, and 1,797 digits prepared for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network("resnet18"))
    encoder = NetworkEncoder("resnet18", body, dim, Preprocessing(resize=32, crop=32))
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images = [Image.fromarray((image * 15.9).astype(np.uint8)) for image in data.images[order]]
    return encoder, np.stack([encoder.prepare(image) for image in images]), data.target[order]


@pytest.mark.slow
def test_tuned_network_beats_the_head_where_features_are_poor(poor: Poor) -> None:
    encoder, pixels, labels = poor
    head = train_head(encoder.forward(pixels[:400]), labels[:400], CLASSES, seed=0).head
    tuned = finetune(encoder, pixels[:400], labels[:400], CLASSES, seed=0, recipe=RECIPE)
    test = slice(1000, None)
    before = (head.predict_proba(encoder.forward(pixels[test])).argmax(1) == labels[test]).mean()
    vectors, frozen = tuned.encoder.forward(pixels[:400]), encoder.forward(pixels[:400])
    refitted = refit(vectors, frozen, labels[:400], CLASSES, tuned.validate, seed=0)
    own = refitted.trained.head.predict_proba(tuned.encoder.forward(pixels[test]))
    after = (own.argmax(1) == labels[test]).mean()
    assert after > before
    shown = float(own.max(1).mean())
    assert abs(shown - after) < 0.1, (
        "as sure as it is right, though the network has seen all that the head learned from"
    )
    assert tuned.encoder.id != encoder.id
    assert tuned.best.accuracy == max(epoch.accuracy for epoch in tuned.history)


@pytest.mark.parametrize(
    ("tuned", "alone", "differing", "better"),
    [(53, 52, 3, False), (60, 50, 14, True), (50, 50, 0, False), (49, 60, 13, False)],
)
def test_a_network_is_better_where_more_than_chance_speaks_for_it(
    tuned: int, alone: int, differing: int, better: bool
) -> None:
    trained = train_head(np.eye(4, dtype=np.float32), np.arange(4) % 2, ("a", "b"), seed=0)
    assert Refitted(trained, 72, tuned, alone, differing).better is better


def test_run_stops_when_the_held_out_accuracy_no_longer_rises(poor: Poor) -> None:
    encoder, pixels, labels = poor
    recipe = Recipe(epochs=30, batch_size=8, learning_rate=0.0, head_learning_rate=0.0, patience=2)
    tuned = finetune(encoder, pixels[:24], labels[:24], CLASSES, seed=0, recipe=recipe)
    assert (tuned.best.number, len(tuned.history)) == (1, 3)


def test_several_labels_an_image_can_be_tuned(poor: Poor) -> None:
    encoder, pixels, labels = poor
    truth = np.stack([labels % 2 == 0, labels > 4], 1)[:32]
    tuned = finetune(encoder, pixels[:32], truth, ("even", "large"), seed=0, recipe=Recipe(epochs=1, batch_size=16))
    refitted = refit(
        tuned.encoder.forward(pixels[:32]),
        encoder.forward(pixels[:32]),
        truth,
        ("even", "large"),
        tuned.validate,
        seed=0,
    )
    assert refitted.trained.head.multilabel


def test_encoder_that_was_not_made_to_be_tuned_is_refused() -> None:
    encoder = fit_patches([Image.effect_noise((28, 28), 60)], seed=0)
    with pytest.raises(ConfigError, match="network"):
        finetune(encoder, np.zeros((2, 28, 28, 1), np.uint8), np.array([0, 1]), ("a", "b"), seed=0)


def test_encoder_that_is_tuned_stays_as_it_is(poor: Poor) -> None:
    encoder, pixels, labels = poor
    before = encoder.forward(pixels[:4])
    finetune(encoder, pixels[:16], labels[:16], CLASSES, seed=0, recipe=Recipe(epochs=1, batch_size=8))
    assert np.array_equal(encoder.forward(pixels[:4]), before)


def test_augmented_views_follow_the_generator_and_stay_in_range() -> None:
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 20, 24, 3), np.uint8))
    one, two, three = (augment(batch, 1.0, flip=True, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert one.shape == batch.shape
    assert one.min() >= 0
    assert one.max() <= 255


def test_augmentation_of_no_strength_is_the_picture_itself() -> None:
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8))
    views = augment(batch, 0.0, flip=False, generator=torch.Generator().manual_seed(0))
    assert (views - batch).abs().max() < 0.1


def test_two_labels_are_enough_for_a_network_that_normalises_over_a_batch(poor: Poor) -> None:
    """One of them tells when to stop, so that a batch has one picture."""
    encoder, pixels, labels = poor
    two = np.array([int(np.flatnonzero(labels == each)[0]) for each in (3, 5)])
    tuned = finetune(encoder, pixels[two], np.array([0, 1]), ("3", "5"), seed=0, recipe=Recipe(epochs=1))
    assert np.isfinite(tuned.encoder.forward(pixels[:4])).all()


def test_an_epoch_that_diverged_is_not_the_best_though_nearly_all_are_of_the_first_class(poor: Poor) -> None:
    encoder, pixels, _ = poor
    labels = np.array([0] * 28 + [1] * 4)
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=1e9)
    assert finetune(encoder, pixels[:32], labels, ("a", "b"), seed=0, recipe=recipe).best.accuracy == 0


def test_a_network_is_compared_with_the_head_that_would_serve_in_its_place() -> None:
    """It may know more than the labelled rows, as what is near them in the pool; it has not learned from those kept aside."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    rows = np.eye(2, dtype=np.float32)[labels]
    noise = generator.normal(size=(60, 2)).astype(np.float32)
    knows, asked = train_head(rows, labels, ("a", "b"), seed=0).head, list[NDArray[np.int64]]()

    def alone(learned: NDArray[np.int64]) -> Head:
        asked.append(learned)
        return knows

    aside = np.arange(40, 60)
    assert refit(rows, noise, labels, ("a", "b"), aside, seed=0).better
    refitted = refit(noise, rows, labels, ("a", "b"), aside, seed=0, alone=alone)
    assert (refitted.frozen, refitted.better) == (20, False)
    assert [each.tolist() for each in asked] == [list(range(40))]
