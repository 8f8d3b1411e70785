"""A first head from the names of the classes: what is asked of a text side, and how sure its guesses are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ml_backend.errors import InvalidInputError
from ml_backend.learning.class_names import LONGEST, ClassName, head_of, in_words, sentences, text_vectors
from ml_backend.learning.training import train_head

CLASSES = tuple("0123456789")
Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


class Words:
    """A text side whose vectors are drawn anew for each sentence."""

    id, dim = "words", 16

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        self.asked += texts
        rng = np.random.default_rng(len(self.asked))
        return rng.normal(size=(len(texts), self.dim))


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = load_digits()
    features = data.data - data.data.mean(0)
    order = np.random.default_rng(0).permutation(len(features))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)[order], data.target[order]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("snow_leopard", "snow leopard"), ("SnowLeopard", "Snow Leopard"), ("HTTPServer", "HTTP Server"),
        ("iPhone", "iPhone"), ("DNAs", "DNAs"), ("7b", "7b"), ("Straßenbahn", "Straßenbahn"), ("雪豹", "雪豹"),
        ("x\ud800y\0z", "x y z"),
    ],
)  # fmt: skip
def test_a_name_is_read_as_words(name: str, words: str) -> None:
    assert in_words(name) == words


def test_a_description_is_read_beside_the_name() -> None:
    told = sentences(ClassName("cat", "a domestic cat, not a lynx"))
    assert "a photo of a cat." in told
    assert any("cat" in text and "not a lynx" in text for text in told)


@pytest.mark.parametrize("name", ["x" * 10_000, "\ud800", "\0", " ", "a {} b {0} {x}"])
def test_a_text_side_gets_short_clean_sentences_whatever_a_class_is_called(name: str) -> None:
    texts = Words()
    assert np.isfinite(text_vectors(texts, [ClassName(name, name), ClassName("cat")])).all()
    assert all(text.strip() and text.encode() and len(text) < 3 * LONGEST for text in texts.asked)


def test_a_thousand_classes_are_asked_some_at_a_time() -> None:
    told: list[tuple[int, int]] = []
    vectors = text_vectors(
        Words(), [ClassName(f"class {n}") for n in range(1_000)], lambda *so_far: told.append(so_far)
    )
    assert vectors.shape == (1_001, 16)
    assert len(told) > 10


def test_a_text_side_that_gives_no_numbers_is_refused() -> None:
    texts = Words()
    texts.encode_text = lambda texts: np.full((len(texts), 16), np.nan)  # type: ignore[method-assign]
    with pytest.raises(InvalidInputError, match="encode_text must return"):
        text_vectors(texts, [ClassName("cat"), ClassName("dog")])


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("classes", [2, 1_000])
def test_guesses_that_nobody_measured_are_hardly_surer_than_chance(classes: int, multilabel: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(300, 16)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    vectors = text_vectors(Words(), [ClassName(str(n)) for n in range(classes)])
    head = head_of(vectors, [str(n) for n in range(classes)], images, multilabel=multilabel)
    found = head.predict_proba(images)
    sure = np.maximum(found, 1 - found) if multilabel else found.max(axis=1)
    chance = 0.5 if multilabel else 1 / classes
    assert chance < sure.mean() <= chance + 0.11 * (1 - chance)


def test_names_that_say_all_the_same_are_no_guess(digits: Digits) -> None:
    same = np.full((11, 64), 1 / 8, np.float32)
    assert np.allclose(head_of(same, CLASSES, digits[0], multilabel=False).predict_proba(digits[0]), 0.1)


def guesses(digits: Digits, order: Sequence[int]) -> Any:
    """A head that knows the digits by the means of some that are learned from by nobody else; in this order."""
    features, labels = digits
    means = np.stack([features[:300][labels[:300] == c].mean(0) for c in order])
    vectors = np.concatenate([means, means.mean(0, keepdims=True)]).astype(np.float32)
    return head_of(vectors, CLASSES, features, multilabel=False)


@pytest.mark.slow
def test_a_guess_that_is_right_is_gone_by_while_labels_are_few(digits: Digits) -> None:
    features, labels = digits
    few, test = slice(300, 310), slice(1000, None)
    right = guesses(digits, range(10))
    with_it = train_head(features[few], labels[few], CLASSES, seed=0, guess=right).head
    without = train_head(features[few], labels[few], CLASSES, seed=0).head
    gain = [(head.predict_proba(features[test]).argmax(1) == labels[test]).mean() for head in (with_it, without)]
    assert gain[0] > gain[1] + 0.2


@pytest.mark.slow
def test_a_guess_that_lies_costs_nothing_once_labels_show_it(digits: Digits) -> None:
    features, labels = digits
    lies = guesses(digits, [*range(1, 10), 0])
    chosen = slice(300, 350)
    apart = np.where(np.arange(50) % 5 == 0, np.arange(50) // 5 % 5, -1)
    told, alone = (
        train_head(features[chosen], labels[chosen], CLASSES, seed=0, guess=guess, apart=apart)
        for guess in (lies, None)
    )
    assert np.array_equal(told.head.weight, alone.head.weight)
    assert all(
        np.array_equal(mine.weight, other.weight) for mine, other in zip(told.fold_heads, alone.fold_heads, strict=True)
    )


@pytest.mark.slow
def test_several_labels_an_image_hear_a_guess_as_well(digits: Digits) -> None:
    features, labels = digits
    truth = np.stack([labels % 2 == 0, labels > 4], 1)
    means = np.stack([features[:300][truth[:300, c]].mean(0) for c in range(2)])
    vectors = np.concatenate([means, features[:300].mean(0, keepdims=True)]).astype(np.float32)
    guess = head_of(vectors, ("even", "large"), features, multilabel=True)
    few, test = slice(300, 312), slice(1000, None)
    heads = [
        train_head(features[few], truth[few], ("even", "large"), seed=0, guess=each).head for each in (guess, None)
    ]
    right = [((head.predict_proba(features[test]) > 0.5) == truth[test]).mean() for head in heads]
    assert right[0] > right[1]
