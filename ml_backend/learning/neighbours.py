"""Which rows of a pool are near which: the graph that labels are spread over.

Small pools: each row's nearest neighbours, exactly. Large ones: an anchor graph, in which rows meet through anchors and all
work is linear in the rows. Both are plain arrays, a line for each row, so that new rows are added without building anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from sklearn.cluster import KMeans

Features = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
Places = NDArray[np.int64]

EXACT_ROWS = 25_000
"""Up to here neighbours are searched for exactly; that work grows with the square of the rows."""
NEIGHBOURS, POWER = 10, 3
RESTART, STEPS = 0.05, 30
ANCHORS, ANCHOR_SAMPLE, ANCHOR_STEPS, ANCHORS_A_ROW = 1_000, 25_000, 10, 5
SHARPNESS, SMOOTHNESS = 20.0, 0.1
ROWS_AT_ONCE = 2_048


class Graph(Protocol):
    """N rows of a pool, and how near they are to each other."""

    def __len__(self) -> int: ...

    def spread(
        self, at: Places, seeds: Floats, fold: Places, rows: Places, *, whole: bool = True, blind: bool = False
    ) -> Floats:
        """What reaches `rows` (r,) of `seeds` (n, k), given at the rows `at` (n,): (r, B, k), not below zero.

        fold: (n,), -1 for a seed of no fold. Entry b is without the seeds of fold b; whole: one more, with all; blind: one
        more, the last, with those of no fold alone.
        Each column is shared out as if its seeds came to one, so that classes with few labels reach as far as those with
        many.
        """
        ...

    def extended(self, features: Features, places: Places) -> Graph:
        """The graph of more rows: those that it has, then new ones.

        features: (M, d) unit rows, any float type, may be memory-mapped. places: (N,) where in `features` each row is, -1 for
        rows that it has and that are there no more: what they were near to stays near to them, and nothing new comes.
        """
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What to keep of it, by the names of its constructor's parameters."""
        ...


def graph_of(features: Features, places: Places) -> Graph:
    """The graph of the rows of `features` (M, d) at `places` (N,)."""
    kind = NeighbourGraph if len(places) <= EXACT_ROWS else AnchorGraph
    return kind.of(features, places)


@dataclass(frozen=True)
class NeighbourGraph:
    """nearest: (N, m) int32, each row's nearest others. similar: (N, m) float32, their cosine; -2 where there is none."""

    nearest: NDArray[np.int32]
    similar: Floats

    @classmethod
    def of(cls, features: Features, places: Places) -> NeighbourGraph:
        none = np.empty((0, min(NEIGHBOURS, len(places))), np.float32)
        return cls(none.astype(np.int32), none).extended(features, places)

    def __len__(self) -> int:
        return len(self.nearest)

    def extended(self, features: Features, places: Places) -> NeighbourGraph:
        rows = torch.from_numpy(np.array(features[places], np.float32) * (places >= 0)[:, None])
        known, count = len(self), min(NEIGHBOURS, len(rows))
        nearest = torch.zeros(len(rows), count, dtype=torch.int64)
        similar = torch.full((len(rows), count), -2.0)
        had = self.nearest.shape[1]
        nearest[:known, :had] = torch.from_numpy(self.nearest.astype(np.int64))
        similar[:known, :had] = torch.from_numpy(self.similar)
        for first, last, others in ((0, known, known), (known, len(rows), 0)):  # known rows look at the new ones only
            for start in range(first, last, ROWS_AT_ONCE):
                here = torch.arange(start, min(start + ROWS_AT_ONCE, last))
                block = rows[here] @ rows[others:].T
                own = here >= others
                block[own.nonzero()[:, 0], here[own] - others] = -2.0
                found, near = block.topk(min(count, block.shape[1]), dim=1)
                similar[here], best = torch.cat([similar[here], found], 1).topk(count, dim=1)
                nearest[here] = torch.cat([nearest[here], near + others], 1).gather(1, best)
        return NeighbourGraph(nearest.numpy().astype(np.int32), similar.numpy())

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"nearest": self.nearest, "similar": self.similar}

    @cached_property
    def _edges(self) -> csr_array:
        """(N, N): cosine ** POWER both ways, each edge divided by the root of the degrees of its ends."""
        n, count = self.nearest.shape
        ends = np.repeat(np.arange(n), count), self.nearest.reshape(-1)
        worth = np.maximum(self.similar, 0).astype(np.float32).reshape(-1) ** POWER
        one_way = csr_array((worth, ends), shape=(n, n))
        edges = (one_way + one_way.T).tocsr()
        scale = diags_array(1 / np.sqrt(np.maximum(edges.sum(axis=1), 1e-12)).astype(np.float32))
        return csr_array(scale @ edges @ scale)

    def spread(
        self, at: Places, seeds: Floats, fold: Places, rows: Places, *, whole: bool = True, blind: bool = False
    ) -> Floats:
        """Label spreading, F <- (1 - RESTART) S F + RESTART Y, STEPS times (D. Zhou et al., NIPS 2003).

        It is linear in the seeds: what a fold leaves out is the whole less what comes from that fold.
        """
        folds, columns = int(fold.max()) + 1, seeds.shape[1]
        by_fold = np.zeros((len(at), folds + bool((fold < 0).any()), columns), np.float32)  # those of no fold are last
        by_fold[np.arange(len(at)), fold] = seeds
        given_here = by_fold.reshape(len(at), -1)
        used = np.flatnonzero(given_here.any(axis=0))  # of many classes a fold has few
        given = np.zeros((len(self), len(used)), np.float32)
        np.add.at(given, at, RESTART * given_here[:, used])
        reached = given
        for _ in range(STEPS):
            reached = self._edges @ reached
            reached *= 1 - RESTART
            reached += given
        found = np.zeros((len(rows), given_here.shape[1]), np.float32)
        found[:, used] = reached[rows]
        apart, each = found.reshape(-1, *by_fold.shape[1:]), by_fold.sum(axis=0)
        everything, total = apart.sum(axis=1, keepdims=True), each.sum(axis=0)
        left, counts = everything - apart[:, :folds], total - each[:folds]
        if whole:
            left, counts = np.concatenate([left, everything], axis=1), np.concatenate([counts, total[None]])
        if blind:
            others, count = apart[:, folds:].sum(axis=1, keepdims=True), each[folds:].sum(axis=0)
            left, counts = np.concatenate([left, others], axis=1), np.concatenate([counts, count[None]])
        return np.asarray(np.maximum(left, 0) / np.maximum(counts, 1e-6), np.float32)


@dataclass(frozen=True)
class AnchorGraph:
    """A row belongs to its nearest anchors, and is near what belongs to the same.

    W. Liu, J. He and S.-F. Chang, "Large Graph Construction for Scalable Semi-Supervised Learning", ICML 2010.
    anchors: (m, d) float32 unit rows. nearest: (N, s) int32. share: (N, s) float32, summing to one.
    """

    anchors: Floats
    nearest: NDArray[np.int32]
    share: Floats

    @classmethod
    def of(cls, features: Features, places: Places) -> AnchorGraph:
        """Anchors: centres of k-means on a sample of the rows."""
        rng = np.random.default_rng(0)
        drawn = np.sort(rng.choice(places, min(ANCHOR_SAMPLE, len(places)), replace=False))
        sample = np.asarray(features[drawn], np.float32)
        count = min(ANCHORS, len(sample))
        means = KMeans(count, init="random", n_init=1, max_iter=ANCHOR_STEPS, random_state=0).fit(sample)
        centres = means.cluster_centers_
        anchors = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        none = np.empty((0, min(ANCHORS_A_ROW, count)), np.float32)
        return cls(anchors.astype(np.float32), none.astype(np.int32), none).extended(features, places)

    def __len__(self) -> int:
        return len(self.nearest)

    def extended(self, features: Features, places: Places) -> AnchorGraph:
        centres = torch.from_numpy(self.anchors).T
        nearest, share = [self.nearest], [self.share]
        for start in range(len(self), len(places), ROWS_AT_ONCE):
            rows = torch.from_numpy(np.array(features[places[start : start + ROWS_AT_ONCE]])).float()
            similar, own = (rows @ centres).topk(self.nearest.shape[1], dim=1)
            nearest.append(own.numpy().astype(np.int32))
            share.append(torch.softmax(SHARPNESS * similar, 1).numpy())
        return AnchorGraph(self.anchors, np.concatenate(nearest), np.concatenate(share))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"anchors": self.anchors, "nearest": self.nearest, "share": self.share}

    @cached_property
    def _shares(self) -> csr_array:
        """(N, m) the share of each anchor in each row.

        They come to one within rounding of float64, else `_between` would have eigenvalues below zero.
        """
        share, (n, count) = self.share.astype(np.float64), self.nearest.shape
        share /= share.sum(axis=1, keepdims=True)
        entries = share.reshape(-1), self.nearest.reshape(-1), np.arange(n + 1) * count
        return csr_array(entries, shape=(n, len(self.anchors)))

    @cached_property
    def _between(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(m, m) Laplacian of the anchors, Z'Z - Z'Z diag(1'Z)^-1 Z'Z, and (m,) what belongs to each, 1'Z."""
        common, size = (self._shares.T @ self._shares).toarray(), self._shares.sum(axis=0)
        return common - (common / np.maximum(size, 1e-9)) @ common, size

    def spread(
        self, at: Places, seeds: Floats, fold: Places, rows: Places, *, whole: bool = True, blind: bool = False
    ) -> Floats:
        """Anchors get what fits the seeds and differs little between near ones; rows get their anchors' shares."""
        laplacian, size = self._between
        given = self._shares[at]
        everything = (given.T @ given).toarray() + SMOOTHNESS * laplacian + 1e-6 * np.eye(len(size))
        reached = []
        left_out = [fold == number for number in range(int(fold.max()) + 1 + whole)]
        for mine in [*left_out, fold >= 0] if blind else left_out:
            system = everything - (given[mine].T @ given[mine]).toarray()
            wanted = given[~mine].T @ seeds[~mine]
            # By torch: NumPy's own threads would fight with it for the cores.
            anchors = _solved(torch.from_numpy(system), torch.from_numpy(wanted)).clamp_min(0).numpy()
            anchors /= np.maximum(size @ anchors, 1e-12)
            reached.append(anchors.astype(np.float32))
        of_rows = self._shares[rows].astype(np.float32) @ np.hstack(reached)
        return np.asarray(of_rows).reshape(len(rows), len(reached), -1)


def _solved(system: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """By Cholesky, or where rounding over a million equal rows made the system indefinite, by elimination."""
    factor, failed = torch.linalg.cholesky_ex(system)
    return torch.linalg.solve(system, wanted) if int(failed) else torch.cholesky_solve(wanted, factor)
