"""What a pool is believed to be, from a few labels and the graph of its rows: soft targets to fit a head to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.learning.logistic import FEW_CLASSES, Design, Problems, solve
from ml_backend.learning.neighbours import Graph

FIT_ROWS = 10_000
"""Rows of the pool that the head is fitted to, drawn at random; those with a label are always among them."""
ENTRIES, MOST = 6_000_000, 24_000_000
"""Targets at once: as many rows without a label as make the first; none is fitted where those with one make more than the second."""
PENALTY = 1e-4
TOLERANCE, TOLERANCE_OF_MANY = 1e-3, 1e-2
"""How exactly the heads are fitted; the second with more classes than FEW_CLASSES, where what they are fitted to is rougher still."""


@dataclass(frozen=True)
class Unlabelled:
    """The pool that some labelled rows are part of.

    graph: of N rows. features: (M, d) unit rows, any float type, may be memory-mapped. places: (N,) row of each in `features`,
    -1 where it is gone. at: (n,) where the labelled rows are in the graph, in their order.
    """

    graph: Graph
    features: NDArray[np.floating[Any]]
    places: NDArray[np.int64]
    at: NDArray[np.int64]


@dataclass(frozen=True)
class CheckedHead:
    """A linear head fitted to all labels, and what heads fitted without a fold, nor what comes of it, say of that fold.

    logits: (C, n) of the labelled rows, each by the head of its fold. weight: (B, C, d). bias: (B, C). The first is that of
    all labels. Where K folds are kept apart, the others are those of all but each, and the last that of all but these K.
    """

    logits: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class _Fit:
    """Heads to be fitted to what the rows (r,) of a pool are believed to be. labelled: (n,) where in `rows` seeds (n, s, k) are."""

    pool: Unlabelled
    rows: NDArray[np.int64]
    labelled: torch.Tensor
    seeds: torch.Tensor
    design: Design
    multilabel: bool

    def solved(self, wanted: tuple[torch.Tensor, torch.Tensor], start: torch.Tensor | None = None) -> torch.Tensor:
        """Solutions (B, C, p) of what `believed` gave. start: (1, C, p) where each begins: it must know no seed that one is not to."""
        targets, weights = wanted
        penalties = torch.full((len(targets),), PENALTY)
        tolerance = TOLERANCE if targets.shape[1] <= FEW_CLASSES else TOLERANCE_OF_MANY
        problems = Problems(self.design, targets, weights, penalties, self.multilabel)
        return solve(problems, tolerance=tolerance, start=None if start is None else start.expand(len(targets), -1, -1))

    def believed(self, fold: NDArray[np.int64], *, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets (B, C, r) and row weights (B, C or 1, r), each without the seeds of a fold (n,), -1 for none.

        whole: a last one with all; else a last one without those of any fold, and then what the rows of a fold are believed to
        be is not to be fitted either: an image from outside the pool is answered a little worse than one that the head was
        fitted to, if without its label. All else is gone before the heads are fitted, which takes most memory.
        """
        spread, seeds = self.pool.graph.spread, self.seeds.flatten(1).numpy()
        reached = spread(self.pool.at, seeds, fold, self.rows, whole=whole, blind=not whole)
        soft, sure = soften(torch.from_numpy(reached).view(*reached.shape[:2], *self.seeds.shape[1:]))
        here = torch.from_numpy(fold)[:, None]
        known = here != torch.arange(soft.shape[1])  # (n, B) the label is known there
        if not whole:
            known[:, -1] = here[:, 0] < 0
        soft[self.labelled] = torch.where(known[:, :, None, None], self.seeds[:, None], soft[self.labelled])
        sure[self.labelled] = torch.where(known[:, :, None], 1.0, sure[self.labelled] if whole else 0.0)
        wanted = soft[..., 1] if self.multilabel else soft[:, :, 0]
        weights = sure / sure.sum(0).clamp_min(1e-12)
        return wanted.permute(1, 2, 0).contiguous(), weights.permute(1, 2, 0).contiguous()


def fit_spread_head(
    pool: Unlabelled,
    targets: torch.Tensor,
    fold: NDArray[np.int64],
    apart: NDArray[np.int64],
    *,
    multilabel: bool,
    seed: int,
) -> CheckedHead:
    """Spread the labels over the graph, a fold left out at a time, and fit linear heads to what rows are believed to be.

    targets: (C, n) of the labelled rows. fold: (n,). apart: (n,) the folds 0 to K - 1 to be kept apart, -1 for rows of none.
    A row counts by how sure it is believed to be something; with several labels an image, for each class by itself.
    """
    rows, labelled = _rows_to_fit(pool, len(targets) * (int(fold.max()) + 2), seed)
    seeds = torch.stack([1 - targets.T, targets.T], 2) if multilabel else targets.T[:, None, :]
    design = Design.of(torch.from_numpy(np.array(pool.features[pool.places[rows]], np.float32)))
    fit = _Fit(pool, rows, labelled, seeds, design, multilabel)
    solution = fit.solved(fit.believed(fold, whole=True))
    logits = torch.empty_like(targets)
    for number in range(int(fold.max()) + 1):
        mine = torch.from_numpy(fold == number)
        logits[:, mine] = solution[number] @ design.rows[labelled[mine]].T
    heads = solution[-1:]
    if (apart >= 0).any():
        targets_of, weights_of = fit.believed(apart, whole=False)
        blind = fit.solved((targets_of[-1:], weights_of[-1:]))
        start = blind if len(targets) > FEW_CLASSES else None
        heads = torch.cat([heads, fit.solved((targets_of[:-1], weights_of[:-1]), start), blind])
    return CheckedHead(logits, *design.unrotate(heads))


def too_many(labels: int, classes: int, folds: int) -> bool:
    """Whether the labels alone are more than can be spread: there are enough of them then to learn from."""
    return labels * classes * (folds + 1) > MOST


def _rows_to_fit(pool: Unlabelled, columns: int, seed: int) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Rows of the pool, ascending, and where among them the labelled ones are."""
    room = min(FIT_ROWS, ENTRIES // columns)
    free = pool.places >= 0
    free[pool.at] = False
    others = np.flatnonzero(free)
    if len(others) > room:
        others = np.random.default_rng(seed).choice(others, room, replace=False)
    rows = np.unique(np.concatenate([pool.at, others]))
    return rows, torch.from_numpy(np.searchsorted(rows, pool.at))


def reached(
    graph: Graph, at: NDArray[np.int64], labels: NDArray[np.int64], classes: int, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(r, classes) what spreads to `rows` (r,) of a graph from its rows `at` (n,), of one label (n,) each."""
    seeds = np.eye(classes, dtype=np.float32)[labels]
    return graph.spread(at, seeds, np.full(len(at), -1), rows)[:, -1]


def soften(reached: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., k) of what reached a row -> its shares, squared and normalised, and (...) 1 - entropy / log k of the shares."""
    total = reached.sum(-1, keepdim=True)
    shares = reached / total.clamp_min(1e-30)
    entropy = -torch.xlogy(shares, shares).sum(-1) / np.log(max(reached.shape[-1], 2))
    squared = shares.square()
    return squared / squared.sum(-1, keepdim=True).clamp_min(1e-30), (1 - entropy).clamp(0, 1) * (total[..., 0] > 0)
