"""A first head from the names of the classes alone, where the encoder has vectors for sentences among those of images.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1: a class is the mean
of the vectors of a few sentences that name it. With several labels an image, each is held against a sentence that names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError
from ml_backend.learning.head import Head

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "{}")
NEUTRAL = "a photo."
LONGEST = 300
"""Characters of a name or a description: more than a text side reads."""
AT_ONCE = 64
LEAN = 0.1
"""How far guesses that nobody has measured go from chance towards certainty, in the mean."""
SHARPEST, BLUNTEST = 0.01, 100.0
"""Temperatures. The first is CLIP's own: no text side claims more."""
_HUMPS = re.compile(r"(?<=[^\W\d_])(?=[^\W\d_])")


class TextEncoder(Protocol):
    """An encoder with a text side. encode_text: n sentences -> unit rows (n, dim)."""

    id: str
    dim: int

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]: ...


@dataclass(frozen=True)
class ClassName:
    """What people read of a class: its name, and what it says of itself beside it, "" where it says nothing."""

    name: str
    description: str = ""


def sentences(of: ClassName) -> list[str]:
    """What is asked of a text side about a class: short, on one line, without half characters, never empty."""
    name, description = in_words(of.name), clean(of.description)
    texts = [template.format(name) for template in TEMPLATES] if name else [NEUTRAL]
    return [*texts, f"a photo of a {name}: {description}.", description] if description else texts


def in_words(name: str) -> str:
    """`snow_leopard` and `SnowLeopard` are two words each; `iPhone`, `DNAs` and names in other languages stay as they are."""
    return clean(_HUMPS.sub(_space_between, clean(name).replace("_", " ")))


def clean(text: str) -> str:
    """On one line, cut to LONGEST characters, without control characters or half characters."""
    kept = "".join(" " if unicodedata.category(sign) in {"Cc", "Cs"} else sign for sign in text[: 4 * LONGEST])
    return " ".join(kept.split())[:LONGEST].rstrip()


def text_vectors(
    encoder: TextEncoder, names: Sequence[ClassName], on_progress: Callable[[int, int], None] = lambda *_: None
) -> NDArray[np.float32]:
    """(C + 1, dim) of the classes, and of a sentence that names none; unit rows. on_progress: told how many of how many.

    Raises InvalidInputError where the text side fails, or gives something else than it should.
    """
    texts = [*map(sentences, names), [NEUTRAL]]
    flat = list(dict.fromkeys(text for several in texts for text in several))
    parts = []
    for start in range(0, len(flat), AT_ONCE):
        on_progress(start, len(flat))
        asked = flat[start : start + AT_ONCE]
        found = _asked(encoder, asked)
        if found.shape != (len(asked), encoder.dim) or not np.isfinite(found).all():
            raise InvalidInputError(
                f"encode_text must return finite numbers of shape ({len(asked)}, {encoder.dim}), not {found.shape}."
            )
        parts.append(_unit(found))
    vectors = dict(zip(flat, np.concatenate(parts), strict=True))
    return _unit(np.stack([np.mean([vectors[text] for text in several], axis=0) for several in texts]))


def _asked(encoder: TextEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    try:
        return np.asarray(encoder.encode_text(texts), np.float32)
    except InvalidInputError:
        raise
    except Exception as error:  # code of others fails in whichever way it likes
        raise InvalidInputError(f"encode_text failed ({type(error).__name__}: {error}).") from error


def head_of(
    vectors: NDArray[np.float32], classes: Sequence[str], images: NDArray[np.floating[Any]], *, multilabel: bool
) -> Head:
    """The head that guesses from `text_vectors`. images: (n, d) unit rows of the pool, whose labels nobody needs to know.

    Which class is named first is the text side's word; how sure it is is not. CLIP's own temperature, 0.01, calls most of its
    guesses all but certain, also those about images it knows nothing of, and before any label nobody has measured it. So the
    temperature is one at which the mean confidence is a tenth of the way from chance to certain; once there are labels,
    training finds what they bear out (`train_head`).
    """
    weight = np.asarray(vectors[:-1] - (vectors[-1] if multilabel else 0.0), np.float32)
    logits = np.asarray(images, np.float32) @ weight.T
    chance = 0.5 if multilabel else 1 / len(classes)
    low, high = np.log(SHARPEST), np.log(BLUNTEST)
    for _ in range(20):
        middle = (low + high) / 2
        too_sure = _mean_confidence(logits / np.exp(middle), multilabel=multilabel) > chance + LEAN * (1 - chance)
        low, high = (middle, high) if too_sure else (low, middle)
    return Head(tuple(classes), weight, np.zeros(len(weight), np.float32), float(np.exp(high)), multilabel)


def _mean_confidence(logits: NDArray[np.float32], *, multilabel: bool) -> float:
    """Of the likeliest class of each row; with several labels, of each class being as said."""
    if multilabel:
        return float((1 / (1 + np.exp(-np.abs(logits)))).mean())
    return float((1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)).mean())


def _space_between(found: re.Match[str]) -> str:
    """A space where a hump begins: `snow|Leopard`, `HTTP|Server`."""
    text, at = found.string, found.start()
    word = (
        text[at].isupper()
        and text[at + 1 : at + 3].islower()
        and len(text) > at + 2
        and text[at + 1 : at + 3].isalpha()
    )
    before = text[max(at - 2, 0) : at]
    after_word = len(before) == 2 and before.islower() and before.isalpha()
    return " " if word and (after_word or text[at - 1].isupper()) else ""


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
