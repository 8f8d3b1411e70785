"""A turn that fine-tunes: it tells how far it is, hears a cancel, and goes on where a killed one was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open

from ml_backend import cycle
from ml_backend.commands.sync import _job_text
from ml_backend.errors import DiskFullError
from ml_backend.learning.finetuning import Refitted, refit
from ml_backend.learning.head import Head
from ml_backend.learning.training import train_head
from ml_backend.learning.tuning_run import Recipe
from ml_backend.services import Services
from ml_backend.status import job_status
from ml_backend.steps import tune_network
from ml_backend.store.projects import Project
from ml_backend.worker.heartbeat import WorkerStoppingError
from ml_backend.worker.loop import Worker
from tests.other_settings import use
from tests.steps import test_large_projects as large
from tests.worker.tuning import LABELLED, network, tuning

pytestmark = pytest.mark.slow


class Turn:
    """Turns of one project; `at` sees each epoch (0: it is at something else) as it is told, and may raise."""

    def __init__(self, services: Services, project: Project) -> None:
        self.services, self.project = services, project
        self.told: list[tuple[float, str]] = []

    def __call__(self, at: Callable[[int], None] = lambda _epoch: None) -> None:
        worker = Worker(self.services, "mine")
        self.told = []

        def on_progress(share: float, doing: str) -> None:
            self.told.append((share, doing))
            at(int(doing.split()[2]) if doing.startswith("fine-tuning") else 0)

        worker.on_progress = on_progress
        self.services.jobs.mark_due(self.project, immediately=True, reason="test")
        assert worker.work()

    def tuned(self) -> list[str]:
        """What was said of fine-tuning, each once."""
        return list(dict.fromkeys(doing for _, doing in self.told if doing.startswith("fine-tuning")))

    def kept(self) -> list[str]:
        """Names of what is in the folder of checkpoints."""
        return [path.name for path in self.services.checkpoints.root.glob("*")]

    def states(self) -> list[str]:
        return [job.state for job in self.services.jobs.history(self.project)]

    def stopped_at(self, epoch: int) -> None:
        """A turn of a worker that is told to end, in the middle of this epoch; the job is handed back."""
        calls = 0

        def at(now: int) -> None:
            nonlocal calls
            calls += now == epoch
            if calls == 10:
                raise WorkerStoppingError

        self(at)
        assert self.kept() == [f"{self.project.id}.safetensors"]
        assert not self.services.versions.list(self.project)


@pytest.fixture
def turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turn]:
    services, project = tuning(tmp_path, monkeypatch)
    yield Turn(services, project)
    services.database.close()


def test_the_job_says_which_epoch_it_is_at(turn: Turn) -> None:
    seen: list[Any] = []

    def at(epoch: int) -> None:
        if epoch == 3 and not seen:
            seen.append(None)  # it is at epoch 3 once this returns
        elif seen == [None]:
            seen[0] = written_down(turn, "epoch 3 ")

    turn(at)
    assert "fine-tuning, epoch 3 of at most 5" in seen[0]["message"]
    assert 0.6 < seen[0]["progress"] < 0.7
    assert "fine-tuning, epoch 3 of at most 5" in _job_text(seen[0], None)
    shares = [share for share, _ in turn.told]
    assert shares == sorted(shares)
    assert turn.tuned()[0] == "fine-tuning, epoch 1 of at most 5, 0 %"
    assert any(doing.endswith("images to train on") for _, doing in turn.told)


def written_down(turn: Turn, what: str) -> Any:
    """The job as its record has it, once that says so: it is written a second later, or more on a busy machine."""
    until = time.monotonic() + 60
    while True:
        told = job_status(turn.services.jobs.status(turn.project).running)
        if (told and what in told["message"]) or time.monotonic() > until:
            return told
        time.sleep(0.05)


def test_a_turn_goes_on_where_one_that_was_stopped_had_been_and_tidies_up(turn: Turn) -> None:
    turn.stopped_at(4)
    turn()
    assert turn.tuned()[0].startswith("fine-tuning, epoch 4 ")
    assert turn.services.versions.current(turn.project) is not None
    assert turn.kept() == []


def test_a_tuned_network_has_to_beat_the_head_that_would_serve_without_it(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one learns from the images without a label as well."""
    heads = list[tuple[Head, Head]]()

    def refitted(tuned: Any, frozen: Any, labels: Any, classes: Any, aside: Any, *, seed: int, alone: Any) -> Refitted:
        rows = np.setdiff1d(np.arange(len(labels)), aside)
        heads.append((alone(rows), train_head(frozen[rows], labels[rows], classes, seed=seed).head))
        return refit(tuned, frozen, labels, classes, aside, seed=seed, alone=alone)

    monkeypatch.setattr(tune_network, "refit", refitted)
    turn()
    [(served, poorer)] = heads
    assert served.classes == poorer.classes
    assert not np.allclose(served.weight, poorer.weight, atol=0.1)


def test_a_training_that_diverged_ends_in_the_head_alone(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_network, "Recipe", partial(Recipe, epochs=1, batch_size=16, learning_rate=1e9))
    turn()
    assert turn.states() == ["done"]
    version = turn.services.versions.current(turn.project)
    assert version is not None
    assert version.meta.encoder.id == network().id


def test_new_labels_begin_a_new_training(turn: Turn) -> None:
    turn.stopped_at(4)
    host: Any = turn.services.hosts._clients[large.HOST]
    host.labelled = LABELLED + 5
    large.touch(turn.services, turn.project, range(1, LABELLED + 6))
    turn()
    assert turn.tuned()[0].startswith("fine-tuning, epoch 1 ")
    assert turn.kept() == []


def test_a_cancel_drops_what_was_kept_and_what_was_served_stays(turn: Turn) -> None:
    use(turn.services, mode="head")
    turn()
    served = turn.services.versions.current(turn.project)
    use(turn.services, mode="finetune")
    after = 0

    def at(epoch: int) -> None:
        nonlocal after
        after += epoch == 4
        if after == 1:
            assert turn.kept()
            assert turn.services.jobs.cancel(turn.project)
            time.sleep(1.1)

    turn(at)
    assert turn.states()[0] == "cancelled"
    assert after < 40, "within a batch"
    assert turn.kept() == []
    assert turn.services.versions.current(turn.project) == served


def test_what_a_turn_killed_after_publishing_left_is_taken_away_by_the_next(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(turn.services.checkpoints, "discard", lambda _: None)
        turn()
    assert turn.kept()
    turn()
    assert turn.tuned() == []
    assert turn.kept() == []


def test_head_training_takes_away_what_fine_tuning_left(turn: Turn) -> None:
    turn.stopped_at(2)
    use(turn.services, mode="head")
    turn()
    assert turn.kept() == []


def test_a_worker_that_starts_takes_away_what_is_of_no_project(turn: Turn) -> None:
    turn.stopped_at(2)
    turn.services.graph_files.root.mkdir()
    for name in ("7777.safetensors", "7777.writing"):
        (turn.services.checkpoints.root / name).write_bytes(b"left")
        (turn.services.graph_files.root / name).write_bytes(b"left")
    turn.services.graph_files.path(turn.project.id).write_bytes(b"its own")
    Worker(turn.services, "next")._take_over()
    assert turn.kept() == [f"{turn.project.id}.safetensors"]
    assert list(turn.services.graph_files.root.iterdir()) == [turn.services.graph_files.path(turn.project.id)]
    turn.services.ledger.configure(turn.project, gone="2026-01-01T00:00:00+00:00")
    Worker(turn.services, "next")._take_over()
    assert turn.kept() == []


def test_a_turn_that_failed_for_no_known_reason_leaves_no_file_that_it_may_have_failed_of(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn.services.graph_files.root.mkdir()
    turn.services.graph_files.path(turn.project.id).write_bytes(b"odd")
    monkeypatch.setattr(cycle, "run", lambda *_, **__: 1 / 0)
    turn()
    assert not turn.services.graph_files.path(turn.project.id).exists()


def test_where_the_version_could_not_be_written_nothing_is_trained_again(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise DiskFullError("No space left.")

    with monkeypatch.context() as patch:
        patch.setattr("ml_backend.store.folders.Folders.write", full)
        turn()
    assert turn.tuned()
    turn()
    assert turn.tuned() == []
    assert turn.services.versions.current(turn.project) is not None
    assert turn.kept() == []


def test_a_turn_that_fails_of_something_unforeseen_begins_anew(turn: Turn) -> None:
    """What was kept may be what it fails of."""

    def at(epoch: int) -> None:
        if epoch == 3:
            assert turn.kept()
            raise ZeroDivisionError

    turn(at)
    assert turn.kept() == []
    turn()
    assert turn.tuned()[0].startswith("fine-tuning, epoch 1 ")


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_a_worker_killed_again_and_again_ends_with_the_weights_of_one_that_was_not(
    turn: Turn, tmp_path: Path, kills: int
) -> None:
    """kill -9 of a process; the next one takes its job over."""
    folder, at = tmp_path / "killed", (0, 0)
    for _ in range(kills):
        at = killed_after(start(folder), folder, at)
    process = start(folder)
    try:
        with on_one_thread():
            turn()
        assert process.wait(400) == 0, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()
    assert tuned_in(folder) == tuned_in(tmp_path)
    epochs, batches = at
    assert f"Fine-tuning goes on after {epochs} epochs and {batches} batches." in (folder / "log").read_text()
    assert not list((folder / "checkpoints").iterdir())


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.worker.tuning", str(folder)], stdout=log, stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def killed_after(process: subprocess.Popen[bytes], folder: Path, at: tuple[int, int]) -> tuple[int, int]:
    """Kill it once it has come further than that, by two steps; returns how far it was."""
    first = None
    while process.poll() is None:
        now = standing(folder)
        if now > at:
            first = first or now
            if now > first:
                process.kill()
                process.wait()
                return standing(folder)
        time.sleep(0.005)
    raise AssertionError((folder / "log").read_text())


def standing(folder: Path) -> tuple[int, int]:
    """Epochs and further batches that are kept."""
    for path in (folder / "checkpoints").glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
        except (OSError, SafetensorError):
            return 0, 0
        return len(state["history"]), len(state["losses"])
    return 0, 0


def tuned_in(folder: Path) -> str:
    """The encoder of the version that was made there: its id has the digest of all weights."""
    (made,) = folder.glob("versions/*/v*/meta.json")
    meta = json.loads(made.read_text())
    assert meta["mode"] == "finetune"
    found: str = meta["encoder"]["id"]
    return found


@contextmanager
def on_one_thread() -> Iterator[None]:
    """As the processes do: what several add up differs by their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
