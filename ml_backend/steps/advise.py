"""After the push: whether the labels so far will do. Advice only; it is kept with the project and shown in the status."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.learning.evaluation import decide
from ml_backend.learning.head import Head
from ml_backend.predictor import LoadedModel, Predictor
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.encode_images import places
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_state import Advice, Guessed
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.store.version import Version
from ml_backend.store.version_meta import FROM_NAMES
from ml_backend.strategies.advice import GROWTH, cohen_kappa, doubt_of, stopping_advice

logger = logging.getLogger(__name__)

FIXED_SET = 1_000
ASKED = 50_000
"""Images without a label that a new version is asked about: a share of them is off by half a point at most."""


@dataclass(frozen=True)
class Advisor:
    """Keeps advice with a project, a version at a time."""

    ledger: Ledger
    versions: Versions
    predictor: Predictor
    features: FeatureStore

    def advise(self, project: Project, corpus: Corpus | None, model: LoadedModel | None) -> None:
        """Compare the new version with a former one, and look at what is known of it.

        Advice fails no turn: what goes wrong is logged, and the next version is a new occasion.
        """
        known = project.state.advice
        if known and not known.latest:  # of an earlier release, which compared models a few labels apart
            known = None
        if corpus is None or model is None:
            return
        if project.state.guessed is None or project.state.guessed.version != model.number:
            self._guess(project, corpus, model)
        if known and model.number == known.latest:
            return
        try:
            self._advise(project, corpus, model, known)
        except Exception:
            logger.exception("%s: no advice on v%d", project.key, model.number)

    def _guess(self, project: Project, corpus: Corpus, model: LoadedModel) -> None:
        """Note what the model takes the images without a label for; of those that no guess may be shown for nothing, not even in a sum."""
        try:
            blind = corpus.rows.holdout | np.isin(corpus.rows.ids, list(self.ledger.drawn_blind(project)))
            waiting = np.flatnonzero(corpus.encoded & corpus.rows.waiting & ~blind)
            drawn = waiting
            if len(waiting) > ASKED:
                drawn = np.sort(np.random.default_rng(model.number).choice(waiting, ASKED, replace=False))
            said = decide(model.head.predict_proba(corpus.vectors(drawn)), multilabel=model.head.multilabel).sum(axis=0)
            counts = dict(zip(model.head.classes, said.tolist(), strict=True))
            guessed = Guessed(version=model.number, waiting=len(waiting), asked=len(drawn), counts=counts)
            self.ledger.configure(project, guessed=guessed)
        except Exception:
            logger.exception("%s: what v%d makes of the rest is not known", project.key, model.number)

    def _advise(self, project: Project, corpus: Corpus, model: LoadedModel, known: Advice | None) -> None:
        """Compared is the version of the last comparison, once there are `GROWTH` times its labels."""
        version = self.versions.version(project, model.number)
        labels = version.meta.labels or 0
        former = self._former(project, known) if known else None
        before = (former.meta.labels or 0) if former else labels + 1
        if known is None or former is None or labels < before:  # the first one, other labels, or rolled back
            kappas, compared = [], model.number
        elif labels < GROWTH * before:
            kappas, compared = list(known.kappa), known.version
        else:
            agreement = self._agreement(project, corpus, former, model.head)
            kappas, compared = ([] if agreement is None else [*known.kappa, agreement]), model.number
        stopping = stopping_advice(kappas, self._doubt(corpus, model.head, version))
        advice = Advice(
            version=compared,
            latest=model.number,
            kappa=kappas[-10:],
            stop=stopping.advised,
            stopping=stopping.reason,
        )
        self.ledger.configure(project, advice=advice)

    def _former(self, project: Project, known: Advice) -> Version | None:
        """The version of the last comparison; None where it is gone, was trained for other labels, or has learned from none."""
        try:
            former = self.versions.version(project, known.version)
        except NotFoundError:
            return None
        return former if former.fits(project.schema) and former.meta.mode != FROM_NAMES else None

    def _doubt(self, corpus: Corpus, head: Head, version: Version) -> str | None:
        """Why it is not known how good the version is: what was measured when it was trained, and what it makes of the pool."""
        rows, classes = corpus.rows, corpus.classes
        holdout = version.meta.metrics.holdout or {}
        supports = {known["name"]: known["support"] for known in holdout.get("classes", ())}
        labelled = rows.pairs[:, 1] if corpus.multiple else rows.labels[rows.labelled]
        said = decide(head.predict_proba(corpus.vectors(_fixed_set(corpus))), multilabel=head.multilabel)
        return doubt_of(
            classes,
            np.bincount(labelled, minlength=len(classes)),
            said.sum(axis=0),
            np.array([supports.get(name, 0) for name in classes]),
            holdout.get("balanced_accuracy"),
        )

    def _agreement(self, project: Project, corpus: Corpus, former: Version, head: Head) -> float | None:
        """Kappa of a former version and this one on the fixed set. Each is asked in vectors of its own encoder.

        None where the former's files are gone or it has no vectors.
        """
        try:
            first = self.predictor.head(project, former.number)
        except (NotFoundError, InvalidInputError, OtherLabelsError):
            return None
        fixed = _fixed_set(corpus)
        encoder_id = former.meta.encoder.id
        at = places(self.features, encoder_id, corpus.rows.hashes[fixed])
        if not (at >= 0).any():
            return None
        own = self.features.matrix(encoder_id)[at[at >= 0]]
        return cohen_kappa(_predicted_classes(first, own), _predicted_classes(head, corpus.vectors(fixed[at >= 0])))


def _fixed_set(corpus: Corpus) -> NDArray[np.int64]:
    """Positions of the tasks whose content hashes come first: a random draw that stays."""
    encoded = np.flatnonzero(corpus.encoded)
    return np.sort(encoded[np.argsort(corpus.rows.hashes[encoded], kind="stable")[:FIXED_SET]])


def _predicted_classes(head: Head, vectors: NDArray[np.float16]) -> NDArray[np.int64]:
    """The class of each row; with several labels, yes or no for each class of each row."""
    probabilities = head.predict_proba(vectors)
    decided = probabilities >= 0.5 if head.multilabel else probabilities.argmax(axis=1)
    return np.asarray(decided, dtype=np.int64).reshape(-1)
