"""Encoding many images: each once, whatever happens to some of them."""

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ml_backend.encoders.pipeline import Sink, encode_all
from ml_backend.errors import ConfigError, ImageError
from ml_backend.images.decoding import content_hash

Stored = dict[str, NDArray[np.float32]]


class MeanColour:
    """Three numbers an image, and a count of what it was asked for."""

    name = id = "mean-colour"
    dim = 3
    input_size = 8

    def __init__(self, fits: int = 10**9) -> None:
        self.fits = fits
        self.batches: list[int] = []
        self.lock = threading.Lock()

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.convert("RGB").resize((8, 8)), np.uint8)

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(batch) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        with self.lock:
            self.batches.append(len(batch))
        colours: NDArray[np.float32] = batch.mean((1, 2), dtype=np.float32)
        return colours

    def module(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {}

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return self.forward(np.stack([self.prepare(image) for image in images]))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def stored() -> Stored:
    return {}


@pytest.fixture
def sink(stored: Stored) -> Sink:
    def keep(hashes: Sequence[str], vectors: NDArray[np.float32]) -> None:
        assert len(hashes) == len(vectors)
        assert not set(hashes) & set(stored)
        stored.update(zip(hashes, vectors, strict=True))

    return keep


def test_every_item_gets_the_vector_of_its_own_bytes(stored: Stored, sink: Sink) -> None:
    result = encode_all(range(100), png, MeanColour(), sink)
    assert result.failed == {}
    assert {item: content_hash(png(item)) for item in range(100)} == result.hashes
    assert all(stored[key].tolist() == [item, 0, 7] for item, key in result.hashes.items())


def test_one_image_behind_many_items_is_encoded_once(stored: Stored, sink: Sink) -> None:
    encoder = MeanColour()
    result = encode_all(range(200), lambda item: png(item % 5), encoder, sink)
    assert sum(encoder.batches) == len(stored) == 5
    assert len(result.hashes) == 200


def test_images_that_are_stored_are_not_computed_again(stored: Stored, sink: Sink) -> None:
    encoder = MeanColour()
    have = {content_hash(png(item)) for item in range(90)}
    result = encode_all(range(100), png, encoder, sink, known=have.__contains__)
    assert sum(encoder.batches) == 10
    assert len(result.hashes) == 100


def test_unreadable_images_fail_alone_and_all_items_behind_them(stored: Stored, sink: Sink) -> None:
    def read(item: int) -> bytes:
        if item == 3:
            raise ImageError("no such file")
        return b"broken" if item % 10 == 5 else png(item)

    result = encode_all(range(100), read, MeanColour(), sink)
    assert sorted(result.failed) == sorted([3, *range(5, 100, 10)])
    assert str(result.failed[3]) == "no such file"
    assert len(result.hashes) == 89


def test_batches_that_do_not_fit_are_halved_until_they_do(stored: Stored, sink: Sink) -> None:
    encoder = MeanColour(fits=3)
    assert len(encode_all(range(50), png, encoder, sink, batch_size=16).hashes) == 50
    assert max(encoder.batches) <= 3


def test_image_that_does_not_fit_alone_ends_the_run(sink: Sink) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        encode_all(range(50), png, MeanColour(fits=0), sink)


def test_what_a_stopped_run_has_stored_is_not_done_again(stored: Stored, sink: Sink) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 400
        if done >= 100:
            raise StopError

    with pytest.raises(StopError):
        encode_all(range(400), png, MeanColour(), sink, progress=stop)
    before = len(stored)
    assert 100 <= before < 400
    encoder = MeanColour()
    encode_all(range(400), png, encoder, sink, known=stored.__contains__)
    assert sum(encoder.batches) == 400 - before


def test_mistakes_of_the_caller_are_not_taken_for_bad_images(sink: Sink) -> None:
    def read(item: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encode_all(range(50), read, MeanColour(), sink)


def test_progress_ends_at_the_total(sink: Sink) -> None:
    seen = []
    encode_all(range(33), png, MeanColour(), sink, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (33, 33)
    assert seen == sorted(seen)


def test_nothing_to_encode_is_fine(sink: Sink) -> None:
    assert encode_all([], png, MeanColour(), sink).hashes == {}


def test_number_of_threads_of_the_process_is_as_before(sink: Sink) -> None:
    before = torch.get_num_threads()
    encode_all(range(20), png, MeanColour(), sink)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), seen) == (before, [before])


class Overflows(MeanColour):
    """Gives no numbers for the images in `bad`."""

    def __init__(self, bad: Sequence[int]) -> None:
        super().__init__()
        self.bad = bad

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        colours = super().forward(batch)
        colours[np.isin(np.rint(colours[:, 0]), self.bad)] = np.nan
        return colours


def test_an_image_without_finite_features_is_told_with_the_encoders_name_and_the_others_are_kept(
    stored: Stored, sink: Sink
) -> None:
    result = encode_all(range(40), png, Overflows([3, 17]), sink)
    assert set(result.failed) == {3, 17}
    assert all("mean-colour gives NaN" in str(error) for error in result.failed.values())
    assert len(stored) == len(result.hashes) == 38
    assert all(np.isfinite(vector).all() for vector in stored.values())


def test_an_encoder_that_gives_no_numbers_at_all_is_at_fault_and_not_the_images(stored: Stored, sink: Sink) -> None:
    with pytest.raises(ConfigError, match=r"mean-colour gives NaN or infinity for every image.*choose another encoder"):
        encode_all(range(40), png, Overflows(range(40)), sink)
    assert not stored
