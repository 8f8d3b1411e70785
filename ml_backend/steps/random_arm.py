"""What labels chosen at random would have given: a head that learns from those alone, measured on the same held-out images.

Labels at random are there already: the held-out ones that measure, which a hash has drawn, and those of the first order, which
was drawn before anything was known. What a head makes of them shows what the strategy is worth, at the same number of labels,
without one label more.

It must not flatter the strategy. So the head is trained as the served one is (folds, penalty, the unlabelled, what it starts from),
each held-out image is answered by a head that has not seen its fold, and `labels` counts what such a head has learned from, while
the version beside it is told with all that it was trained on. The random arm of later queues (`ML_BACKEND_RANDOM_SHARE`)
is drawn from what the strategy has left: it counts as long as that is nearly all, see LEFT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.learning.cross_validation import is_long_work
from ml_backend.learning.metrics import measured
from ml_backend.learning.record import FOLDS
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.version import Version

GROWTH, LAST = 1.1, 50
"""Measured anew once there are this many times the labels drawn at random, or so many versions later: one training in many."""
FEWEST = 15
"""Held-out labels that measure; with fewer, an accuracy says nothing."""
LEFT = 0.9
"""Share of the tasks without a label down to which a draw from them is one from all."""


def drawn(project: Project, corpus: Corpus, learned: Examples, held_out: Examples, ledger: Ledger) -> NDArray[np.int64]:
    """Places in `learned` of the labels that chance has chosen."""
    share = 1 - corpus.rows.labelled.mean()
    asked = ledger.asked_at_random(project, later=bool(share >= LEFT))
    by_chance = np.isin(learned.tasks, held_out.tasks) | np.isin(corpus.rows.ids[learned.tasks], asked)
    aside = corpus.rows.holdout[learned.tasks] & ~np.isin(learned.tasks, held_out.tasks)  # somebody chose to answer it
    return np.flatnonzero(by_chance & ~aside)


def is_due(
    places: NDArray[np.int64], learned: Examples, held_out: Examples, classes: int, versions: Sequence[Version]
) -> bool:
    """Whether it is worth a training, which is a short one. versions: the last ones, newest first."""
    chosen = learned.targets[places]
    if is_long_work(len(places), classes, learned.features.shape[1]):
        return False  # people would wait for it, and with so many labels there is little left to learn from it
    if len(held_out.tasks) < FEWEST or len(places) == len(learned.tasks) or len(np.unique(chosen, axis=0)) < 2:
        return False
    known = next((v.meta.metrics.random for v in versions if v.meta.metrics.random), None)
    return known is None or len(places) >= GROWTH * int(known.get("of", 0))


def told(
    probabilities: NDArray[np.float32], held_out: Examples, fold: NDArray[np.int64], of: int, classes: Sequence[str]
) -> Mapping[str, Any]:
    """What is kept with the version. probabilities: (n, C) of the held-out images. fold: (n,) theirs. of: labels in all.

    labels: what the head that answers for a held-out image has learned from, in the mean.
    """
    sizes = np.bincount(fold, minlength=FOLDS)
    found = measured(probabilities, held_out.targets, classes)
    missing = float((sizes.astype(np.float64) ** 2).sum()) / max(len(fold), 1)
    kept = {name: found[name] for name in ("n", "accuracy", "low", "high")}
    return {"labels": round(of - missing), "of": of, "held_out": len(fold), **kept}
