"""Step 3: train a candidate on the labels, measure it on the held-out ones, and serve it unless it is worse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoders.encoder import Encoder
from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.learning.evaluation import confidences, confident_from, decide
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.head import Head
from ml_backend.learning.held_out_answers import HeldOutAnswers
from ml_backend.learning.metrics import NOTHING, measured
from ml_backend.learning.record import Record
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import TrainedHead, TrainingReport, train_head
from ml_backend.learning.tuning_run import OnProgress
from ml_backend.predictor import LoadedModel, Predictor
from ml_backend.settings import Settings
from ml_backend.steps import random_arm
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.steps.name_guesses import NameGuess, NameGuesses, guesses_so
from ml_backend.steps.promotion import Promotion, answers_of, is_foreign_import, record_of
from ml_backend.steps.tune_network import NetworkTuner, no_better
from ml_backend.store.graphs import GraphStore
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_files import ProjectFiles
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.store.version import PASSED, Verdict, Version
from ml_backend.store.version_meta import FROM_NAMES, EncoderMeta, Metrics, VersionMeta

logger = logging.getLogger(__name__)

RIGHT = 0.9
"""Guesses are ticked where they are right in at least this share of cases."""
ENOUGH = 25
"""Fewer answers cannot show that, all of them right."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be served.

    heads: what answers for the held-out images. probabilities: (n, C) of the measured ones, by them. learned: what the head
    learned from. out_of_sample: (n,) whether it is right on each of these, asked by folds, and how sure it was; empty where
    folds do not tell. apart: (n,) whether each is held out, so that the folds of all labels do not answer for it.
    at_random: what labels chosen at random would have given, where that was measured (`steps.random_arm.told`).
    tuning: of a network that was trained as well, what became of it. encoded: content hashes and vectors, if it is this one's.
    """

    encoder: Encoder
    head: Head
    report: TrainingReport
    heads: FoldHeads
    held_out: Examples
    probabilities: NDArray[np.float32]
    learned: Examples
    out_of_sample: NDArray[np.bool_]
    confidence: NDArray[np.floating[Any]]
    apart: NDArray[np.bool_]
    at_random: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None
    encoded: tuple[Sequence[str], NDArray[np.float16]] | None = None


@dataclass(frozen=True)
class Trainer:
    """Trains, measures and publishes the versions of projects."""

    versions: Versions
    predictor: Predictor
    ledger: Ledger
    features: FeatureStore
    graphs: GraphStore
    tuner: NetworkTuner
    names: NameGuesses
    promotion: Promotion
    checkpoints: ProjectFiles
    settings: Settings

    def train(self, project: Project, corpus: Corpus | None, on_progress: OnProgress) -> LoadedModel | None:
        """Return the model to serve: the candidate, or the current one where nothing is new or the candidate is worse.

        on_progress: told how far the step is and what is being done, often; what it raises ends the step, and nothing is
        published then.
        """
        current = self.predictor.current(project) or self._serve_another(project)
        if corpus is None:
            return current
        guess = self.names.noted(project, corpus, on_progress)
        digest = trained_on(project, corpus.encoder.id, self.ledger, self.settings, guess.digest if guess else None)
        newest = self.versions.newest(project)
        if (
            newest
            and self._still_valid(project, corpus, newest, digest)
            and (current or newest.state == "rejected" or self.versions.pinned(project))  # it would be rejected again
        ):
            self.checkpoints.discard(project.id)  # the turn that made it was killed before it could
            return self.predictor.current(project)
        examples = corpus.examples(held_out=False) if self._tunes else corpus.all_examples
        if len(np.unique(examples.targets, axis=0)) < 2:
            return self._from_names(project, corpus, guess, digest) or current
        train = self._finetuned if self._tunes else self._refitted
        candidate = train(project, corpus, examples, guess.head(corpus) if guess else None, on_progress)
        learned = candidate.learned
        record = record_of(corpus, learned, candidate.out_of_sample, candidate.apart).after(corpus.imported)
        answers = answers_of(corpus, candidate.held_out, candidate.probabilities, record)
        reason = self.promotion.refusal(project, corpus, answers)
        alike = current if current and (self._tunes or current.encoder.id == candidate.encoder.id) else None
        ticked = _confident_from(candidate, corpus.learned_before(learned), alike)
        meta = self._meta(project, candidate, digest, ticked)
        self._publish(project, candidate, record, meta, Verdict(reason), corpus.rows.ids, on_progress)
        return self.predictor.current(project)

    def _from_names(
        self, project: Project, corpus: Corpus, guess: NameGuess | None, digest: dict[str, Any]
    ) -> LoadedModel | None:
        """A version that guesses from the names of the classes, while there is too little to learn from.

        None where there is a better one, or another is pinned. With other names or another encoder it is made anew, once: one that
        cannot answer is no reason to make it again.
        """
        served, answers = self.versions.current(project), self.predictor.current(project) is not None
        learned = served is not None and served.meta.mode != FROM_NAMES
        if guess is None or self.versions.pinned(project) or (learned and answers):
            return None
        for known in filter(None, (served, self.versions.newest(project))):
            if guesses_so(known, digest) and self.versions.folders.there(project.id, known.number):
                return None
        self.names.publish(project, corpus, guess, digest)
        return self.predictor.current(project)

    @property
    def _tunes(self) -> bool:
        """Whether the network is trained, and then on no held-out image: no head on top makes unseen what it has seen."""
        return self.settings.mode == "finetune"

    def _serve_another(self, project: Project) -> LoadedModel | None:
        """Where the version in service cannot answer: the newest other one that was good enough, and can."""
        served = self.versions.current(project)
        if served is None or self.versions.pinned(project):
            return None
        for version in self.versions.list(project, states=PASSED):
            if version.number != served.number and version.fits(project.schema):
                with suppress(NotFoundError, InvalidInputError, OtherLabelsError):
                    self.predictor.load(project, version.number)
                    self.versions.promote(project, version.number)
                    logger.warning("%s: %s cannot answer; %s is served.", project.key, served.name, version.name)
                    return self.predictor.current(project)
        return None

    def _still_valid(self, project: Project, corpus: Corpus, version: Version, digest: dict[str, Any]) -> bool:
        """Whether training would give this version again, which is there. One that nobody judged yet is judged now."""
        if version.meta.trained_on != digest or not self.versions.folders.there(project.id, version.number):
            return False
        labels = corpus.to_learn_from(held_out=version.meta.mode != "finetune")
        if version.meta.labels != labels or _measures_more(corpus, version):
            return False
        if version.state != "candidate":
            return True
        if version.meta.encoder.id != corpus.encoder.id:
            return False  # a network of its own, whose answers nobody has: it is tuned again
        try:
            answers = self.promotion.answers(project, corpus, version)
        except InvalidInputError:
            return False
        reason = self.promotion.refusal(project, corpus, answers, number=version.number)
        self.versions.judge(project, version.number, Verdict(reason))
        return True

    def _refitted(
        self, project: Project, corpus: Corpus, examples: Examples, guess: Head | None, on_progress: OnProgress
    ) -> Candidate:
        """A head, trained cold on the stored vectors, labelled or not; where the project started from a model, from its head.

        guess: from the names of the classes, heard as far as labels bear it out.
        """
        fit = self._fit(project, corpus, guess)
        on_progress(0.0, "looking for neighbours")
        pool = self._unlabelled(project, corpus, examples)
        on_progress(0.5, "training")
        fold = corpus.folds(examples)
        trained = fit(examples.features, examples.targets, pool=pool, apart=fold)
        heads = FoldHeads(trained.fold_heads or (trained.head,), trained.blind)
        held_out = corpus.examples(held_out=True)
        probabilities = heads.predict_proba(held_out.features, corpus.images(held_out))
        on_progress(0.9, "training on labels drawn at random")
        at_random = self._at_random(project, corpus, examples, held_out, pool, fit)
        return Candidate(
            corpus.encoder, trained.head, trained.report, heads, held_out, probabilities, examples,
            *_by_folds(trained, examples), fold >= 0, at_random,
        )  # fmt: skip

    def _at_random(
        self,
        project: Project,
        corpus: Corpus,
        learned: Examples,
        held_out: Examples,
        pool: Unlabelled,
        fit: Callable[..., TrainedHead],
    ) -> Mapping[str, Any] | None:
        """What labels chosen at random would have given; None where that is not worth a training just now."""
        places = random_arm.drawn(project, corpus, learned, held_out, self.ledger)
        last = self.versions.list(project, limit=random_arm.LAST)
        if not random_arm.is_due(places, learned, held_out, len(corpus.classes), last):
            return None
        chosen = learned.at(places)
        there = replace(pool, at=pool.at[places])
        trained = fit(chosen.features, chosen.targets, pool=there, apart=corpus.folds(chosen))
        heads = FoldHeads(trained.fold_heads, trained.blind)
        probabilities = heads.predict_proba(held_out.features, corpus.images(held_out))
        return random_arm.told(probabilities, held_out, corpus.folds(held_out), len(places), corpus.classes)

    def _fit(self, project: Project, corpus: Corpus, guess: Head | None) -> Callable[..., TrainedHead]:
        prior = prior_of(project, corpus, self.versions, self.predictor)
        return partial(train_head, classes=corpus.classes, seed=self.settings.seed, prior=prior, guess=guess)

    def _unlabelled(self, project: Project, corpus: Corpus, examples: Examples) -> Unlabelled:
        """All images of the project that have a vector."""
        found = corpus.graph(project.id, self.graphs)
        at = found.rows_of(corpus.images(examples))
        return Unlabelled(found.graph, corpus.matrix, found.places, at)

    def _finetuned(
        self, project: Project, corpus: Corpus, examples: Examples, guess: Head | None, on_progress: OnProgress
    ) -> Candidate:
        """The network, from the weights the project started with, and a head on top; or a head alone where that is as good.

        examples: none is held out. Which of the two it is, labels say that neither had seen, and that measure nothing.
        """

        def alone(some: Examples) -> Head:
            pool = self._unlabelled(project, corpus, some)
            return self._fit(project, corpus, guess)(some.features, some.targets, pool=pool).head

        tuned = self.tuner.tune(project, corpus, examples, alone, on_progress)
        if tuned is None or not tuned.refitted.better:
            logger.info("%s: %s", project.key, no_better(tuned))
            candidate = self._refitted(
                project, corpus, corpus.all_examples, guess, lambda _share, doing: on_progress(1.0, doing)
            )
            return replace(candidate, tuning=tuned.told if tuned else None)
        # Its folds are of no use: the network they stand on has seen every label.
        unknown = np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.float32)
        head, held_out = tuned.refitted.trained.head, tuned.held_out
        return Candidate(
            tuned.encoder, head, tuned.refitted.trained.report, FoldHeads((head,)), held_out,
            head.predict_proba(held_out.features), examples, *unknown, np.zeros(len(examples.tasks), dtype=np.bool_),
            tuning=tuned.told, encoded=tuned.encoded,
        )  # fmt: skip

    def _meta(
        self, project: Project, candidate: Candidate, digest: dict[str, Any], ticked: float | None
    ) -> VersionMeta:
        """What `meta.json` says of the candidate. ticked: the confidence from which on its guesses are."""
        encoder = candidate.encoder
        return VersionMeta(
            classes=candidate.head.classes,
            multiple=candidate.head.multilabel,
            encoder=EncoderMeta(name=encoder.name, id=encoder.id, dim=encoder.dim),
            metrics=_metrics(candidate),
            confident_from=ticked,
            labels=len(candidate.learned.tasks),
            training=_told(candidate),
            mode="finetune" if candidate.encoded else "head",
            seed=self.settings.seed,
            trained_on=digest,
            reserved_share=project.reserved_share,
        )

    def _publish(
        self,
        project: Project,
        candidate: Candidate,
        record: Record,
        meta: VersionMeta,
        verdict: Verdict,
        ids: NDArray[np.int64],
        on_progress: OnProgress,
    ) -> None:
        """Keep the candidate as a new version; serve it if the verdict lets it and no other one is pinned. ids: of all tasks."""

        def write(folder: Path) -> None:
            candidate.head.save(folder)
            candidate.heads.save(folder)
            candidate.encoder.save(folder)
            record.save(folder)
            if len(candidate.held_out.tasks):
                _answers(candidate, ids).save(folder)

        number = self.versions.next_number(project)
        self.versions.publish(project, number, write, meta, verdict=verdict, check=partial(on_progress, 1.0, "publish"))
        if (
            candidate.encoded and verdict.reason is None
        ):  # not before: a kill would leave vectors that belong to no version
            self.features.append(candidate.encoder.id, *candidate.encoded)
        self.checkpoints.discard(project.id)
        if verdict.reason is not None:
            logger.warning("%s: v%d is kept but not served: %s", project.key, number, verdict.reason)
        self.versions.prune(project, keep=self.settings.keep_versions)


def prior_of(project: Project, corpus: Corpus, versions: Versions, predictor: Predictor) -> Head | None:
    """The imported model's head, as long as it answers in the project's labels."""
    if not project.state.imported:
        return None
    version = next((v for v in versions.list(project) if v.number == project.state.imported), None)
    if version is None or not version.fits(project.schema) or version.meta.encoder.id != corpus.encoder.id:
        return None
    if not is_foreign_import(version):
        return None  # it has seen these labels, so folds could not tell what is learned from them
    try:
        return predictor.head(project, version.number)
    except (NotFoundError, InvalidInputError, OtherLabelsError):
        return None


def trained_on(
    project: Project, encoder_id: str | None, ledger: Ledger, settings: Settings, names: str | None = None
) -> dict[str, Any]:
    """All that decides what a training comes to: where it is the same as a version's, that version would come out again.

    names: digest of what a text side is asked about the classes; None where none is.
    """
    found = {
        "labels": ledger.label_digest(project),
        "classes": list(project.schema.labels),
        "multiple": project.schema.multiple,
        "encoder": encoder_id,
        "mode": settings.mode,
        "seed": settings.seed,
    }
    if settings.mode == "finetune" and settings.finetune_part != "all":
        found["part"] = f"{settings.finetune_part} {settings.lora_rank}"
    if names:
        found["names"] = names
    return found


def _measures_more(corpus: Corpus, version: Version) -> bool:
    """Whether more labels measure than did for the version, without a new one: an image before them was skipped, say."""
    known = version.meta.metrics.holdout
    return known is not None and len(corpus.examples(held_out=True).tasks) > known["n"]


def _by_folds(trained: TrainedHead, examples: Examples) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
    probabilities = trained.report.fold_probabilities
    if probabilities is None:
        return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.float32)
    return examples.right(probabilities), confidences(probabilities, multilabel=examples.targets.ndim == 2)


def _confident_from(candidate: Candidate, before: NDArray[np.bool_], current: LoadedModel | None) -> float | None:
    """The confidence from which on guesses are right 9 times in 10, on answers the model has not seen.

    current: the version in service, unless it is of another encoder: how sure that is says nothing of this one.
    before: (n,) of which learned ones the imported model knew: it has seen them in every fold. With too few others to tell,
    what holds for the version in service; but not where folds that had seen their answers say how sure it may be.
    """
    chosen = ~(candidate.apart | before) if len(candidate.out_of_sample) else slice(None)
    correct, confidence = [candidate.out_of_sample[chosen]], [candidate.confidence[chosen]]
    if len(candidate.held_out.targets):
        correct.append(candidate.held_out.right(candidate.probabilities))
        confidence.append(confidences(candidate.probabilities, multilabel=candidate.head.multilabel))
    if sum(map(len, correct)) < ENOUGH:
        return current.confident_from if current and not before.any() else None
    return confident_from(np.concatenate(confidence), np.concatenate(correct), RIGHT)


def _answers(candidate: Candidate, ids: NDArray[np.int64]) -> HeldOutAnswers:
    """What it says of each held-out image. ids: (N,) of the tasks of the corpus."""
    held_out, multilabel = candidate.held_out, candidate.head.multilabel
    return HeldOutAnswers.of(
        ids[held_out.tasks],
        held_out.targets,
        decide(candidate.probabilities, multilabel=multilabel),
        confidences(candidate.probabilities, multilabel=multilabel),
    )


def _told(candidate: Candidate) -> dict[str, Any]:
    """How it was trained, for `meta.json`."""
    told = {k: v for k, v in vars(candidate.report).items() if k != "fold_probabilities"}
    return told | ({"finetuning": dict(candidate.tuning)} if candidate.tuning else {})


def _metrics(candidate: Candidate) -> Metrics:
    if candidate.at_random is None:
        return Metrics(holdout=_measured(candidate))
    return Metrics(holdout=_measured(candidate), random=dict(candidate.at_random))


def _measured(candidate: Candidate) -> dict[str, Any]:
    """How good it is on the measured tasks."""
    held_out, head = candidate.held_out, candidate.head
    if not len(held_out.targets):
        return NOTHING | {"undecided": held_out.undecided}
    return measured(candidate.probabilities, held_out.targets, head.classes, held_out.undecided)
