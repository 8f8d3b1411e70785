"""A fine-tuning that is killed goes on where it was, and ends as if nothing had been; from what does not fit, nothing is used."""

from __future__ import annotations

import errno
import json
import logging
import os
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

from ml_backend.learning import checkpoint, tuning_run
from ml_backend.learning.checkpoint import Checkpoint
from ml_backend.learning.finetuning import FineTuned
from tests.learning.checkpoints import (
    BATCHES,
    EPOCHS,
    IMAGES,
    RECIPE,
    KilledError,
    encoder,
    half_done,
    killed,
    labels,
    pixels,
    run,
    same,
    standing,
)
from tests.learning.test_layer_rates import attentive

pytestmark = pytest.mark.usefixtures("after_every_batch")


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


WAYS: dict[str, Any] = {
    "adaptive rates by layer": {"part": "all"},
    "adapters": {"part": "lora", "rank": 2},
    "the last blocks": {"part": "last", "last_blocks": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_with(way: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"encoder": attentive(), "pictures": np.repeat(np.repeat(pixels(), 2, 1), 2, 2)}
    given["recipe"] = replace(RECIPE, **WAYS[way])
    uninterrupted = run(**given)
    length = killed(path, 10**9, **given)
    path.unlink()
    killed(path, 2 * length // 3, **given)
    caplog.set_level(logging.INFO)
    assert same(run(path, **given), uninterrupted)
    assert "goes on" in caplog.text


def test_it_goes_on_in_half_precision_with_the_scale_that_gradients_had(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuning_run, "number_kind", lambda _: torch.float16)
    uninterrupted = run()
    killed(path, 60)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["state"])["scaler"]["scale"] < 65536.0, "the first was too large"
    caplog.set_level(logging.INFO)
    assert same(run(path), uninterrupted)
    assert "goes on" in caplog.text


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
    "another picture": lambda: {"pictures": pixels() ^ (np.arange(IMAGES) == 5)[:, None, None, None].astype(np.uint8)},
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
    assert len(doing) <= 11 * EPOCHS + 1
