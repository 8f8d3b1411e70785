"""What one version says of tasks, a page at a time; of a label that it has learned from, nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_backend.learning.record import Record, image_keys
from ml_backend.predictor import LoadedModel, Predictor, predicted
from ml_backend.records import Prediction
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rows import LedgerRow
from ml_backend.store.vectors import FeatureStore

if TYPE_CHECKING:
    from ml_backend.learning.fold_heads import FoldHeads


@dataclass(frozen=True)
class Guess:
    """learned: the version knows this label, so that there is no prediction; None: nobody can tell. error: why else there is none."""

    prediction: Prediction | None = None
    learned: bool | None = None
    error: str | None = None


@dataclass(frozen=True)
class Answering:
    """One version in memory: what it says stays the same, whatever is promoted or pruned meanwhile.

    images: (n,) keys of the images that it has learned from, ascending; None: not known. unseen: (n,) whether the fold head that
    answers for each of them has not. foreign: it came from elsewhere, and knows no label of the project.
    """

    name: str
    model: LoadedModel
    heads: FoldHeads
    features: FeatureStore
    images: NDArray[np.uint64] | None
    unseen: NDArray[np.bool_]
    foreign: bool

    @classmethod
    def load(
        cls, project: Project, number: int, predictor: Predictor, versions: Versions, features: FeatureStore
    ) -> Answering:
        """Raises NotFoundError, InvalidInputError or OtherLabelsError where the version cannot answer, as `Predictor.load`."""
        from ml_backend.steps.promotion import is_foreign_import  # noqa: PLC0415 - torch

        version = versions.version(project, number)
        model, heads = predictor.load(project, number), predictor.fold_heads(project, number)
        record = Record.load(version.folder)
        images = None if record is None else np.sort(record.images)
        unseen = np.zeros(0, np.bool_) if images is None else heads.unseen(record, images)
        return cls(version.name, model, heads, features, images, unseen, is_foreign_import(version))

    def page(self, rows: Sequence[LedgerRow]) -> list[Guess]:
        """One guess a row. A held-out label that the served head has learned from is answered for by its fold head."""
        guesses = [Guess(error=self._no_vector(row)) for row in rows]
        places = np.array([place for place, row in enumerate(rows) if row.content_hash], np.int64)
        if not len(places):
            return guesses
        hashes = [str(rows[place].content_hash) for place in places]
        images = image_keys(np.array(hashes, "S64"))
        learned, apart = self._learned([rows[place] for place in places], images)
        for place, known in zip(places, learned, strict=True):
            guesses[place] = Guess(learned=bool(known), error=None if known else guesses[place].error)
        at = self.features.rows(self.model.encoder.id, hashes)
        asked = np.flatnonzero((at >= 0) & ~learned)
        for place, prediction in zip(places[asked], self._ask(at[asked], images[asked], apart[asked]), strict=True):
            guesses[place] = Guess(prediction, learned=False)
        return guesses

    def _learned(
        self, rows: Sequence[LedgerRow], images: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n,) whether all that could answer for a row has learned from its label, and whether its fold head has not.

        Without a record, a version that was trained here is taken to have learned from all labels but the held-out ones.
        """
        labelled = np.array([row.label is not None for row in rows], np.bool_)
        if self.images is None or not len(self.images):
            in_train = np.array([row.split == "train" for row in rows], np.bool_)
            unknown = self.images is None and not self.foreign
            return labelled & in_train & unknown, np.zeros(len(rows), np.bool_)
        at = np.minimum(np.searchsorted(self.images, images), len(self.images) - 1)
        known = labelled & (self.images[at] == images)
        return known & ~self.unseen[at], known & self.unseen[at]

    def _ask(self, at: NDArray[np.int64], images: NDArray[np.uint64], apart: NDArray[np.bool_]) -> list[Prediction]:
        """at: (n,) rows in the feature store. apart: (n,) to be answered for by the fold heads."""
        if not len(at):
            return []
        head = self.model.head
        vectors = self.features.matrix(self.model.encoder.id)[at]
        probabilities = head.predict_proba(vectors)
        if apart.any():
            probabilities[apart] = self.heads.predict_proba(vectors[apart], images[apart])
        return [predicted(row, head.classes, multiple=head.multilabel) for row in probabilities]

    def _no_vector(self, row: LedgerRow) -> str:
        if row.content_hash is None:
            return NOT_READ
        return f"The image has not been encoded for {self.name} yet."


NOT_READ = "The image has not been read yet."
