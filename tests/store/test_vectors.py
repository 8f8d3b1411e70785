"""The feature store: every vector once, readable after any crash, shared by processes."""

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.store.vectors import FeatureStore


def keys(count: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(start, start + count)]


def vectors(count: int, dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def gathered(store: FeatureStore, encoder: str, hashes: Sequence[str]) -> NDArray[np.float16]:
    return np.asarray(store.matrix(encoder)[store.rows(encoder, hashes)])


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def test_vectors_come_back_by_hash_in_the_order_asked_for(store: FeatureStore) -> None:
    rows = vectors(20)
    assert store.append("e", keys(20), rows) == 20
    wanted = [keys(20)[i] for i in (7, 0, 7, 19)]
    assert np.array_equal(gathered(store, "e", wanted), rows[[7, 0, 7, 19]].astype(np.float16))


def test_one_image_behind_two_tasks_is_stored_once(store: FeatureStore) -> None:
    assert store.append("e", keys(3) + keys(3), vectors(6)) == 3
    assert store.append("e", keys(4), vectors(4)) == 1
    assert len(store.matrix("e")) == 4


def test_first_vector_of_a_hash_is_kept(store: FeatureStore) -> None:
    store.append("e", keys(1), vectors(1, seed=1))
    store.append("e", keys(1), vectors(1, seed=2))
    assert np.array_equal(gathered(store, "e", keys(1)), vectors(1, seed=1).astype(np.float16))


def test_missing_hashes_have_row_minus_one(store: FeatureStore) -> None:
    store.append("e", keys(2), vectors(2))
    assert store.rows("e", [*keys(2), *keys(1, 99)]).tolist() == [0, 1, -1]


def test_encoder_nobody_has_used_has_no_rows(store: FeatureStore) -> None:
    assert store.rows("none", keys(2)).tolist() == [-1, -1]
    assert len(store.matrix("none")) == 0
    assert not list(store.root.glob("*/table.json"))


def test_matrix_is_a_read_only_map_and_row_numbers_stay(store: FeatureStore) -> None:
    store.append("e", keys(5), vectors(5))
    before = store.matrix("e")
    store.append("e", keys(5, 5), vectors(5))
    assert isinstance(store.matrix("e"), np.memmap)
    assert before.shape == (5, 8)
    assert np.array_equal(store.matrix("e")[:5], before)
    with pytest.raises(ValueError, match="read-only"):
        before[0, 0] = 1


def test_another_process_sees_what_was_appended(store: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore(tmp_path / "features")
    assert len(other.matrix("e")) == 0
    store.append("e", keys(3), vectors(3))
    assert other.rows("e", keys(3)).tolist() == [0, 1, 2]
    other.append("e", keys(3, 3), vectors(3))
    assert store.rows("e", keys(6)).tolist() == list(range(6))


@pytest.mark.parametrize("file", ["vectors.f16", "hashes.bin"])
@pytest.mark.parametrize("torn", [1, 13, 40])
def test_torn_tail_is_not_seen_and_is_cut_off_by_the_next_append(
    store: FeatureStore, tmp_path: Path, file: str, torn: int
) -> None:
    store.append("e", keys(4), vectors(4))
    with (tmp_path / "features" / "e" / file).open("ab") as handle:
        handle.write(b"\xff" * (torn if file == "vectors.f16" else min(torn, 31)))
    after = FeatureStore(tmp_path / "features")
    assert len(after.matrix("e")) == 4
    after.append("e", keys(2, 4), vectors(2, seed=5))
    assert np.array_equal(gathered(after, "e", keys(2, 4)), vectors(2, seed=5).astype(np.float16))
    assert np.array_equal(gathered(FeatureStore(tmp_path / "features"), "e", keys(4)), vectors(4).astype(np.float16))


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: truncate(folder / "vectors.f16", 20), "vectors.f16 has 20 bytes"),
        (lambda folder: truncate(folder / "table.json", 0), "table.json cannot be read"),
        (lambda folder: (folder / "table.json").write_text('{"dim": "wide"}'), "names no dimension"),
        (lambda folder: (folder / "table.json").unlink(), "table.json is missing"),
        (lambda folder: (folder / "vectors.f16").unlink(), "vectors.f16 has 0 bytes"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["to a process that has it open", "to a new process"])
def test_damaged_files_are_named_set_aside_and_filled_again(
    store: FeatureStore,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
    says: str,
    known: bool,
) -> None:
    store.append("encoder", keys(10), vectors(10))
    damage(store.root / "encoder")
    again = store if known else FeatureStore(store.root)
    assert again.rows("encoder", keys(10)).tolist() == [-1] * 10
    assert len(again.matrix("encoder")) == 0
    assert len(caplog.messages) == 1
    assert says in caplog.messages[0]
    assert again.append("encoder", keys(10), vectors(10)) == 10
    for reader in (store, FeatureStore(store.root)):
        np.testing.assert_allclose(gathered(reader, "encoder", keys(10)), vectors(10), atol=1e-3)
    assert [path.parent.name for path in again.root.glob("*/table.json")] == ["encoder"]


def test_damage_is_noticed_by_a_writer_as_well(store: FeatureStore) -> None:
    store.append("encoder", keys(10), vectors(10))
    truncate(store.root / "encoder" / "table.json", 0)
    assert store.append("encoder", keys(12), vectors(12)) == 12
    assert len(store.matrix("encoder")) == 12


@pytest.mark.parametrize("size", [0, 3 * 32, 3 * 32 + 7])
def test_hashes_cut_short_lose_their_rows_which_is_told_and_made_good(
    store: FeatureStore, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    store.append("encoder", keys(10), vectors(10))
    truncate(store.root / "encoder" / "hashes.bin", size)
    left = size // 32
    assert (store.rows("encoder", keys(10)) >= 0).sum() == left
    assert store.append("encoder", keys(10), vectors(10)) == 10 - left
    assert f"{10 - left} vectors have no entry in hashes.bin" in caplog.text
    np.testing.assert_allclose(gathered(FeatureStore(store.root), "encoder", keys(10)), vectors(10), atol=1e-3)


def test_many_rows_and_few_rows_are_found_alike(store: FeatureStore) -> None:
    count = 60_000  # enough for the sorted index, and then some rows beside it
    store.append("e", keys(count), vectors(count, 2))
    store.append("e", keys(100, count), vectors(100, 2, seed=9))
    order = np.random.default_rng(0).permutation(count + 100)[:2000]
    every = keys(count + 100)
    assert np.array_equal(store.rows("e", [every[i] for i in order]), order)
    assert (store.rows("e", keys(50, count + 100)) == -1).all()


def test_hashes_that_share_their_first_bytes_are_told_apart(store: FeatureStore) -> None:
    same = ["ab" * 8 + f"{i:048x}" for i in range(60_000)]
    store.append("e", same, vectors(60_000, 1))
    picked = [0, 1, 17, 500]
    assert store.rows("e", [same[i] for i in picked]).tolist() == picked
    assert store.rows("e", ["ab" * 8 + "f" * 48]).tolist() == [-1]


def test_two_encoders_do_not_mix_and_the_unused_one_is_dropped(store: FeatureStore) -> None:
    store.append("a-1", keys(2), vectors(2))
    store.append("b-2", keys(2), vectors(2, 3))
    store.drop("a-1")
    assert len(store.matrix("a-1")) == 0
    assert store.matrix("b-2").shape == (2, 3)
    assert store.append("a-1", keys(2), vectors(2, 5)) == 2  # and may come back, with another dimension


@pytest.mark.parametrize("bad", ["..", "a/b", "", ".hidden", "a b"])
def test_encoder_id_that_is_no_folder_name_is_refused(store: FeatureStore, bad: str) -> None:
    with pytest.raises(InvalidInputError):
        len(store.matrix(bad))


def test_wrong_shapes_values_and_hashes_are_refused_and_leave_nothing(store: FeatureStore) -> None:
    for hashes, rows in [
        (keys(2), vectors(3)),
        (["xyz"], vectors(1)),
        (["ab"], vectors(1)),
        (keys(1), np.full((1, 8), np.nan)),
        (keys(1), np.full((1, 8), 1e6)),
    ]:
        with pytest.raises(InvalidInputError):
            store.append("e", hashes, rows)
    assert len(store.matrix("e")) == 0
    store.append("e", keys(1), vectors(1))
    with pytest.raises(ConflictError, match="another encoder id"):
        store.append("e", keys(1, 5), vectors(1, 9))


def _append_for_ever(root: Path, offset: int, ready: Event) -> None:
    store = FeatureStore(root)
    for number in range(10**6):
        names = keys(7, offset + 7 * number)
        rows = np.array([[int(name[:4], 16) % 1000] * 64 for name in names], np.float32)
        store.append("e", names, rows)
        ready.set()


@pytest.mark.slow
def test_store_is_whole_after_writers_were_killed_at_random_moments(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    generator = np.random.default_rng(0)
    for attempt in range(10):
        ready = context.Event()
        writers = [
            context.Process(target=_append_for_ever, args=(tmp_path, (2 * attempt + i) * 10**6, ready), daemon=True)
            for i in range(2)
        ]
        for writer in writers:
            writer.start()
        assert ready.wait(300)
        time.sleep(generator.uniform(0, 0.02))  # the moment of the kill, not a wait for anything
        for writer in writers:
            writer.kill()
            writer.join()
        store = FeatureStore(tmp_path)
        hashes = np.fromfile(tmp_path / "e" / "hashes.bin", np.uint8)[: len(store.matrix("e")) * 32].reshape(-1, 32)
        names = [bytes(row).hex() for row in hashes]
        assert len(set(names)) == len(names)
        assert np.array_equal(store.matrix("e")[:, 0], [int(name[:4], 16) % 1000 for name in names])
    assert store.append("e", keys(1, 10**9), vectors(1, 64)) == 1
