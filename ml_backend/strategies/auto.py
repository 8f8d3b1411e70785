"""`auto`: coverage until there is a model, then coverage of what the model doubts; novelty while one class alone was seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.candidates import View, candidates, covered, labels_per_class, top
from ml_backend.strategies.coverage import BANDWIDTH, Cover, Kernel
from ml_backend.strategies.diversity import COVERAGE_ROWS, farthest_first, herding, nearer
from ml_backend.strategies.duplicates import typical_distance
from ml_backend.strategies.hybrid import with_margins, without_model
from ml_backend.strategies.reasons import class_name, model_probabilities
from ml_backend.strategies.uncertainty import margin_uncertainty

REACH = 0.7
"""How far an answer speaks for others at most, as a share of the median distance of a row to the nearest answered one."""
SAME = 5
"""Labels, all of one class, from which on other classes are taken to be rare."""
NOVEL_ROWS = 50_000
"""Candidates among which the farthest ones are looked for; drawn at random from a larger pool."""
NARROWEST = 0.02
"""The least kernel width, as a share of the typical distance: most rows may be copies of answered ones."""


def auto(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """The rule to use when nothing else is known; docs/strategies.md says what it was tuned and measured on.

    UHerding (Bae et al. 2024), in which a pick's own doubt counts as well, with a kernel that narrows as the answers
    come closer to everything: few are spread out, many go where the model cannot decide, as with margin. Doubt amid
    answers counts little: they have not settled it.
    """
    view = candidates(pool)
    drawn = view.subset(view.sample(COVERAGE_ROWS, rng))
    only = only_class(pool, drawn)
    if only is not None:
        return novelty(pool, query_size, rng, only)
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    offered = view.subset(np.sort(top(margin_uncertainty(pool, view.rows), COVERAGE_ROWS)))
    return with_margins(pool, _doubtful_cover(pool, drawn, offered, query_size))


def _doubtful_cover(pool: Pool, drawn: View, offered: View, query_size: int) -> Ranking:
    """The greedy cover of the doubt in `drawn` by rows of `offered`, each gain times the root of the pick's own doubt.

    Acquisition: that gain as a share of all the doubt.
    """
    if not len(offered):
        return Ranking(offered.rows, np.empty(0), ())
    kernel = Kernel(drawn.all(), bandwidth(pool, drawn))
    doubt, merit = (np.maximum(margin_uncertainty(pool, view.rows), 0) for view in (drawn, offered))  # rounding
    weights = torch.from_numpy(doubt.astype(np.float32)).to(drawn.device)
    picked, gains = Cover(kernel, offered.all(), weights, kernel.cover(covered(pool)), np.sqrt(merit)).grow(query_size)
    shares = gains / max(float(doubt.sum()), 1e-12)
    return Ranking(
        offered.rows[picked], shares, tuple(f"represents {share:.2%} of what is in doubt" for share in shares)
    )


def bandwidth(pool: Pool, view: View) -> float:
    """Kernel width as a share of the typical distance: herding's, or what `REACH` gives where that is less."""
    answered, typical = covered(pool), typical_distance(view)
    if not len(answered) or not typical:
        return BANDWIDTH
    squared = np.full(len(view), np.inf, dtype=np.float32)
    for _, block in answered.chunks(extra_columns=len(view)):
        nearer(view, squared, block)
    return min(BANDWIDTH, max(REACH * float(np.sqrt(np.median(squared))) / typical, NARROWEST))


def only_class(pool: Pool, view: View) -> int | None:
    """The one class that has labels, `SAME` at least, where no model believes in another for any row of `view`; else None."""
    labels = labels_per_class(pool)
    seen = np.flatnonzero(labels)
    if pool.n_classes < 2 or len(seen) != 1 or labels.max() < SAME or not len(view):
        return None
    if pool.probabilities is None:
        return int(seen[0])
    p = model_probabilities(pool)[view.rows]
    believed = np.flatnonzero((p >= 0.5).any(axis=0)) if pool.multilabel else np.unique(p.argmax(axis=1))
    return int(seen[0]) if np.isin(believed, seen).all() else None


def novelty(pool: Pool, query_size: int, rng: np.random.Generator, only: int) -> Ranking:
    """Where another class is likeliest: in turn the row farthest from all answered ones, and one that represents many.

    The first finds what looks different, the second what is common; neither alone is misled by the other's outliers.
    """
    view = candidates(pool)
    view = view.subset(view.sample(NOVEL_ROWS, rng))
    far = view.rows[farthest_first(view, covered(pool), (query_size + 1) // 2)[0]]
    answered = pool.labelled.copy()
    answered[far] = True
    common = herding(replace(pool, labelled=answered), query_size - len(far), rng)
    turn = np.argsort(np.concatenate([2 * np.arange(len(far)), 2 * np.arange(len(common.rows)) + 1]))
    why = [*["far from all answered images"] * len(far), *common.reasons]
    acquisition = np.arange(len(turn), 0, -1) / max(len(turn), 1)
    reasons = tuple(f"only {class_name(pool, only)} was seen so far: {why[place]}" for place in turn)
    return Ranking(np.concatenate([far, common.rows])[turn], acquisition, reasons)
