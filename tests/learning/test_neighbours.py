"""Graphs of a pool: what is near what, and what labels reach."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.learning.neighbours import NEIGHBOURS, SMOOTHNESS, AnchorGraph, Graph, NeighbourGraph
from ml_backend.simulation.data import unit_rows

KINDS = (NeighbourGraph, AnchorGraph)


def blobs(rows: int, seed: int = 0) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Three groups, well apart."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(3, size=rows)
    return unit_rows(np.eye(3, 8)[groups] + 0.1 * rng.standard_normal((rows, 8))), groups


def everywhere(features: NDArray[np.float16]) -> NDArray[np.int64]:
    return np.arange(len(features))


def test_neighbours_are_the_nearest_rows_and_never_the_row_itself() -> None:
    features, _ = blobs(200)
    graph = NeighbourGraph.of(features, everywhere(features))
    x = features.astype(np.float32)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -9)
    np.testing.assert_allclose(graph.similar, -np.sort(-cosine, axis=1)[:, :NEIGHBOURS], atol=1e-6)
    assert not (graph.nearest == np.arange(200)[:, None]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_grows_is_the_graph_of_all_rows(kind: type[NeighbourGraph] | type[AnchorGraph]) -> None:
    features, _ = blobs(300)
    whole = kind.of(features, everywhere(features))
    grown = kind.of(features, np.arange(290)).extended(features, everywhere(features))
    if isinstance(whole, NeighbourGraph):
        np.testing.assert_array_equal(np.sort(whole.nearest), np.sort(grown.nearest))
    assert len(grown) == 300


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 5, 12])
def test_tiny_pools_have_a_graph(kind: type[NeighbourGraph] | type[AnchorGraph], rows: int) -> None:
    features, _ = blobs(rows + 3)
    graph = kind.of(features, np.arange(rows)).extended(features, everywhere(features))
    reached = graph.spread(np.array([0]), np.ones((1, 1), np.float32), np.array([0]), np.arange(rows + 3))
    assert reached.shape == (rows + 3, 2, 1)
    assert np.isfinite(reached).all()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_reach_their_own_group(kind: type[NeighbourGraph] | type[AnchorGraph]) -> None:
    features, groups = blobs(300)
    graph: Graph = kind.of(features, everywhere(features))
    at = np.array([int(np.flatnonzero(groups == group)[0]) for group in (0, 1, 2)])
    reached = graph.spread(at, np.eye(3, dtype=np.float32), np.array([0, 1, 2]), np.arange(300))
    assert (reached[:, -1].argmax(axis=1) == groups).mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_a_fold_that_is_left_out_has_no_say(kind: type[NeighbourGraph] | type[AnchorGraph]) -> None:
    features, groups = blobs(200)
    graph: Graph = kind.of(features, everywhere(features))
    at, fold = np.arange(0, 40), np.arange(40) % 4
    seeds = np.eye(3, dtype=np.float32)[groups[at]]
    reached = graph.spread(at, seeds, fold, np.arange(200))
    for left_out in range(4):
        kept = fold != left_out
        alone = graph.spread(at[kept], seeds[kept], np.zeros(int(kept.sum()), np.int64), np.arange(200))
        np.testing.assert_allclose(reached[:, left_out], alone[:, -1], atol=1e-6)


def test_anchors_that_no_label_reaches_get_nothing_however_many_rows_they_have() -> None:
    """Shares whose rounding comes to more than one row after row made their part of the system indefinite."""
    groups = np.repeat([0, 1], 20_000)
    nearest = np.array([[0, 1, 2], [3, 4, 5]], np.int32)[groups]
    share = np.tile(np.array([0.6, 0.3, 0.1], np.float32), (len(groups), 1))
    graph = AnchorGraph(np.eye(6, dtype=np.float32), nearest, share)
    reached = graph.spread(np.array([0]), np.ones((1, 1), np.float32), np.array([-1]), np.array([1, 30_000]))
    assert reached[0, -1, 0] > 0
    assert reached[1, -1, 0] == 0


def test_a_million_equal_rows_do_not_end_a_training() -> None:
    """Rounding in the sum over them is more than what keeps the system positive definite: Cholesky refuses that one."""
    share = np.array([0.00159483, 0.00211445, 0.00425818, 0.0051644, 0.98686814, 1], np.float32)
    nearest = np.tile(np.arange(5, dtype=np.int32), (1_000_001, 1))
    nearest[-1] = 5
    graph = AnchorGraph(np.eye(6, dtype=np.float32), nearest, share[nearest])
    assert np.linalg.eigvalsh(SMOOTHNESS * graph._between[0])[0] < -1e-6, "else this test shows nothing"
    reached = graph.spread(np.array([1_000_000]), np.ones((1, 1), np.float32), np.array([-1]), np.array([0, 1_000_000]))
    assert reached[0, -1, 0] == 0
    assert reached[1, -1, 0] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_all_seeds_together_are_one_more_entry_or_none(kind: type[NeighbourGraph] | type[AnchorGraph]) -> None:
    features, groups = blobs(100)
    graph: Graph = kind.of(features, everywhere(features))
    at, fold, seeds = np.arange(20), np.arange(20) % 3 - 1, np.eye(3, dtype=np.float32)[groups[:20]]
    with_all = graph.spread(at, seeds, fold, np.arange(100))
    without = graph.spread(at, seeds, fold, np.arange(100), whole=False)
    assert with_all.shape[1] == 3
    np.testing.assert_array_equal(without, with_all[:, :2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_blind_entry_knows_the_seeds_of_no_fold_alone(kind: type[NeighbourGraph] | type[AnchorGraph]) -> None:
    features, groups = blobs(100)
    graph: Graph = kind.of(features, everywhere(features))
    at, fold, seeds = np.arange(20), np.arange(20) % 3 - 1, np.eye(3, dtype=np.float32)[groups[:20]]
    blind = graph.spread(at, seeds, fold, np.arange(100), whole=False, blind=True)
    kept = fold < 0
    alone = graph.spread(at[kept], seeds[kept], np.full(int(kept.sum()), -1), np.arange(100))
    assert blind.shape[1] == 3
    np.testing.assert_allclose(blind[:, -1], alone[:, -1], atol=1e-6)
    np.testing.assert_array_equal(blind[:, :2], graph.spread(at, seeds, fold, np.arange(100))[:, :2])


@pytest.mark.parametrize("kind", KINDS)
def test_two_labels_of_one_row_both_count(kind: type[NeighbourGraph] | type[AnchorGraph]) -> None:
    features, _ = blobs(100)
    graph: Graph = kind.of(features, everywhere(features))
    seeds, fold = np.eye(2, dtype=np.float32), np.zeros(2, np.int64)
    both = graph.spread(np.array([7, 7]), seeds, fold, np.array([7]))[0, -1]
    assert both[0] == pytest.approx(both[1])
    assert both[0] > 0


def test_rows_that_are_gone_stay_in_the_graph_and_meet_nothing_new() -> None:
    features, _ = blobs(60)
    places = everywhere(features)
    graph = NeighbourGraph.of(features, places[:50])
    places[:5] = -1
    grown = graph.extended(features, places)
    np.testing.assert_array_equal(grown.nearest[:5], graph.nearest[:5])
    assert not np.isin(grown.nearest[50:][grown.similar[50:] > 0], np.arange(5)).any()
