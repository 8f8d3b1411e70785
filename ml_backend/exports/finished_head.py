"""A head for export that has learned from the labels accepted of the model as well: the loop itself learns from people alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoders.encoder import Encoder
from ml_backend.errors import InvalidInputError
from ml_backend.learning.head import Head
from ml_backend.learning.record import Record
from ml_backend.learning.training import train_head
from ml_backend.predictor import Predictor
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.steps.encode_images import corpus_of, places
from ml_backend.steps.name_guesses import NameGuesses
from ml_backend.steps.promotion import record_of
from ml_backend.steps.train import prior_of
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore

MOST = 20_000
"""Accepted labels that it learns from: beyond that a linear head gains nothing, and fitting it takes minutes."""


@dataclass(frozen=True)
class FinishedHead:
    """people, accepted: how many labels of each it learned from. record: of which images; nothing of them measures it."""

    head: Head
    record: Record
    people: int
    accepted: int


@dataclass(frozen=True)
class Finisher:
    """Trains such heads, of any project."""

    ledger: Ledger
    features: FeatureStore
    versions: Versions
    predictor: Predictor
    names: NameGuesses
    seed: int

    def head(self, project: Project, encoder: Encoder) -> FinishedHead:
        """A head on this encoder's vectors, from all labels that people gave and up to MOST accepted ones, drawn at random.

        Accepted labels of held-out images are left out, as they are everywhere: what measures may have no model's label. Raises
        InvalidInputError where there are none to learn from, or where several labels an image are asked for.
        """
        if project.schema.multiple:
            raise InvalidInputError(
                f"{project.title!r} asks for several labels an image by now, and accepted labels name one: export without --include "
                "accepted."
            )
        rows = self.ledger.pool(project)
        at = places(self.features, encoder.id, rows.hashes)
        corpus = corpus_of(project, rows, at, encoder, self.features, self.versions)
        labels = None if corpus is None else self._accepted(project, corpus)
        if corpus is None or labels is None or not (labels >= 0).any():
            raise InvalidInputError(
                f"{project.title!r} has no accepted label to learn from: accept some (`ml-backend accept plan` says what that takes), or "
                "export without --include accepted."
            )
        people, tasks = corpus.all_examples, np.flatnonzero(labels >= 0)
        if len(tasks) > MOST:
            tasks = np.sort(np.random.default_rng(self.seed).choice(tasks, MOST, replace=False))
        learned = Examples(
            np.concatenate([people.features, corpus.vectors(tasks)]),
            np.concatenate([people.targets, labels[tasks]]),
            np.concatenate([people.tasks, tasks]),
        )
        trained = train_head(
            learned.features,
            learned.targets,
            corpus.classes,
            seed=self.seed,
            prior=prior_of(project, corpus, self.versions, self.predictor),
            guess=self.names.head(project, corpus),
        )
        record = record_of(corpus, learned, np.zeros(0, np.bool_)).after(corpus.imported)
        return FinishedHead(trained.head, record, len(people.tasks), len(tasks))

    def _accepted(self, project: Project, corpus: Corpus) -> NDArray[np.int64]:
        """(N,) class of each task's accepted label, where no person has answered it and it is not held out; -1 elsewhere."""
        number: dict[tuple[str, ...], int] = {(name,): place for place, name in enumerate(corpus.classes)}
        given = {label.task_id: number.get(label.labels, -1) for label in self.ledger.accepted(project)}
        found = np.array([given.get(task, -1) for task in corpus.rows.ids.tolist()], np.int64)
        fit = corpus.rows.accepted & corpus.encoded & ~corpus.rows.holdout
        return np.where(fit, found, -1)
