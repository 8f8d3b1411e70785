"""Rules that look at the features alone: they work before any label. Distances are always those of feature space."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import View, candidates, covered, free, top
from ml_backend.strategies.coverage import Cover, Kernel
from ml_backend.wording import amount

Distances = NDArray[np.float32]
Floats = NDArray[np.float64]

COVERAGE_ROWS = 4096
"""Candidates, and rows to be covered, that greedy coverage looks at; drawn at random from a larger pool."""
SHORTLIST = 4096
"""Rows k-center keeps at hand between two passes over the pool."""
CLUSTER_ROWS = 50_000
NEIGHBOURS = 20
MAX_CLUSTERS = 500


def diversity(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:  # noqa: ARG001 - nothing to draw
    """Farthest first: each pick is the row farthest from all labelled and picked ones (k-center greedy, Sener 2018)."""
    view = candidates(pool)
    picked, distances = farthest_first(view, covered(pool), query_size)
    reasons = tuple(f"far from all images chosen before, distance {distance:.2f}" for distance in distances)
    return Ranking(view.rows[picked], distances, reasons)


def farthest_first(view: View, centers: View, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions in the order picked and the distance of each to the nearest chosen before it. Exact.

    Distances only shrink, so a shortlist of the farthest rows holds the next pick for as long as its best still beats
    what every other row had when the shortlist was made; only then are all rows read again, for all new picks at once.
    """
    count = min(count, len(view))
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0)
    squared = _first_distances(view, centers)
    picked: list[int] = []
    found: list[float] = []
    while len(picked) < count:
        short = top(squared, SHORTLIST)
        rows, nearest = view.take(short), squared[short].copy()
        others = np.delete(squared, short) if len(short) < len(squared) else np.empty(0)
        bar = float(others.max()) if len(others) else -np.inf
        fresh: list[int] = []
        while len(picked) < count and (not fresh or nearest.max() >= bar):
            best = int(nearest.argmax())
            fresh.append(int(short[best]))
            picked.append(int(short[best]))
            found.append(float(nearest[best]))
            np.minimum(nearest, squared_distances(rows, rows[best : best + 1])[:, 0].cpu().numpy(), out=nearest)
            nearest[best] = -1.0
        if len(picked) < count:
            squared = nearer(view, squared, view.take(np.array(fresh)))
            squared[picked] = -1.0
    return np.array(picked), np.sqrt(np.minimum.accumulate(np.maximum(found, 0)))


def _first_distances(view: View, centers: View) -> NDArray[np.float32]:
    """Squared distance to the nearest center; without one, the row nearest the mean comes first."""
    if len(centers):
        squared: Distances = np.full(len(view), np.inf, dtype=np.float32)
        for _, block in centers.chunks(extra_columns=4096):
            squared = nearer(view, squared, block)
        return squared
    total = torch.zeros(view.width, dtype=torch.float64, device=view.device)
    for _, block in view.chunks():
        total += block.sum(0, dtype=torch.float64)
    mean = (total / len(view)).float()[None, :]
    to_mean = nearer(view, np.full(len(view), np.inf, dtype=np.float32), mean)
    first = int(to_mean.argmin())
    squared = nearer(view, np.full(len(view), np.inf, dtype=np.float32), view.take(np.array([first])))
    squared[first] = np.float32(4 * (1 + float(squared.max())))
    return squared


def nearer(view: View, squared: NDArray[np.float32], centers: torch.Tensor) -> NDArray[np.float32]:
    """Lower `squared` (n,) in place to the squared distance to the nearest of `centers` (m, d); gives it back."""
    for positions, block in view.chunks(extra_columns=len(centers)):
        nearest = squared_distances(block, centers).amin(1).cpu().numpy()
        np.minimum(squared[positions], nearest, out=squared[positions])
    return squared


def squared_distances(x: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Squared distances (k, m), not below zero."""
    products = torch.addmm((centers * centers).sum(1)[None, :], x, centers.T, alpha=-2.0)
    return products.add_((x * x).sum(1)[:, None]).clamp_(min=0)


def herding(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """Greedy kernel coverage (MaxHerding): best where there are few labels or none."""
    view = candidates(pool)
    offered = view.subset(view.sample(COVERAGE_ROWS, rng))
    return cover_ranking(pool, offered, np.ones(len(offered)), query_size)


def cover_ranking(pool: Pool, offered: View, weights: Floats, query_size: int) -> Ranking:
    """The greedy cover of `offered` (n rows, `weights`) by rows of its own. Acquisition: share of all that a pick adds."""
    if not len(offered):
        return Ranking(offered.rows, np.empty(0), ())
    kernel = Kernel(offered.all())
    weight = torch.from_numpy(weights.astype(np.float32)).to(offered.device)
    cover = Cover(kernel, kernel.references, weight, kernel.cover(covered(pool)), np.ones(len(offered)))
    picked, gains = cover.grow(query_size)
    shares = gains / max(float(weights.sum()), 1e-12)
    reasons = tuple(f"represents {share:.2%} of the images not covered yet" for share in shares)
    return Ranking(offered.rows[picked], shares, reasons)


def typiclust(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """The most typical row of each of the largest clusters without an answer (Hacohen et al. 2022).

    Clusters: k-means with one cluster an answer, old and new. Typicality: 1 / mean distance to the 20 nearest in the cluster.
    Of a large pool as many rows are drawn as are clustered; the answered ones come first, up to half of them.
    """
    offered, seen = candidates(pool), covered(pool)
    seen = seen.subset(seen.sample(CLUSTER_ROWS // 2, rng))
    offered = offered.subset(offered.sample(CLUSTER_ROWS - len(seen), rng))
    view = View(pool.features, np.concatenate([offered.rows, seen.rows]))
    open_rows = free(pool)[view.rows]
    count = min(query_size, int(open_rows.sum()))
    features = view.take(np.arange(len(view))).cpu().numpy()
    clusters = k_means(features, min(int((~open_rows).sum()) + count, MAX_CLUSTERS, len(features)), rng)
    return _typical(view, features, clusters, open_rows, count)


def k_means(features: NDArray[np.float32], clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cluster of each row; mini-batches where there are many."""
    if clusters <= 1 or len(features) <= clusters:
        return np.arange(len(features)) if clusters > 1 else np.zeros(len(features), dtype=np.int64)
    seed = int(rng.integers(2**31))
    if len(features) > 10_000:
        model = MiniBatchKMeans(clusters, n_init=1, batch_size=2048, random_state=seed)
    else:
        model = KMeans(clusters, n_init=1, max_iter=25, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters is fine here
        return np.asarray(model.fit_predict(features), dtype=np.int64)


def _typical(
    view: View, features: NDArray[np.float32], clusters: NDArray[np.int64], open_rows: NDArray[np.bool_], count: int
) -> Ranking:
    """Cluster by cluster, those with the fewest answers first, then the largest; the most typical row of each."""
    sizes = np.bincount(clusters)
    answers = np.bincount(clusters, weights=~open_rows, minlength=len(sizes)).astype(int)
    queues: dict[int, list[int]] = {}
    left = np.bincount(clusters, weights=open_rows, minlength=len(sizes)).astype(int)
    picked: list[int] = []
    reasons: list[str] = []
    while len(picked) < count:
        cluster = int(np.lexsort((-sizes, answers, left == 0))[0])
        if cluster not in queues:
            members = np.flatnonzero(clusters == cluster)
            scores = np.where(open_rows[members], _typicality(features[members]), -np.inf)
            queues[cluster] = members[top(scores, min(count, left[cluster]))].tolist()
        picked.append(queues[cluster].pop(0))
        reasons.append(
            f"typical of a group of {amount(int(sizes[cluster]), 'image')} with {amount(int(answers[cluster]), 'answer')}"
        )
        answers[cluster] += 1
        left[cluster] -= 1
    acquisition = np.arange(count, 0, -1) / max(count, 1)
    return Ranking(view.rows[np.array(picked, dtype=np.int64)], acquisition, tuple(reasons))


def _typicality(members: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / mean distance to the nearest 20 others, (m,)."""
    neighbours = min(NEIGHBOURS, len(members) - 1)
    if neighbours < 1:
        return np.ones(len(members))
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(members).kneighbors()
    return np.asarray(1 / (distances.mean(axis=1) + 1e-6))
