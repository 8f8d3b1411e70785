"""What answers for the held-out images of a version: heads that were fitted without them, a fold of them at a time.

The served head learns from every label. It cannot be asked about an image that it has learned from, so beside it each version
keeps one head for each fold of the held-out images, which learned from all labels but those of its fold (cross-fitting:
V. Chernozhukov et al., "Double/Debiased Machine Learning", 2018). They know a little less than the served head, so what they
measure is a hair too low, never too high.

The fold of an image is decided by its content alone, so that the head of a fold has seen no image of it, whenever that was
labelled; and any two versions can be compared image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ml_backend.learning.head import Head
from ml_backend.learning.record import FOLDS, Record, fold_of

FILE = "fold_heads.safetensors"


@dataclass(frozen=True)
class FoldHeads:
    """heads: FOLDS, each fitted without the held-out images of its fold. Or one: a model's own, which learned from none.

    blind: the head that strategies ask (see `blind_head`); None where there is none.
    """

    heads: tuple[Head, ...]
    blind: Head | None = None

    def predict_proba(self, features: NDArray[np.floating[Any]], images: NDArray[np.uint64]) -> NDArray[np.float32]:
        """(n, C) probabilities of held-out images, features (n, d), each by the head of its fold."""
        result = np.empty((len(images), len(self.heads[0].classes)), np.float32)
        fold = fold_of(images) % len(self.heads)
        for number, head in enumerate(self.heads):
            if (mine := fold == number).any():
                result[mine] = head.predict_proba(features[mine])
        return result

    def unseen(self, record: Record | None, images: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(n,) whether what answers for each of these images has not learned from it. record: of the version."""
        if record is None:
            return np.ones(len(images), np.bool_)
        return ~(record if len(self.heads) == 1 else record.without_apart()).has(images)

    def save(self, folder: Path) -> None:
        """Write `fold_heads.safetensors` into `folder`; nothing where a model's own head answers."""
        if len(self.heads) > 1:
            tensors = {name: np.stack([getattr(head, name) for head in self.heads]) for name in ("weight", "bias")}
            if self.blind:
                tensors |= {"blind_weight": self.blind.weight, "blind_bias": self.blind.bias}
            save_file(tensors, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> FoldHeads:
        """The model's own head alone where a folder has no others: imported, fine-tuned, or of an earlier release.

        Raises what `Head.load` does; ValueError where the fold heads are not whole, for then nothing that is fair can answer.
        For a blind head that is not whole the own one stands in: it is no reason to compare no versions.
        """
        own = Head.load(folder)
        if not (folder / FILE).exists():
            return cls((own,))
        try:
            found = load_file(folder / FILE)
            pairs = [*zip(found["weight"], found["bias"], strict=True)]
        except (KeyError, ValueError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(f"{FILE} is not whole: {error}") from error
        heads = tuple(Head(own.classes, w, b, own.temperature, own.multilabel) for w, b in pairs)
        if len(heads) != FOLDS or not all(_is_like(head, own) for head in heads):
            raise ValueError(f"{FILE} is not of this head, or holds other numbers than finite float32")
        if "blind_weight" not in found:
            return cls(heads)
        pair = found["blind_weight"], found.get("blind_bias", np.empty(0, np.float32))
        blind = Head(own.classes, *pair, own.temperature, own.multilabel)
        return cls(heads, blind if _is_like(blind, own) else own)


def _is_like(head: Head, own: Head) -> bool:
    arrays = (head.weight, own.weight), (head.bias, own.bias)
    return all(
        mine.shape == other.shape and mine.dtype == np.float32 and bool(np.isfinite(mine).all())
        for mine, other in arrays
    )


def blind_head(folder: Path, own: Head) -> Head | None:
    """What tells a strategy where a version is in doubt: it has learned from no held-out image.

    A strategy asks for nothing like an image whose label it knows. If it knew those that measure, what resembles them would be
    learned less well than the rest, and the accuracy shown would be too low. own: the version's head, which is the one to ask
    where a folder has no fold heads, or damaged ones, so that people are not kept waiting. None: there is too little to learn
    from besides what is held out.
    """
    if not (folder / FILE).exists():
        return own
    try:
        return FoldHeads.load(folder).blind
    except (OSError, ValueError, KeyError, SafetensorError):
        return own
