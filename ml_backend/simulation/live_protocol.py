"""One run as the service would ask: held-out images first, queues a training late, skips, and every answer counted.

Share and order of what is held out, the alternation with the strategy's picks, the random arm and the spare tasks are the
service's own functions. Its project is in memory here, its images are encoded before anybody labels, and every new version
is served: the gate, Label Studio and what several annotators disagree on are left out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ml_backend import split
from ml_backend.predictor import LoadedModel
from ml_backend.settings import Settings as ServiceSettings
from ml_backend.simulation.data import Data, with_skips
from ml_backend.simulation.memory import peak_megabytes
from ml_backend.simulation.replay import Answers, Live, Probabilities, Round, Settings, Trainer, judged, parts
from ml_backend.steps.choose import build_pool, queue_of, spare_of
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.hold_out import in_turn
from ml_backend.store.rows import PoolRows


@dataclass
class Turn:
    """What one training came to. queue: ids in the order they are served. seconds, megabytes: of the choice alone."""

    head: Probabilities | None
    queue: list[int]
    seconds: float
    megabytes: float
    train_seconds: float


def live_replay(data: Data, strategy: str, seed: int, settings: Settings, train: Trainer) -> Iterator[Round]:
    """A round whenever a new model is served, until the budget of answers is spent or nothing is left to ask.

    Without a model, before two classes are known, nothing is guessed and nothing right.
    """
    live = settings.live or Live()
    project = LiveProject(with_skips(data, live.skips, seed), seed, settings, live)
    first, rest = parts(strategy)
    served = project.turn(first, None)
    answered = project.answer(served.queue, min(live.train_after, settings.budget))
    while answered < settings.budget:
        coming = project.turn(rest, train)
        given = project.answer(served.queue, min(live.late, settings.budget - answered))
        answered, served = answered + given, coming
        accuracy, balanced = judged(served.head, data) if served.head else (0.0, 0.0)
        yield Round(
            data.name, strategy, seed, answered, accuracy, balanced, served.seconds, served.megabytes, served.train_seconds
        )  # fmt: skip
        more = project.answer(served.queue, min(live.train_after - live.late, settings.budget - answered))
        if not given + more and not project.rows.waiting.any():
            return
        answered += more


class LiveProject:
    """Labelled data as a project of the service, with an oracle for annotators."""

    def __init__(self, data: Data, seed: int, settings: Settings, live: Live) -> None:
        self.data, self.seed, self.turns = data, seed, 0
        self.service = ServiceSettings(
            batch_size=settings.batch,
            pool_size=settings.pool_size,
            power=settings.power,
            random_share=live.random_share,
            holdout_share=live.holdout_share,
            holdout_first=live.holdout_first,
            seed=seed,
        )
        self.rows = _unlabelled(data, seed, self.service)
        features, at = cast("NDArray[np.float16]", data.features), np.arange(len(data.features))
        encoder = cast("Any", SimpleNamespace(id=data.name))
        self.corpus = Corpus(self.rows, at, features, encoder, data.classes, multiple=False)

    def turn(self, strategy: str, train: Trainer | None) -> Turn:
        """Hold out, train on what is labelled, and choose; without a trainer, choose alone."""
        self.turns += 1
        began = time.perf_counter()
        answers = self._trained(train) if train else None
        trained = time.perf_counter()
        with peak_megabytes() as peak:
            queue = self._queue(strategy, answers)
        return Turn(
            answers.head if answers else None, queue, time.perf_counter() - trained, peak.megabytes, trained - began
        )

    def answer(self, queue: list[int], count: int) -> int:
        """Answer the next `count` of a queue that have no answer yet, as Label Studio serves them; returns how many there were."""
        rows = self.rows
        asked = np.array(queue, dtype=np.int64) - 1
        these = asked[rows.waiting[asked]][:count] if len(asked) else asked
        known = self.data.labels[these]
        rows.answered[these], rows.skipped[these] = known >= 0, known < 0
        rows.labelled[these], rows.labels[these] = known >= 0, known
        return len(these)

    def _trained(self, train: Trainer) -> Answers | None:
        """Learns from every label, those held out included."""
        examples = self.corpus.all_examples
        if len(np.unique(examples.targets)) < 2:
            return None
        apart = self.corpus.folds(examples)
        return train(self.data.features, examples.tasks, examples.targets, len(self.data.classes), self.seed, apart)

    def _queue(self, strategy: str, answers: Answers | None) -> list[int]:
        """Ids of the batch, then of the spare tasks."""
        service = self.service.model_copy(update={"strategy": strategy})
        asked = in_turn(self.rows, service)
        self.rows.reached[asked[self.rows.reached[asked] == 0]] = self.turns
        rng = np.random.default_rng([self.seed, self.turns])
        model = (
            LoadedModel(self.turns, self.corpus.encoder, _as_head(answers.head), _as_head(answers.blind))
            if answers
            else None
        )
        batch = [query.task_id for query in queue_of(self.rows, build_pool(self.corpus, model), rng, service)]
        return batch + spare_of(self.rows, batch, rng, service)


def _as_head(probabilities: Probabilities | None) -> Any:
    return SimpleNamespace(predict_proba=probabilities) if probabilities else None


def _unlabelled(data: Data, seed: int, service: ServiceSettings) -> PoolRows:
    """The rows of a new project, its tasks numbered from one; rows with equal features are one image."""
    n = len(data.labels)
    contents = [hashlib.sha256(row.tobytes()).hexdigest() for row in data.features]
    places = np.array([split.place(content, seed) for content in contents])
    share = split.reserved_share(service.holdout_share, service.holdout_first, n)
    never = {
        name: np.zeros(n, dtype=np.bool_)
        for name in ("labelled", "answered", "accepted", "skipped", "failed", "resting", "found", "aside")
    }
    return PoolRows(
        ids=np.arange(1, n + 1),
        hashes=np.array(contents, dtype="S64"),
        labels=np.full(n, -1, dtype=np.int64),
        pairs=np.empty((0, 2), dtype=np.int64),
        holdout=places < share,
        places=places,
        reached=np.zeros(n, dtype=np.int64),
        **never,
    )
