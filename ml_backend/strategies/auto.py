"""`auto`: coverage until there is a model, then coverage of what the model doubts."""

from __future__ import annotations

import numpy as np

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.hybrid import doubtful_cover, without_model

EARLY = 20
"""Labels a class up to which a pick's surroundings count as much as its own doubt; beyond, its own doubt counts double."""


def auto(pool: Pool, query_size: int, rng: np.random.Generator) -> Ranking:
    """The rule to use when nothing else is known; docs/strategies.md says what it was tuned and measured on.

    The head's temperature comes from held-out folds, so where the model knows nothing yet its doubts are all alike,
    and the rule is plain coverage; where it knows much, few rows have any weight, and the rule is near margin. Classes with few labels count more.
    """
    if pool.probabilities is None:
        return without_model(pool, query_size, rng)
    early = int(pool.labelled.sum()) < EARLY * pool.n_classes
    return doubtful_cover(pool, query_size, rng, weight_power=1.0, merit_power=1.0 if early else 2.0, balance=1.0)
