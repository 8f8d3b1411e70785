"""What the model thinks of each task: whether it agrees with the label, by what has not learned from that label, and how sure it is.

- A label that the version in service has not learned from: its own head.
- A held-out image: nothing, labelled or not. Whoever looks again only where the model doubts would measure it by its own word.
- Any other label: heads that are fitted for this, as the fold heads are, a fifth of all labels left out of each. They start
  from vectors that no label has gone into: where the network was trained, from those of the encoder it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import NotFoundError
from ml_backend.learning.evaluation import confidences, decide
from ml_backend.learning.record import Record, fold_of
from ml_backend.learning.spreading import Unlabelled
from ml_backend.learning.training import train_head
from ml_backend.predictor import LoadedModel, Predictor, ticked_from
from ml_backend.project_encoders import ProjectEncoders
from ml_backend.records import BLIND, Query
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.steps.encode_images import corpus_of, places
from ml_backend.steps.name_guesses import NameGuesses
from ml_backend.steps.promotion import is_foreign_import
from ml_backend.steps.table_rows import rows_of
from ml_backend.steps.train import prior_of
from ml_backend.store.graphs import GraphStore
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rows import PoolRows
from ml_backend.store.vectors import FeatureStore

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder

NOTHING, KEPT, GUESS, RIGHT, WRONG = -2, -1, 0, 1, 2
"""Of a task: nothing is said; nothing is said now; there is no label, so it is a guess; the model agrees, or does not."""
ROWS = 16_384
SEPARATOR = ", "

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Opinions:
    """Of N tasks. ids: (N,), ascending. status: (N,) int8. guess: (N,) place in `texts`. confidence: (N,) int8, in per cent.

    The last two count where something is said. version: of the model.
    """

    ids: Ids
    status: NDArray[np.int8]
    guess: NDArray[np.int64]
    confidence: NDArray[np.int8]
    texts: tuple[str, ...]
    version: int


@dataclass(frozen=True)
class Judge:
    """Asks the model in service about every task of a project; writes nothing."""

    predictor: Predictor
    versions: Versions
    ledger: Ledger
    features: FeatureStore
    graphs: GraphStore
    encoders: ProjectEncoders
    names: NameGuesses
    settings: Settings

    def opinions(self, project: Project) -> Opinions:
        """What there is to say now. Raises NotFoundError where no model answers, or no image was read for it."""
        model = self.predictor.answering(project)
        rows = self.ledger.pool(project)
        corpus = self._corpus(project, rows, model.encoder)
        if corpus is None:
            raise NotFoundError(f"No image of {project.title!r} was read yet: run `ml-backend sync run`.")
        notes = _Notes(rows, corpus.classes, multiple=corpus.multiple)
        unlabelled = np.flatnonzero(corpus.encoded & ~rows.labelled)
        notes.guess(unlabelled, rows_of(corpus.matrix, corpus.at[unlabelled]), model.head.predict_proba)
        self._judge_labels(project, corpus, model, notes)
        queries = self._queue(project)
        notes.status[np.isin(rows.ids, self._without_guess(project, queries, model)) & ~rows.labelled] = KEPT
        notes.status[stays_blind(rows, queries)] = NOTHING
        return Opinions(rows.ids, notes.status, notes.guesses, notes.confidence, tuple(notes.texts), model.number)

    def _judge_labels(self, project: Project, corpus: Corpus, model: LoadedModel, notes: _Notes) -> None:
        """Each label by what has not learned from it; one that no other image has is not judged, for nothing could know it."""
        version = self.versions.version(project, model.number)
        record = Record.load(self.versions.folder(version))
        examples = corpus.all_examples
        images = corpus.images(examples)
        # Without a record it is from elsewhere; or of an earlier release, which may have learned from all.
        known = np.full(len(images), not is_foreign_import(version)) if record is None else record.has(images)
        fresh = examples.at(np.flatnonzero(~known))
        notes.judge(fresh, model.head.predict_proba(fresh.features))
        if known.any():
            learned = set(examples.tasks[known].tolist())
            for found, probabilities in self._cross_fitted(project, corpus, finetuned=version.meta.mode == "finetune"):
                these = np.flatnonzero(np.isin(found.tasks, list(learned)))
                notes.judge(found.at(these), probabilities[these])
        notes.pass_over(examples.tasks[_alone_in_class(examples, fold_of(images))])

    def _cross_fitted(
        self, project: Project, corpus: Corpus, *, finetuned: bool
    ) -> Sequence[tuple[Examples, NDArray[np.float32]]]:
        """The labels that can be judged so, and what heads say that have not learned from their images; or nothing."""
        own = self._corpus(project, corpus.rows, self.encoders.of(project)) if finetuned else corpus
        if own is None:
            return ()
        examples = own.all_examples
        images = own.images(examples)
        folds = fold_of(images)
        if len(np.unique(folds)) < 2 or len(np.unique(examples.targets, axis=0)) < 2:
            return ()
        found = own.graph(project.id, self.graphs)
        trained = train_head(
            examples.features,
            examples.targets,
            own.classes,
            seed=self.settings.seed,
            prior=prior_of(project, own, self.versions, self.predictor),
            guess=self.names.head(project, own),
            pool=Unlabelled(found.graph, own.matrix, found.places, found.rows_of(images)),
            apart=folds,
        )
        probabilities = trained.report.fold_probabilities
        if probabilities is None:
            return ()
        fair = np.flatnonzero(~own.learned_before(examples))
        return ((examples.at(fair), probabilities[fair]),)

    def _corpus(self, project: Project, rows: PoolRows, encoder: Encoder) -> Corpus | None:
        at = places(self.features, encoder.id, rows.hashes)
        return corpus_of(project, rows, at, encoder, self.features, self.versions)

    def _queue(self, project: Project) -> Sequence[Query]:
        round_ = self.ledger.current_round(project)
        return self.ledger.queries(round_) if round_ else ()

    def _without_guess(self, project: Project, queries: Sequence[Query], model: LoadedModel) -> list[int]:
        """Tasks of the queue that open without a guess: nothing new is said of them while somebody may be at it."""
        least = ticked_from(project, self.settings.prelabels, model.confident_from)
        return [q.task_id for q in queries if least is None or q.confidence is None or q.confidence < least]


def stays_blind(rows: PoolRows, queries: Sequence[Query]) -> NDArray[np.bool_]:
    """(N,) tasks of which nothing is ever said, as no answer may lean on it: neither now nor later. queries: of the queue in service."""
    blind = [query.task_id for query in queries if query.arm in BLIND]
    return np.asarray(rows.holdout | np.isin(rows.ids, blind))


class _Notes:
    """What was said of each task so far."""

    def __init__(self, rows: PoolRows, classes: Sequence[str], *, multiple: bool) -> None:
        self.classes, self.multiple = classes, multiple
        self.status = np.full(len(rows.ids), NOTHING, np.int8)
        self.guesses = np.full(len(rows.ids), -1, np.int64)
        self.confidence = np.zeros(len(rows.ids), np.int8)
        self.texts: dict[str, int] = {}

    def guess(self, tasks: Ids, features: Any, ask: Callable[[Any], NDArray[np.float32]]) -> None:
        """features: (n, d), read some at a time."""
        for start in range(0, len(tasks), ROWS):
            self._note(tasks[start : start + ROWS], ask(features[start : start + ROWS]))
        self.status[tasks] = GUESS

    def judge(self, examples: Examples, probabilities: NDArray[np.float32]) -> None:
        if len(examples.tasks):
            self._note(examples.tasks, probabilities)
            self.status[examples.tasks] = np.where(examples.right(probabilities), RIGHT, WRONG)

    def pass_over(self, tasks: Ids) -> None:
        self.status[tasks] = NOTHING

    def _note(self, tasks: Ids, probabilities: NDArray[np.float32]) -> None:
        sure = confidences(probabilities, multilabel=self.multiple)
        self.confidence[tasks] = np.minimum(100 * sure, 99).astype(np.int8)
        kinds, which = np.unique(decide(probabilities, multilabel=self.multiple), axis=0, return_inverse=True)
        names = [SEPARATOR.join(self.classes[c] for c in np.flatnonzero(kind)) for kind in kinds]
        numbers = np.array([self.texts.setdefault(name, len(self.texts)) for name in names], np.int64)
        self.guesses[tasks] = numbers[which.reshape(-1)]


def _alone_in_class(examples: Examples, folds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether all labels of its class are in one fold, so that what judges it has never met the class."""
    if examples.targets.ndim > 1 or not len(folds):
        return np.zeros(len(folds), np.bool_)
    seen = np.unique(np.stack([examples.targets, folds], 1), axis=0)[:, 0]
    return np.asarray(np.bincount(seen, minlength=int(examples.targets.max()) + 1)[examples.targets] < 2)
