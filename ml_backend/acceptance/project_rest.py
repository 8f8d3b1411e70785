"""The tasks of a project that nobody has labelled, and what its model would label them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.acceptance.planning import Forecast, forecast
from ml_backend.acceptance.proposal import Proposal, worse_than_believed
from ml_backend.errors import InvalidInputError, NotFoundError
from ml_backend.learning.record import Record, image_keys
from ml_backend.learning.spreading import reached
from ml_backend.predictor import LoadedModel, Predictor
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.encode_images import corpus_of, places
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.graphs import GraphStore
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.store.version_meta import FROM_NAMES

ENOUGH = 20
"""Held-out answers that a plan is made from, at least."""
FIRST = 0.8
"""Share of the risk that is left which an attempt takes: 4 in 100 for the first at 95 %, 8 in 1,000 for the second."""
LEAST = 0.001
"""Risk that is left, below which there is no further attempt."""


@dataclass(frozen=True)
class Plan:
    """What the rest of a project would take.

    version: number of the model. tasks: without a label. unread: those of them whose image was not read yet, which are left
    out of all that follows. measured, wrong: held-out answers, and those it gets wrong.
    """

    version: int
    tasks: int
    unread: int
    measured: int
    wrong: int
    confidence: float
    forecasts: tuple[Forecast, ...]


@dataclass(frozen=True)
class Offer:
    """A plan and what it is of. hashes: (n,) of the images of `proposal`. classes: of its labels. risk: that it would take."""

    plan: Plan
    proposal: Proposal
    hashes: NDArray[np.bytes_]
    classes: tuple[str, ...]
    risk: float


def risk_taken(confidence: float, spent: float) -> float:
    """The risk that the next attempt takes. Raises InvalidInputError where those before have left next to nothing."""
    left = 1 - confidence - spent
    if left >= LEAST:
        return round(FIRST * left, 12)
    lower = int(100 * (1 - spent - 10 * LEAST))
    instead = f"ask for less (--confidence {lower}%), or label the rest" if lower > 0 else "label the rest"
    raise InvalidInputError(
        f"Former audits of this project have taken {100 * spent:.3g} in 100 of the risk, and {100 * confidence:.10g}% confidence "
        f"leaves {100 * (1 - confidence):.3g}: another certificate would not be worth its name. To have one, {instead}."
    )


@dataclass(frozen=True)
class ProjectRest:
    """What a project's model says of what people have not labelled."""

    predictor: Predictor
    versions: Versions
    ledger: Ledger
    features: FeatureStore
    graphs: GraphStore
    label_sync: LabelSync
    acceptances: Acceptances

    def plan(self, project: Project, errors: Sequence[float], confidence: float) -> Plan:
        """What each share of wrong labels, of `errors`, would cost, by the held-out answers alone; nothing is changed.

        confidence: probability of keeping within it. Raises InvalidInputError where the project asks for several labels an
        image, has too few held-out answers, or has spent what the confidence leaves; NotFoundError where it has no model.
        """
        return self.offer(project, errors, confidence).plan

    def offer(
        self, project: Project, errors: Sequence[float], confidence: float, *, apart: Sequence[int] = ()
    ) -> Offer:
        """A plan, and the labels that it is of. apart: tasks that are left to people. Raises what `plan` does."""
        if project.schema.multiple:
            raise InvalidInputError("Only labels of projects with one choice for each image can be accepted as yet.")
        risk = risk_taken(confidence, self.acceptances.spent(project))
        project, _ = self.label_sync.sync(project, full=False, lazily=True)
        model = self.predictor.answering(project)
        if self.versions.version(project, model.number).meta.mode == FROM_NAMES:
            raise InvalidInputError(
                f"v{model.number} guesses from the class names and has learned from no label: nothing of it can be accepted. Label images of "
                "two classes, then run `ml-backend sync run`."
            )
        rows = self.ledger.pool(project)
        at = places(self.features, model.encoder.id, rows.hashes)
        corpus = corpus_of(project, rows, at, model.encoder, self.features, self.versions)
        if corpus is None:
            raise NotFoundError(f"No image of {project.title!r} was read yet: run `ml-backend sync run`.")
        wrong, doubt = self._measured(project, corpus, model)
        if len(wrong) < ENOUGH:
            raise InvalidInputError(
                f"A plan is made from held-out images that people have labelled: there {'is' if len(wrong) == 1 else 'are'} "
                f"{len(wrong)} of at least {ENOUGH}. Label on; `ml-backend sync status` counts them."
            )
        proposal = self.proposal(project, corpus, model, apart=apart).corrected(worse_than_believed(wrong, doubt))
        forecasts = tuple(forecast(proposal, error, risk) for error in errors)
        waiting, read = corpus.rows.waiting, corpus.rows.waiting & corpus.encoded
        tasks, unread = int(waiting.sum()), int(waiting.sum() - read.sum())
        plan = Plan(model.number, tasks, unread, len(wrong), int(wrong.sum()), confidence, forecasts)
        hashes = rows.hashes[np.searchsorted(rows.ids, proposal.ids)]
        return Offer(plan, proposal, hashes, project.schema.labels, risk)

    def proposal(self, project: Project, corpus: Corpus, model: LoadedModel, *, apart: Sequence[int] = ()) -> Proposal:
        """Labels for the tasks that wait for one: those that somebody skipped, or that have no image, are left to people."""
        rest = np.flatnonzero(corpus.rows.waiting & corpus.encoded & ~np.isin(corpus.rows.ids, apart))
        probabilities = model.head.predict_proba(corpus.vectors(rest))
        return Proposal.of(corpus.rows.ids[rest], probabilities, self._neighbours(project, corpus, rest))

    def _neighbours(self, project: Project, corpus: Corpus, rest: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, C) what spreads to each task from the labels that people gave."""
        found, labelled = corpus.graph(project.id, self.graphs), corpus.all_examples
        at, rows = found.rows_of(corpus.images(labelled)), found.rows_of(image_keys(corpus.rows.hashes[rest]))
        return reached(found.graph, at, labelled.targets, len(corpus.classes), rows)

    def _measured(
        self, project: Project, corpus: Corpus, model: LoadedModel
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(m,) whether the model is wrong on each held-out image, asked by heads that have not seen it, and its doubt of each."""
        heads = self.predictor.fold_heads(project, model.number)
        record = Record.load(self.versions.folder(self.versions.version(project, model.number)))
        held_out = corpus.unseen(record, corpus.examples(held_out=True), heads)
        probabilities = heads.predict_proba(held_out.features, corpus.images(held_out))
        return ~held_out.right(probabilities), 1 - probabilities.max(axis=1, initial=0.0)
