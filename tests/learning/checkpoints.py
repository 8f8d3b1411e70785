"""A small network fine-tuned in seconds, and ways to stop it half-way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from ml_backend.encoders.networks import NetworkEncoder, Preprocessing
from ml_backend.learning.checkpoint import Checkpoint
from ml_backend.learning.finetuning import FineTuned, finetune
from ml_backend.learning.tuning_run import Recipe

SIDE, IMAGES, CLASSES = 8, 24, ("a", "b", "c")
RECIPE = Recipe(epochs=3, batch_size=6, validation=0.25)
EPOCHS, BATCHES = 3, 3


class KilledError(BaseException):
    """Nothing of ours catches it."""


def encoder(seed: int = 0) -> NetworkEncoder:
    """With all that has a state of its own: normalisation, dropout, and convolutions laid out channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return NetworkEncoder("tiny", body, 8, Preprocessing(resize=SIDE, crop=SIDE))


def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 255, (IMAGES, SIDE, SIDE, 3), np.uint8)


def labels() -> Any:
    return np.arange(IMAGES) % len(CLASSES)


def run(path: Path | None = None, **changes: Any) -> FineTuned:
    given: dict[str, Any] = {"encoder": encoder(), "pictures": pixels(), "labels": labels(), "classes": CLASSES}
    given |= {"seed": 0, "recipe": RECIPE, "owner": "store project", "checkpoint": path} | changes
    return finetune(**given)


def same(one: FineTuned, other: FineTuned) -> bool:
    """Equal weights (an encoder's id is their digest), and the same way there."""
    return one.encoder.id == other.encoder.id and one.history == other.history


def killed(path: Path, call: int, **changes: Any) -> int:
    """Killed when it tells its progress for the `call`-th time. Returns how often it told, if it ended before."""
    calls = 0

    def on_progress(_share: float, _doing: str) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError

    try:
        run(path, on_progress=on_progress, **changes)
    except KilledError:
        return call
    return calls


def half_done(path: Path) -> None:
    """Killed in the second epoch, after its first batch."""
    writes = 0
    write = Checkpoint.write

    def counted(kept: Checkpoint, *arguments: Any) -> None:
        nonlocal writes
        write(kept, *arguments)
        writes += 1
        if writes == BATCHES + 1:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", counted)
        with pytest.raises(KilledError):
            run(path)
    assert standing(path) == (1, 1)


def standing(path: Path) -> tuple[int, int]:
    """Epochs and further batches that are kept."""
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    return len(state["history"]), len(state["losses"])
