"""After the push: what the labels so far advise. Advice only; it is kept with the project and shown in the status."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.learning.head import Head
from ml_backend.learning.record import Record
from ml_backend.learning.training import train_head
from ml_backend.predictor import LoadedModel, Predictor
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.encode_images import places
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_state import Advice
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.strategies.advice import Saved, cohen_kappa, interval_text, labels_saved, stopping_advice

logger = logging.getLogger(__name__)

FIXED_SET = 1_000
ENOUGH = 30
"""Held-out labels needed before anything is said of labels saved."""
SHARES = (0.25, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Advisor:
    """Keeps advice with a project, a version at a time."""

    ledger: Ledger
    versions: Versions
    predictor: Predictor
    features: FeatureStore
    settings: Settings

    def advise(self, project: Project, corpus: Corpus | None, model: LoadedModel | None) -> None:
        """Compare the new version with the one before it, and with what random choice would have reached.

        Advice fails no turn: what goes wrong is logged, and the next version is a new occasion.
        """
        known = project.state.advice
        if corpus is None or model is None or (known and known.version == model.number):
            return
        try:
            self._advise(project, corpus, model, known)
        except Exception:
            logger.exception("%s: no advice on v%d", project.key, model.number)

    def _advise(self, project: Project, corpus: Corpus, model: LoadedModel, known: Advice | None) -> None:
        agreement = self._agreement(project, corpus, known.version, model.head) if known else None
        kappas = [] if known is None or agreement is None else [*known.kappa, agreement]
        stopping = stopping_advice(kappas)
        saved = self._saved(project, corpus, model)
        advice = Advice(
            version=model.number,
            kappa=kappas[-10:],
            stop=stopping.advised,
            stopping=stopping.reason,
            saved=interval_text(saved) if saved else f"not known until {ENOUGH} held-out tasks are labelled",
        )
        self.ledger.configure(project, advice=advice)

    def _agreement(self, project: Project, corpus: Corpus, before: int, head: Head) -> float | None:
        """Kappa of a former version and this one on a fixed set: the tasks whose content hashes come first.

        That is a random draw that stays. Each is asked in vectors of its own encoder. None where the former is gone, was
        trained for other labels, or has no vectors.
        """
        former = next((v for v in self.versions.list(project) if v.number == before), None)
        if former is None or not former.fits(project.schema):
            return None
        try:
            first = self.predictor.head(project, former.number)
        except (NotFoundError, InvalidInputError, OtherLabelsError):
            return None
        encoded = np.flatnonzero(corpus.encoded)
        fixed = np.sort(encoded[np.argsort(corpus.rows.hashes[encoded], kind="stable")[:FIXED_SET]])
        encoder_id = former.meta.encoder.id
        at = places(self.features, encoder_id, corpus.rows.hashes[fixed])
        if not (at >= 0).any():
            return None
        own = self.features.matrix(encoder_id)[at[at >= 0]]
        return cohen_kappa(_predicted_classes(first, own), _predicted_classes(head, corpus.vectors(fixed[at >= 0])))

    def _saved(self, project: Project, corpus: Corpus, model: LoadedModel) -> Saved | None:
        """Labels saved, by models trained on randomly drawn labels alone: the held-out slice and the random arm.

        No model is asked about a row it was trained on: each half of the slice is answered by models that saw the other.
        """
        record = Record.load(self.versions.version(project, model.number).folder)
        heads = self.predictor.fold_heads(project, model.number)
        held_out = corpus.unseen(record, corpus.examples(held_out=True), heads)
        if len(held_out.targets) < ENOUGH:
            return None
        rng = np.random.default_rng([self.settings.seed, project.id, model.number])
        order = rng.permutation(len(held_out.targets))
        halves = [order[: len(order) // 2], order[len(order) // 2 :]]
        extra = corpus.examples_of(self.ledger.asked_at_random(project))
        sizes = [int(share * (len(halves[0]) + len(extra.targets))) for share in SHARES]
        right = np.zeros((len(sizes), len(order)), dtype=np.bool_)
        for asked, learned in ((0, 1), (1, 0)):
            random_labels = held_out.at(halves[learned]).joined(extra)
            shuffled = random_labels.at(rng.permutation(len(random_labels.targets)))
            for row, size in enumerate(sizes):
                part = shuffled.at(np.arange(min(size, len(shuffled.targets))))
                if len(np.unique(part.targets, axis=0)) > 1:
                    head = train_head(part.features, part.targets, corpus.classes, seed=self.settings.seed).head
                    right[row, halves[asked]] = held_out.at(halves[asked]).correct(head)
        answers = held_out.right(heads.predict_proba(held_out.features, corpus.images(held_out)))
        return labels_saved(len(corpus.all_examples.tasks), answers, sizes, right, rng)


def _predicted_classes(head: Head, vectors: NDArray[np.float16]) -> NDArray[np.int64]:
    """The class of each row; with several labels, yes or no for each class of each row."""
    probabilities = head.predict_proba(vectors)
    decided = probabilities >= 0.5 if head.multilabel else probabilities.argmax(axis=1)
    return np.asarray(decided, dtype=np.int64).reshape(-1)
