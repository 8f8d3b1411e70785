"""The live protocol: what the service would ask for, and every answer counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend import cli, split
from ml_backend.simulation.data import Data, unit_rows, with_skips
from ml_backend.simulation.live_protocol import LiveProject, live_replay
from ml_backend.simulation.replay import Answers, Live, Settings
from tests.simulation.blobs import nearest_mean

pytestmark = pytest.mark.slow


def blobs(seed: int, size: int = 300) -> Data:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=size + 60)
    features = unit_rows(np.eye(3)[labels] + 0.3 * rng.standard_normal((size + 60, 3)))
    return Data("blobs", ("a", "b", "c"), features[:size], labels[:size], features[size:], labels[size:])


SETTINGS = Settings(batch=20, budget=80, live=Live(late=3))


class Watched:
    """A trainer that notes what each training learned from."""

    def __init__(self) -> None:
        self.rows: list[set[int]] = []

    def __call__(self, features: Any, rows: Any, *rest: Any) -> Answers:
        self.rows.append(set(rows.tolist()))
        return nearest_mean(features, rows, *rest)


def test_a_model_answers_for_what_was_labelled_when_its_training_began() -> None:
    train = Watched()
    rounds = list(live_replay(blobs(0), "margin", 0, SETTINGS, train))
    assert [r.labels for r in rounds] == [13, 23, 33, 43, 53, 63, 73]
    assert [len(rows) for rows in train.rows] == [10, 20, 30, 40, 50, 60, 70]
    assert rounds[-1].accuracy > 0.8
    assert 0 < rounds[-1].balanced <= 1


def test_the_held_out_images_are_asked_for_as_the_service_does_and_learned_from() -> None:
    data, train = blobs(0), Watched()
    project = LiveProject(data, 0, SETTINGS, Live())
    list(live_replay(data, "margin", 0, SETTINGS, train))
    held_out = np.flatnonzero(project.rows.holdout)
    assert len(held_out) == pytest.approx(split.reserved_share(0.1, 20, 300) * 300, abs=15)
    in_order = held_out[np.argsort(project.rows.places[held_out])]
    for rows in train.rows[:3]:
        seen = sorted(rows & set(held_out.tolist()), key=in_order.tolist().index)
        assert seen == in_order[: len(seen)].tolist()
        assert len(seen) >= len(rows) // 4
    last = train.rows[-1] & set(held_out.tolist())
    assert len(last) == split.wanted(0.1, 20, 300, 80)


def test_skips_are_answers_that_are_counted_and_taught_by_nobody() -> None:
    train = Watched()
    settings = Settings(batch=20, budget=100, live=Live(late=0, skips=0.3))
    rounds = list(live_replay(blobs(0), "random", 0, settings, train))
    assert [r.labels for r in rounds][:3] == [10, 20, 30]
    labelled, answers = len(train.rows[-1]), rounds[-1].labels
    assert 0.55 < labelled / answers < 0.85
    assert max(train.rows[-1]) < 300


def test_junk_is_the_share_that_was_asked_for_and_none_is_tested_on() -> None:
    data = blobs(0)
    junk = with_skips(data, 0.25, 0)
    assert (junk.labels < 0).sum() == 100
    assert len(junk.features) == 400
    assert with_skips(data, 0.0, 0).labels.tolist() == data.labels.tolist()
    np.testing.assert_array_equal(junk.test_features, data.test_features)


def test_equal_images_are_held_out_together() -> None:
    data = blobs(0, size=100)
    twice = Data(
        "t",
        data.classes,
        np.concatenate([data.features] * 2),
        np.tile(data.labels, 2),
        data.test_features,
        data.test_labels,
    )
    held_out = LiveProject(twice, 0, SETTINGS, Live()).rows.holdout
    np.testing.assert_array_equal(held_out[:100], held_out[100:])
    assert held_out.any()


def test_a_pool_that_is_used_up_ends_the_run() -> None:
    settings = Settings(batch=20, budget=500, live=Live())
    assert list(live_replay(blobs(0, size=70), "margin", 0, settings, nearest_mean))[-1].labels == 70


def test_before_two_classes_are_known_nothing_is_guessed_and_nothing_right() -> None:
    data = blobs(0)
    alike = Data("one", data.classes, data.features, np.zeros_like(data.labels), data.test_features, data.test_labels)
    assert {r.accuracy for r in live_replay(alike, "margin", 0, SETTINGS, nearest_mean)} == {0.0}


@pytest.mark.parametrize(("batch", "first"), [(20, 12), (1, 2)])
def test_the_command_replays_as_the_service_asks(
    batch: int, first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = [
        "--batch",
        str(batch),
        "--protocol",
        "live",
        "--skips",
        "0.2",
        "--strategies",
        "random",
        "--seeds",
        "1",
        "--labels",
        str(batch + 10),
    ]
    assert cli.main(["simulate", "digits", *live, "--out", str(tmp_path), "--quiet"]) == 0
    assert f"accuracy at {first}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--skips", "0.1"], ["--protocol", "live", "--skips", "1"], ["--protocol", "live", "--late", "11"]]
)
def test_what_the_protocol_cannot_be_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["simulate", "digits", *arguments, "--out", str(tmp_path), "--quiet"]) == 1
    assert "--skips" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(("labels", "batch"), [("10", "10"), ("5", "5")])
def test_fewer_answers_than_the_first_training_takes_are_refused(
    labels: str, batch: str, dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--protocol", "live", "--labels", labels, "--batch", batch, "--seeds", "1", "--strategies", "random"]
    assert cli.main(["simulate", "digits", *arguments, *dry, "--out", str(tmp_path), "--quiet"]) == 1
    assert f"--labels must be more than {labels}" in capsys.readouterr().err
