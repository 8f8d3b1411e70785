"""A fine-tuning that is killed goes on where it was, and ends as if nothing had been; from what does not fit, nothing is used."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ml_backend.learning import checkpoint
from ml_backend.learning.checkpoint import Checkpoint
from ml_backend.learning.finetuning import FineTuned, Recipe, finetune
from ml_backend.learning.networks import NetworkEncoder, Preprocessing
from ml_backend.learning.weights import digest

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
    given: dict[str, Any] = {"encoder": encoder(), "pixels": pixels(), "labels": labels(), "classes": CLASSES}
    given |= {"seed": 0, "recipe": RECIPE, "owner": "store project", "checkpoint": path} | changes
    return finetune(**given)


def same(one: FineTuned, other: FineTuned) -> bool:
    """Equal weights, of the network (its id is their digest) and of the head, and the same way there."""
    heads = np.array_equal(one.trained.head.weight, other.trained.head.weight)
    return heads and one.encoder.id == other.encoder.id and one.history == other.history


@pytest.fixture(autouse=True)
def _after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "OVERHEAD", 0.0)


@pytest.fixture(scope="module")
def whole() -> FineTuned:
    """Never interrupted, and never kept."""
    return run()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "1.safetensors"


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


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_weights(path: Path, whole: FineTuned) -> None:
    length = killed(path, 10**9)
    for call in range(3, length, 7):
        path.unlink(missing_ok=True)
        assert killed(path, call) == call
        assert same(run(path), whole), f"killed at call {call} of {length}"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on_each_time_and_ends_with_the_same_weights(
    path: Path, whole: FineTuned
) -> None:
    seen = []
    while killed(path, 30) == 30:  # a batch needs fewer calls, so that each run comes further
        seen.append(standing(path))
        assert len(seen) < EPOCHS * BATCHES
    assert len(seen) > 2
    assert seen == sorted(set(seen))
    assert same(run(path), whole)


@pytest.mark.slow
def test_it_goes_on_with_several_labels_an_image(path: Path) -> None:
    several = np.stack([labels() == 0, labels() > 0, labels() == 2], 1)
    uninterrupted = run(labels=several)
    killed(path, 60, labels=several)
    assert same(run(path, labels=several), uninterrupted)


@pytest.mark.slow
def test_a_run_that_diverged_goes_on_as_well(path: Path) -> None:
    """A loss that is not a number is no damage."""
    recipe = replace(RECIPE, learning_rate=1e30, head_learning_rate=1e30)
    killed(path, 60, recipe=recipe)
    with safe_open(path, "pt") as file:
        assert "NaN" in file.metadata()["state"]
    before = standing(path)
    killed(path, 30, recipe=recipe)
    assert standing(path) > before


@pytest.mark.slow
def test_the_state_of_others_random_numbers_is_left_alone() -> None:
    before = torch.get_rng_state()
    run()
    assert torch.equal(torch.get_rng_state(), before)


CHANGED: dict[str, Callable[[], dict[str, Any]]] = {
    "another project": lambda: {"owner": "store other"},
    "another label": lambda: {"labels": np.where(np.arange(IMAGES) == 5, 0, labels())},
    "another picture": lambda: {"pixels": pixels() ^ (np.arange(IMAGES) == 5)[:, None, None, None].astype(np.uint8)},
    "other class names": lambda: {"classes": ("a", "c", "b")},
    "another seed": lambda: {"seed": 1},
    "another recipe": lambda: {"recipe": replace(RECIPE, learning_rate=0.01)},
    "another encoder": lambda: {"encoder": encoder(1)},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGED)
def test_what_was_kept_of_another_situation_is_not_used(
    what: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half_done(path)
    changes = CHANGED[what]()
    caplog.set_level(logging.INFO)
    assert same(run(path, **changes), run(**changes))
    assert "starts anew" in caplog.text
    assert "goes on" not in caplog.text
    assert "damaged" not in caplog.text


def test_what_was_kept_of_the_same_situation_is_used_and_told(
    path: Path, whole: FineTuned, caplog: pytest.LogCaptureFixture
) -> None:
    half_done(path)
    caplog.set_level(logging.INFO)
    assert same(run(path), whole)
    assert "Fine-tuning goes on after 1 epochs and 1 batches." in caplog.messages


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


@pytest.mark.parametrize("where", ["itself", "beside", "above"])
def test_a_folder_or_a_file_in_the_way_fails_nothing(
    where: str, path: Path, whole: FineTuned, caplog: pytest.LogCaptureFixture
) -> None:
    if where == "above":
        path.parent.write_text("no folder")
    else:
        (path if where == "itself" else path.with_suffix(".writing")).mkdir(parents=True)
    assert same(run(path), whole)
    assert caplog.text.count("cannot be kept") == 1


def test_a_kill_at_any_line_of_saving_leaves_what_was_there_or_what_was_to_be(path: Path) -> None:
    """The folder as it is at each line is what a kill would leave there."""
    tensors = {"weights": torch.arange(1000.0)}
    kept = Checkpoint(path, "mine")
    kept.write("before", tensors, lambda: None)
    left: list[Path] = []

    def look(frame: Any, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != checkpoint.__file__:
            return None
        if event == "line":
            left.append(path.parent.with_name(f"left{len(left)}"))
            shutil.copytree(path.parent, left[-1])
        return look

    sys.settrace(look)
    try:
        kept.write("after", tensors, lambda: None)
    finally:
        sys.settrace(None)
    found = []
    for folder in left:
        next_one = Checkpoint(folder / path.name, "mine")
        read = next_one.read(tensors)
        assert read is not None
        assert torch.equal(read[1]["weights"], tensors["weights"])
        found.append(read[0])
        next_one.write("next", tensors, lambda: None)
        assert [each.name for each in folder.iterdir()] == [path.name], "what was left is taken away"
    assert len(found) > 10
    assert found == sorted(found, reverse=True)
    assert set(found) == {"before", "after"}


def test_half_a_file_left_beside_it_changes_nothing(path: Path, whole: FineTuned) -> None:
    half_done(path)
    path.with_suffix(".writing").write_bytes(path.read_bytes()[:500])
    assert same(run(path), whole)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_one_that_lost_its_job_while_saving_leaves_what_was_there(path: Path) -> None:
    tensors = {"weights": torch.arange(10.0)}
    Checkpoint(path, "mine").write("of the one that took over", tensors, lambda: None)

    def lost() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        Checkpoint(path, "mine").write("of the one that lost it", tensors, lost)
    read = Checkpoint(path, "mine").read(tensors)
    assert read is not None
    assert read[0] == "of the one that took over"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


FULL: dict[str, tuple[str, Callable[..., Any]]] = {
    "no room for the version then": ("shutil.disk_usage", lambda _: SimpleNamespace(free=3000)),
    "full": ("ml_backend.learning.checkpoint.save_file", lambda *_: _fail(OSError(errno.ENOSPC, "No space left"))),
    "full, as told by safetensors": (
        "ml_backend.learning.checkpoint.save_file", lambda *_: _fail(SafetensorError("I/O error: No space left")),
    ),
    "read-only": ("pathlib.Path.replace", lambda *_: _fail(OSError(errno.EROFS, "Read-only file system"))),
}  # fmt: skip


def _fail(error: Exception) -> None:
    raise error


@pytest.mark.slow
@pytest.mark.parametrize("how", FULL)
def test_on_a_full_disk_training_goes_on_says_so_once_and_leaves_what_was_kept(
    how: str, path: Path, whole: FineTuned, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    half_done(path)
    monkeypatch.setattr(*FULL[how])
    assert same(run(path), whole)
    assert caplog.text.count("cannot be kept") == 1
    assert standing(path) == (1, 1)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_disk_is_written_to_once_a_minute_and_for_a_twentieth_of_the_time_at_most(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 60.0)
    monkeypatch.setattr(checkpoint, "OVERHEAD", 20.0)
    now, takes = [0.0], [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(os, "fsync", lambda _: now.__setitem__(0, now[0] + takes[0]))
    kept = Checkpoint(path, "mine")

    def due_at(moment: float) -> bool:
        now[0] = moment
        return kept.due

    assert not due_at(59.0)
    assert due_at(60.0)
    kept.write("state", {"weights": torch.zeros(1)}, lambda: None)
    assert not due_at(119.0)
    assert due_at(120.0)
    takes[0] = 10.0
    kept.write("state", {"weights": torch.zeros(1)}, lambda: None)
    assert not due_at(329.0)
    assert due_at(330.0)


def test_how_far_it_is_rises_to_the_end_and_is_told_by_epoch() -> None:
    told: list[tuple[float, str]] = []
    run(on_progress=lambda share, doing: told.append((share, doing)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert 0.9 <= shares[-1] <= 1.0
    doing = list(dict.fromkeys(doing for _, doing in told))
    assert doing[:2] == ["fine-tuning, epoch 1 of at most 3, 0 %", "fine-tuning, epoch 1 of at most 3, 30 %"]
    assert doing[-1] == "encoding with the tuned network"
    assert len(doing) <= 11 * EPOCHS + 1
