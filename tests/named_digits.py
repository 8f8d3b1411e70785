"""A project of digits whose encoder reads text: turns of the loop, with a text side that knows the digits, lies, or fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from ml_backend.encoders.encoder import build_encoder
from ml_backend.labelstudio.config import parse_label_config
from tests.bench import HOST, Bench

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
READER = "tests.named_digits:Reader"
TEACHES = 400
"""Digits that the text side knows by, and no project has."""


def drawn(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Unit rows of all digits but those that a text side knows by, their labels, and what that makes of each number."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    rows = data.data[order] - data.data[order[TEACHES:]].mean(0)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = data.target[order]
    means = np.stack([rows[:TEACHES][labels[:TEACHES] == number].mean(0) for number in range(10)])
    return rows[TEACHES:], labels[TEACHES:], means


class Reader:
    """A tiny encoder with two sides; images are never asked about, for their vectors are there."""

    dim, version = 64, "1"
    means: ClassVar[NDArray[np.floating[Any]]] = np.zeros((10, 64))
    says: ClassVar[Mapping[str, int]] = {}  # what it takes a word for
    fails: ClassVar[str] = ""
    asked: ClassVar[list[str]] = []

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        raise AssertionError(f"{len(images)} images were encoded")

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        if self.fails:
            raise RuntimeError(self.fails)
        self.asked.extend(texts)
        return np.stack([self._of(text) for text in texts])

    def _of(self, text: str) -> NDArray[np.floating[Any]]:
        """Something that all sentences have in common, and the mean of the digits that its words name."""
        named = [self.says[word] for word in re.findall(r"\w+", text.lower()) if word in self.says]
        common = np.full(self.dim, 0.05)
        return common + (self.means[named].mean(0) if named else 0)


class NamedDigits(Bench):
    """Tasks 1 to `tasks`, the first `measured` of them held out; their labels are the words for the digits, or other `names`.

    lies: the text side takes each word for another digit.
    """

    def __init__(
        self, folder: Path, *, seed: int = 0, tasks: int = 300, measured: int = 20, lies: bool = False, multiple: bool = False,
        names: Sequence[str] = NUMBERS,
    ) -> None:  # fmt: skip
        self.rows, self.digits, Reader.means = drawn(seed)
        Reader.says = {word: (number + 3 * lies) % 10 for number, word in enumerate(NUMBERS)}
        Reader.fails = ""
        Reader.asked.clear()
        self.names = names
        super().__init__(folder, kinds=names, multiple=multiple, tasks=tasks, measured=measured)
        self.truth = {task: names[self.digits[task - 1]] for task in self.ids}
        encoder = build_encoder(READER, sample=lambda _: [])
        self.services.features.append(encoder.id, [self.hash_of(i) for i in self.ids], self.rows[: len(self.ids)])
        self.set(encoder=READER)

    def _encode(self, _name: str) -> None:
        """No blobs: the vectors are the digits'."""

    def hints(self, **hints: str) -> None:
        """Change the label config, as Label Studio's settings would: hints of some labels."""
        choices = "".join(f'<Choice value="{name}" hint="{hints.get(name, "")}"/>' for name in self.names)
        config = f'<View><Image name="image" value="$image"/><Choices name="choice" toName="image">{choices}</Choices></View>'
        assert parse_label_config(config).labels == tuple(self.names)
        self.services.registry.register(HOST, 1, config, created=None)

    def accuracy(self, tested: int = 1_000) -> float:
        """Of the model in service, on digits that the project does not have."""
        model = self.services.predictor.current(self.project)
        assert model is not None
        others = slice(len(self.ids), len(self.ids) + tested)
        said = model.head.predict_proba(self.rows[others]).argmax(1)
        return float((np.array(model.head.classes)[said] == np.array(self.names)[self.digits[others]]).mean())
