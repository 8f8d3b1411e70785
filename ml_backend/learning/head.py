"""The small head on top of frozen features: a temperature-scaled linear classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

CHUNK = 4_096
"""Rows scored at a time: float16 features in a memory map are widened chunk by chunk, in a buffer that fits the cache."""


@dataclass(frozen=True)
class Head:
    """weight (C, d) float32, bias (C,) float32; probabilities are softmax or, if multilabel, sigmoid of logits / T."""

    classes: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float = 1.0
    multilabel: bool = False

    def predict_proba(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Probabilities (n, C) float32 for features (n, d) of any float type; memory-mapped ones are read in chunks.

        Single-label rows sum to one; multi-label entries are independent.
        """
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise ValueError(f"features must be (n, {self.weight.shape[1]}), not {features.shape}")
        result = np.empty((len(features), len(self.classes)), np.float32)
        weight = torch.from_numpy(self.weight).T / self.temperature
        bias = torch.from_numpy(self.bias) / self.temperature
        with torch.inference_mode():
            for start in range(0, len(features), CHUNK):
                # Copied as it is (torch warns of read-only maps), then widened by torch, which is twice as fast at it.
                rows = torch.from_numpy(np.array(features[start : start + CHUNK])).float()
                logits = torch.addmm(bias, rows, weight)
                chunk = torch.sigmoid(logits) if self.multilabel else torch.softmax(logits, 1)
                result[start : start + CHUNK] = chunk.numpy()
        return result

    def named(self, labels: Sequence[str]) -> Head:
        """The same head, answering in these labels: by name, in this order.

        A label that it does not know has probability 0. A class that is no label is dropped, and of single-label
        probabilities the rest is renormalised. Raises ValueError where it knows none of the labels.
        """
        if tuple(labels) == self.classes:
            return self
        known = [place for place, label in enumerate(labels) if label in self.classes]
        if not known:
            raise ValueError(f"the head knows none of {', '.join(labels)}")
        at = [self.classes.index(labels[place]) for place in known]
        weight = np.zeros((len(labels), self.weight.shape[1]), np.float32)
        bias = np.full(len(labels), -np.inf, np.float32)
        weight[known], bias[known] = self.weight[at], self.bias[at]
        return Head(tuple(labels), weight, bias, self.temperature, self.multilabel)

    def save(self, folder: Path) -> None:
        """Write `head.safetensors` and `head.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": np.ascontiguousarray(self.weight), "bias": np.ascontiguousarray(self.bias)}
        save_file(tensors, folder / "head.safetensors")
        meta = {"classes": self.classes, "temperature": self.temperature, "multilabel": self.multilabel}
        (folder / "head.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Raises OSError, ValueError, KeyError or SafetensorError where it is not whole."""
        meta = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        try:
            classes, temperature = tuple(meta["classes"]), float(meta["temperature"])
            multilabel = bool(meta["multilabel"])
        except TypeError as error:
            raise ValueError(f"head.json is not a head's: {error}") from error
        try:
            tensors = load_file(folder / "head.safetensors")
        except (
            TypeError,
            AttributeError,
        ) as error:  # bfloat16, float8: numpy has none, unless some library brings them
            raise ValueError(f"head.safetensors holds numbers of a kind that is not supported: {error}") from error
        if odd := [name for name in ("weight", "bias") if tensors[name].dtype.kind != "f"]:
            raise ValueError(f"head.safetensors holds numbers of a kind that is not supported: {', '.join(odd)}")
        return cls(classes, tensors["weight"], tensors["bias"], temperature, multilabel)
