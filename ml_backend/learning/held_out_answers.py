"""What a version said of each held-out image that measured it: beside its weights, so that its mistakes can be looked at.

As it was when the version was measured: who changes a label later changes nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FILE = "held_out.safetensors"


@dataclass(frozen=True)
class HeldOutAnswers:
    """Of n images. tasks: (n,) int64 ids. truth, said: (n, C) bool, the labels people gave and those the version did.

    confidence: (n,) float32 of what it said. Classes are those of the version, in their order.
    """

    tasks: NDArray[np.int64]
    truth: NDArray[np.bool_]
    said: NDArray[np.bool_]
    confidence: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        tasks: NDArray[np.int64],
        targets: NDArray[Any],
        said: NDArray[np.bool_],
        confidence: NDArray[np.floating[Any]],
    ) -> HeldOutAnswers:
        """targets: (n,) class indices, or (n, C) booleans."""
        truth = targets.astype(np.bool_) if targets.ndim == 2 else np.eye(said.shape[1], dtype=np.bool_)[targets]
        return cls(tasks.astype(np.int64), truth, said, confidence.astype(np.float32))

    def save(self, folder: Path) -> None:
        """A bit a class: ten thousand images of fifty classes are 260 kB."""
        packed = {name: np.packbits(getattr(self, name), axis=1) for name in ("truth", "said")}
        classes = np.array([self.said.shape[1]], np.int64)
        save_file({"tasks": self.tasks, "confidence": self.confidence, "classes": classes, **packed}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> HeldOutAnswers | None:
        """None where a folder has none that can be read: of an earlier release, a model from a file, or pruned."""
        try:
            found = load_file(folder / FILE)
            classes, tasks = int(found["classes"][0]), found["tasks"]
            truth, said = (np.unpackbits(found[name], axis=1, count=classes).astype(bool) for name in ("truth", "said"))
            answers = cls(tasks, truth, said, found["confidence"])
        except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, SafetensorError):
            return None
        sizes = {len(answers.tasks), len(truth), len(said), len(answers.confidence)}
        return answers if len(sizes) == 1 else None
