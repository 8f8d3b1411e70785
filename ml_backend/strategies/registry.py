"""Every strategy there is. A new one is a function `(pool, query_size, rng) -> Ranking` and a line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_backend.records import Pool, Ranking
from ml_backend.strategies.auto import auto
from ml_backend.strategies.badge import badge
from ml_backend.strategies.diversity import diversity, herding, typiclust
from ml_backend.strategies.hybrid import cluster_margin, uherding, without_model
from ml_backend.strategies.rare import rare
from ml_backend.strategies.reasons import confidence_reasons, entropy_reasons, margin_reasons
from ml_backend.strategies.uncertainty import (
    ByScore,
    entropy_uncertainty,
    least_confidence_uncertainty,
    margin_uncertainty,
    random,
)

Strategy = Callable[[Pool, int, np.random.Generator], Ranking]

STRATEGIES: dict[str, Strategy] = {
    "random": random,
    "least_confidence": ByScore(least_confidence_uncertainty, confidence_reasons, without_model),
    "margin": ByScore(margin_uncertainty, margin_reasons, without_model),
    "entropy": ByScore(entropy_uncertainty, entropy_reasons, without_model),
    "diversity": diversity,
    "typiclust": typiclust,
    "herding": herding,
    "uherding": uherding,
    "badge": badge,
    "cluster_margin": cluster_margin,
    "rare": rare,
    "auto": auto,
}
