"""The head of the live loop, as a trainer for replays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.learning.neighbours import Graph, graph_of
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import TrainedHead, train_head
from ml_backend.simulation.replay import Answers, Apart


class LiveHead:
    """Cold, its penalty and temperature chosen on folds, and with what the unlabelled teach: the training of the live loop.

    The graph of the pool seen last is kept, for the runs that share it. last, pool: what the last training came to, and had.
    """

    last: TrainedHead
    pool: Unlabelled

    def __init__(self) -> None:
        self._pool: NDArray[np.floating[Any]] | None = None
        self._graph: Graph | None = None

    def __call__(
        self,
        features: NDArray[np.floating[Any]],
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        classes: int,
        seed: int,
        apart: Apart,
    ) -> Answers:
        """Train on the labels (n,) of `rows` (n,) of the pool's features (N, d)."""
        everywhere = np.arange(len(features))
        if self._graph is None or self._pool is not features:
            self._pool, self._graph = features, graph_of(features, everywhere)
        self.pool = Unlabelled(self._graph, features, everywhere, rows)
        names = [str(c) for c in range(classes)]
        self.last = train_head(features[rows], labels, names, seed=seed, pool=self.pool, apart=apart)
        return Answers(self.last.head.predict_proba, self.last.blind.predict_proba if self.last.blind else None)
