"""Pictures to train on: memory does not grow with them, the disk has its room back, and one that went away ends nothing."""

from __future__ import annotations

import errno
import logging
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.errors import ImageAwayError, ImageError
from ml_backend.learning.checkpoint import Checkpoint
from ml_backend.learning.finetuning import finetune
from ml_backend.learning.prepared_pictures import PreparedPictures
from tests.learning.checkpoints import CLASSES, IMAGES, RECIPE, SIDE, encoder, labels, pixels, run, same

SHAPE = (32, 32, 3)
BYTES = 32 * 32 * 3


class Source:
    """Pictures that are made when they are asked for; those in `gone` cannot be had."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.gone: dict[int, Exception] = {}

    def __call__(self, place: int) -> NDArray[np.uint8]:
        self.asked.append(place)
        if place in self.gone:
            raise self.gone[place]
        return np.full(SHAPE, place % 251, np.uint8)


@pytest.fixture
def source() -> Source:
    return Source()


def opened(source: Source, folder: Path, count: int, most: int = 10**9) -> PreparedPictures:
    return PreparedPictures([f"{place:064x}" for place in range(count)], source, SHAPE, folder, most=most)


def whole_epoch(pictures: PreparedPictures, batch: int = 8) -> None:
    """Take all, and see that each is the one it should be."""
    parts = [np.arange(start, min(start + batch, len(pictures))) for start in range(0, len(pictures), batch)]
    for place, part in enumerate(parts):
        found, rows = pictures.take(part, parts[place + 1 : place + 3])
        assert np.array_equal(rows, part)
        assert np.array_equal(found[:, 0, 0, 0], pictures.rows[rows] % 251)


@pytest.mark.parametrize("most", [10**9, 5 * BYTES], ids=["on disk", "decoded anew"])
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path, source: Source, most: int) -> None:
    peaks = []
    for count in (100, 1000):
        tracemalloc.start()
        with opened(source, tmp_path, count, most) as pictures:
            pictures.fill(lambda _: None)
            whole_epoch(pictures)
            peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1000 * BYTES / 3
    assert peaks[1] - peaks[0] < 900 * BYTES / 5


def test_pictures_on_disk_are_prepared_once_and_the_others_each_time(tmp_path: Path, source: Source) -> None:
    with opened(source, tmp_path, 20, 12 * BYTES) as pictures:
        pictures.fill(lambda _: None)
        assert pictures.cached == 12
        for _ in range(3):
            whole_epoch(pictures)
    assert [source.asked.count(place) for place in range(20)] == [1] * 12 + [3] * 8


def test_the_file_has_no_name_so_that_a_kill_leaves_nothing(tmp_path: Path, source: Source) -> None:
    with opened(source, tmp_path, 20) as pictures:
        pictures.fill(lambda _: None)
        assert pictures.cached == 20
        assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_the_rest_is_read_anew_and_the_log_says_so_once(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pwrite = os.pwrite
    written: list[int] = []

    def full(file: int, data: Any, at: int) -> int:
        if len(written) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(at)
        return pwrite(file, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with opened(source, tmp_path, 40) as pictures:
        pictures.fill(lambda _: None)
        whole_epoch(pictures)
        assert pictures.cached == 7
    assert caplog.text.count("No space left on device") == 1


def test_a_folder_that_cannot_be_written_to_costs_time_alone(
    tmp_path: Path, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with opened(source, tmp_path / "file", 10) as pictures:
        pictures.fill(lambda _: None)
        whole_epoch(pictures)
    assert "are read anew each time" in caplog.text


def test_one_that_cannot_be_had_is_no_row_and_one_that_goes_away_later_is_left_out_of_its_batch(
    tmp_path: Path, source: Source
) -> None:
    source.gone[3] = ImageError("damaged")
    with opened(source, tmp_path, 10, 6 * BYTES) as pictures:
        pictures.fill(lambda _: None)
        assert pictures.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        source.gone[7] = ImageError("deleted")
        found, rows = pictures.take(np.array([2, 3, 6, 7]))  # of the pictures 2, 4, 7 and 8
        assert rows.tolist() == [2, 3, 7]
        assert found[:, 0, 0, 0].tolist() == [2, 4, 8]
        assert set(pictures.gone) == {3, 7}


def test_where_many_cannot_be_fetched_for_the_time_being_training_waits_for_them(
    tmp_path: Path, source: Source
) -> None:
    source.gone = {place: ImageAwayError("The host is away.") for place in range(3)}
    with opened(source, tmp_path, 20) as pictures, pytest.raises(ImageAwayError):
        pictures.fill(lambda _: None)


def test_a_cancel_is_heard_while_an_image_is_waited_for(tmp_path: Path) -> None:
    answered = threading.Event()

    def slow(_place: int) -> NDArray[np.uint8]:
        answered.wait(60)
        return np.zeros(SHAPE, np.uint8)

    def cancelled(*_: Any) -> None:
        raise KeyboardInterrupt

    pictures = PreparedPictures(["a", "b"], slow, SHAPE, tmp_path, most=10**9)
    with pytest.raises(KeyboardInterrupt), pictures:
        pictures.take(np.array([0, 1]), (), cancelled)
    with pytest.raises(KeyboardInterrupt), PreparedPictures(["a"], slow, SHAPE, tmp_path, most=10**9) as others:
        others.fill(cancelled)
    answered.set()


def test_a_network_learns_the_same_from_pictures_on_disk_and_goes_on_from_there(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed at half; the next process prepares them anew."""
    monkeypatch.setattr(Checkpoint, "due", True)
    images, shape = pixels(), (SIDE, SIDE, 3)

    def tuned(on_progress: Any) -> Any:
        names = [f"{place:064x}" for place in range(IMAGES)]
        with PreparedPictures(names, images.__getitem__, shape, tmp_path, most=20 * SIDE * SIDE * 3) as pictures:
            pictures.fill(lambda _: None)
            return finetune(
                encoder(), pictures, labels(), CLASSES, seed=0, recipe=RECIPE, checkpoint=path, on_progress=on_progress
            )

    def stop(share: float, _doing: str) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(stop)
    caplog.set_level(logging.INFO)
    assert same(tuned(lambda *_: None), run())
    assert "goes on after 1 epochs" in caplog.text
