"""The graph of a project's images, kept from turn to turn."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.learning import neighbours
from ml_backend.learning.neighbours import AnchorGraph, NeighbourGraph
from ml_backend.simulation.data import unit_rows
from ml_backend.store import graphs
from ml_backend.store.graphs import GraphStore, ImageGraph
from ml_backend.store.project_files import ProjectFiles
from ml_backend.tabular import atomic_file


@pytest.fixture
def features() -> NDArray[np.float16]:
    return unit_rows(np.random.default_rng(0).standard_normal((400, 8)))


def store_in(folder: Path) -> GraphStore:
    return GraphStore(ProjectFiles(folder))


def keys(count: int) -> NDArray[np.uint64]:
    """Keys of images, in no order."""
    return np.random.default_rng(1).permutation(2**20)[:count].astype(np.uint64)


def of(store: GraphStore, images: NDArray[np.uint64], features: NDArray[np.float16], encoder: str = "e") -> ImageGraph:
    return store.of(1, encoder, images, np.arange(len(images)), features)


def shown(found: ImageGraph) -> dict[int, set[int]]:
    """Image -> its neighbours, as images."""
    graph = found.graph
    assert isinstance(graph, NeighbourGraph)
    images = found.images.tolist()
    return {images[row]: {images[other] for other in near} for row, near in enumerate(graph.nearest.tolist())}


def test_a_graph_is_built_once(tmp_path: Path, features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch) -> None:
    first = of(store_in(tmp_path), keys(100), features)
    monkeypatch.setattr(graphs, "graph_of", None)
    again = of(store_in(tmp_path), keys(100), features)
    assert shown(again) == shown(first)


def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path: Path, features: NDArray[np.float16]) -> None:
    of(store_in(tmp_path), keys(100), features)
    read = of(store_in(tmp_path), keys(100), features)
    assert of(store_in(tmp_path), keys(100), features).graph is read.graph
    of(store_in(tmp_path), keys(120), features)
    assert len(of(store_in(tmp_path), keys(120), features).graph) == 120


def test_new_images_join_and_find_the_neighbours_that_a_new_graph_would_give(
    tmp_path: Path, features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shown(of(store_in(tmp_path / "whole"), keys(100), features))
    of(store_in(tmp_path), keys(80), features)
    monkeypatch.setattr(graphs, "graph_of", None)
    grown = of(store_in(tmp_path), keys(100), features)
    assert shown(grown) == whole
    np.testing.assert_array_equal(grown.images[grown.rows_of(keys(100))], keys(100))
    np.testing.assert_array_equal(grown.places[grown.rows_of(keys(100))], np.arange(100))


def test_vectors_are_found_by_the_image_wherever_they_stand(tmp_path: Path, features: NDArray[np.float16]) -> None:
    """Vectors that were lost and encoded again stand in another order."""
    of(store_in(tmp_path), keys(100), features)
    order = np.random.default_rng(2).permutation(100)
    moved = store_in(tmp_path).of(1, "e", keys(100), order, features)
    np.testing.assert_array_equal(moved.places[moved.rows_of(keys(100))], order)


def test_images_that_left_are_marked_and_many_of_them_make_a_new_graph(
    tmp_path: Path, features: NDArray[np.float16]
) -> None:
    of(store_in(tmp_path), keys(100), features)
    few = of(store_in(tmp_path), keys(100)[:90], features)
    assert len(few.images) == 100
    assert (few.places < 0).sum() == 10
    assert len(of(store_in(tmp_path), keys(100)[:50], features).images) == 50


def test_the_same_image_in_two_tasks_is_one_row(tmp_path: Path, features: NDArray[np.float16]) -> None:
    twice = np.concatenate([keys(50), keys(10)])
    found = store_in(tmp_path).of(1, "e", twice, np.r_[np.arange(50), np.arange(10)], features)
    assert len(found.images) == 50
    np.testing.assert_array_equal(found.rows_of(keys(10)), found.rows_of(twice)[50:])


@pytest.mark.parametrize("damage", [b"", b"\x00" * 50, b"\xff" * 5000])
def test_a_file_that_cannot_be_read_is_built_anew(tmp_path: Path, features: NDArray[np.float16], damage: bytes) -> None:
    whole = shown(of(store_in(tmp_path), keys(100), features))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert shown(of(store_in(tmp_path), keys(100), features)) == whole


def test_a_file_of_another_shape_is_built_anew(tmp_path: Path, features: NDArray[np.float16]) -> None:
    whole = shown(of(store_in(tmp_path), keys(100), features))
    store = store_in(tmp_path)
    broken = NeighbourGraph(np.zeros((7, 3), np.int32), np.zeros((7, 3), np.float32))
    store._write(1, "e", ImageGraph(keys(100), np.arange(100), broken))
    assert shown(of(store, keys(100), features)) == whole


def test_one_bit_that_is_another_is_noticed(tmp_path: Path, features: NDArray[np.float16]) -> None:
    whole = shown(of(store_in(tmp_path), keys(100), features))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    for place in range(len(content) - 6000, len(content), 997):
        broken = content.copy()
        broken[place] ^= 16
        file.write_bytes(broken)
        assert shown(of(store_in(tmp_path), keys(100), features)) == whole


def test_a_graph_that_cannot_be_kept_is_there_all_the_same(tmp_path: Path, features: NDArray[np.float16]) -> None:
    whole = shown(of(store_in(tmp_path / "whole"), keys(100), features))
    (tmp_path / "file").write_text("in the way")
    assert shown(of(store_in(tmp_path / "file"), keys(100), features)) == whole
    with atomic_file(tmp_path / "locked" / "1.safetensors"):  # another process writes it
        assert shown(of(store_in(tmp_path / "locked"), keys(100), features)) == whole


def test_another_encoder_has_another_graph(tmp_path: Path, features: NDArray[np.float16]) -> None:
    of(store_in(tmp_path), keys(100), features)
    other = of(store_in(tmp_path), keys(100), features[::-1].copy(), "f")
    assert shown(other) == shown(of(store_in(tmp_path / "new"), keys(100), features[::-1].copy(), "f"))


def test_a_pool_that_becomes_large_gets_an_anchor_graph(
    tmp_path: Path, features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 200)
    monkeypatch.setattr(graphs, "EXACT_ROWS", 200)
    assert isinstance(of(store_in(tmp_path), keys(150), features).graph, NeighbourGraph)
    large = of(store_in(tmp_path), keys(250), features)
    assert isinstance(large.graph, AnchorGraph)
    again = of(store_in(tmp_path), keys(300), features)
    assert isinstance(again.graph, AnchorGraph)
    assert len(again.images) == len(again.graph) == 300
    np.testing.assert_array_equal(again.graph.anchors, large.graph.anchors)
