"""From a checkpoint that is damaged or forged nothing is used, and training starts anew."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ml_backend.encoders.weights import digest
from ml_backend.learning.finetuning import FineTuned
from tests.learning.checkpoints import (
    BATCHES,
    EPOCHS,
    half_done,
    run,
    same,
    standing,
)

pytestmark = pytest.mark.usefixtures("after_every_batch")


class Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def _at(share: float, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change a file's bytes from some place on."""
    return lambda data: data[: int(share * len(data))] + change(data[int(share * len(data)) :])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not a checkpoint",
    "a pickle that runs code": lambda _: pickle.dumps(Code()),
    "a head of exabytes": lambda data: b"\xff" * 8 + data[8:],
    "a head without its end": lambda data: data[:40],
    "longer": lambda data: data + b"more",
    **{f"cut at {share}": _at(share, lambda _: b"") for share in (0.1, 0.5, 0.99)},
    **{
        f"a bit flipped at {share}": _at(share, lambda d: bytes([d[0] ^ 1]) + d[1:]) for share in (0.01, 0.6, 0.7, 0.95)
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_and_training_starts_anew(
    damage: str, path: Path, whole: FineTuned, caplog: pytest.LogCaptureFixture
) -> None:
    half_done(path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    caplog.set_level(logging.INFO)
    assert same(run(path), whole)
    assert "training starts anew" in caplog.text
    assert not Path("ran").exists()
    assert standing(path) == (EPOCHS, 0), "a whole one is in its place"


def _state(**changes: Any) -> Callable[[dict[str, Any], Any], None]:
    return lambda state, _: state.update(changes)


def _tensor(name: str, make: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Any, dict[str, Any]], None]:
    def change(_state: Any, tensors: dict[str, Any]) -> None:
        (made := make(tensors.pop(name, torch.zeros(1)))) is None or tensors.update({name: made})

    return change


EPOCH = {"number": 1, "loss": 1.0, "accuracy": 1.0}
WEIGHT = "features.body.0.weight"
FORGED: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "no tensor of the network": _tensor(f"network.{WEIGHT}", lambda _: None),
    "no best epoch": _tensor("best.body.0.weight", lambda _: None),
    "a tensor too many": _tensor("network.more", lambda _: torch.zeros(1)),
    "a momentum of another shape": _tensor(f"momentum.{WEIGHT}", lambda _: torch.zeros(2, 2)),
    "numbers of another kind": _tensor(f"network.{WEIGHT}", torch.Tensor.double),
    "rows that are not there": _tensor("order", lambda order: order + 10**9),
    "the same row again and again": _tensor("order", lambda order: order * 0),
    "a generator that is none": _tensor("generator", lambda state: state * 0 + 255),
    "more epochs than there are": _state(history=[EPOCH | {"number": n + 1} for n in range(EPOCHS + 1)]),
    "epochs out of order": _state(history=[EPOCH | {"number": 7}]),
    "more batches than there are": _state(losses=[1.0] * BATCHES),
    "words for numbers": _state(losses=["much"]),
    "nothing": _state(history=None),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FORGED)
def test_a_forged_checkpoint_is_told_and_training_starts_anew(
    what: str, path: Path, whole: FineTuned, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, and signed as ours are, but in no state that training can be in."""
    half_done(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    state, tensors = json.loads(header["state"]), load_file(path)
    FORGED[what](state, tensors)
    forge(path, header, json.dumps(state), tensors)
    assert same(run(path), whole)
    assert "is damaged" in caplog.text


def forge(path: Path, header: dict[str, str], state: str, tensors: dict[str, torch.Tensor]) -> None:
    told = {"situation": header["situation"], "state": state}
    save_file(tensors, path, told | {"digest": digest(told, tensors)})


def test_a_state_of_endless_brackets_is_told_and_training_starts_anew(
    path: Path, whole: FineTuned, caplog: pytest.LogCaptureFixture
) -> None:
    half_done(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    forge(path, header, "[" * 200_000, load_file(path))
    assert same(run(path), whole)
    assert "is damaged" in caplog.text
