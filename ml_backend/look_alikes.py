"""Unlabelled tasks that the model takes for one class, those that look alike together: the pages of the grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import ConflictError
from ml_backend.predictor import Predictor
from ml_backend.settings import Settings
from ml_backend.steps.encode_images import places
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import PoolRows
from ml_backend.store.vectors import FeatureStore

if TYPE_CHECKING:
    from ml_backend.learning.head import Head

CHUNK = 8_192
"""Vectors read at a time, so that those of a whole class are never in memory."""


@dataclass(frozen=True)
class Guesses:
    """What the model in service says of the tasks that its guess may be shown for.

    ids: (n,) int64, ascending. classes: (n,) int64, place in `labels` of the class that each is taken for. confidence: (n,)
    float32. at: (n,) int64, row of each task's vector in `matrix` (M, d), which may be memory-mapped, rows of unit length.
    """

    labels: tuple[str, ...]
    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidence: NDArray[np.float32]
    at: NDArray[np.int64]
    matrix: NDArray[np.float16]

    def counts(
        self, without: Collection[int] = (), refused: Mapping[str, Collection[int]] | None = None
    ) -> dict[str, int]:
        """How many tasks are taken for each class; `refused` ones, by class, do not count for theirs."""
        left = ~np.isin(self.ids, list(without))
        found = np.bincount(self.classes[left], minlength=len(self.labels)).tolist()
        counts = dict(zip(self.labels, found, strict=True))
        for label, tasks in (refused or {}).items():
            if label in counts:
                mine = left & (self.classes == self.labels.index(label))
                counts[label] -= int(np.isin(self.ids[mine], list(tasks)).sum())
        return counts

    def alike(self, label: str, without: Collection[int], count: int) -> list[int]:
        """Up to `count` task ids of this class: the one the model is surest of, then its nearest neighbours, nearest first.

        without: ids that are left out. Ties go by id.
        """
        taken = self.classes == self.labels.index(label)
        left = np.flatnonzero(taken & ~np.isin(self.ids, list(without)))
        if not len(left):
            return []
        seed = left[self.confidence[left].argmax()]
        near = similar(self.matrix, self.at[left], self.matrix[self.at[seed]])
        near[left == seed] = np.inf
        return [int(task) for task in self.ids[left[np.lexsort((self.ids[left], -near))[:count]]]]


@dataclass(frozen=True)
class LookAlikes:
    """The guesses for a project's rest that a person may be shown."""

    ledger: Ledger
    features: FeatureStore
    predictor: Predictor
    settings: Settings
    acceptances: Acceptances

    def guesses(self, project: Project) -> Guesses:
        """Of every task that waits for a label, has a vector, and need not stay blind.

        Raises ConflictError, with what to change, where no guess is to be shown, NotFoundError where there is no model.
        """
        self.require_shown(project)
        model = self.predictor.answering(project)
        rows = self.ledger.pool(project)
        at = places(self.features, model.encoder.id, rows.hashes)
        shown = np.flatnonzero(rows.waiting & (at >= 0) & ~must_stay_blind(rows, self.ledger.drawn_blind(project)))
        matrix = self.features.matrix(model.encoder.id)
        classes, confidence = believed(model.head, matrix, at[shown])
        return Guesses(model.head.classes, rows.ids[shown], classes, confidence, at[shown], matrix)

    def require_shown(self, project: Project) -> None:
        """Raise ConflictError, with what to change, where nobody is to be shown guesses."""
        if project.schema.multiple:
            raise ConflictError(
                "The grid is for projects with one choice for each image: in this one several may be chosen."
            )
        if project.state.overlap > 1:
            raise ConflictError(
                f"Each image of this project is labelled by {project.state.overlap} people on their own, so nobody is shown a "
                "guess, and the grid is made of guesses: set maximum_annotations of the project in Label Studio to 1."
            )
        if self.acceptances.is_blind(project):
            raise ConflictError(
                "An audit of what the model would label is on, and nobody is shown a guess meanwhile: answer what it asks for, here or "
                "in Label Studio's queue; then it has to be certified or given up (`ml-backend accept status` says how far it is). "
                "Nothing was written."
            )
        if self.settings.prelabels == "never":
            raise ConflictError(
                "This service shows no guesses (ML_BACKEND_PRELABELS=never), and the grid is made of them: set it to confident."
            )

    def blind_among(self, project: Project, task_ids: Collection[int]) -> set[int]:
        """Those of the tasks that no guess may have been shown for."""
        return self.ledger.held_out(project, list(task_ids)) | (self.ledger.drawn_blind(project) & set(task_ids))


def must_stay_blind(rows: PoolRows, drawn: Collection[int]) -> NDArray[np.bool_]:
    """(N,) no guess may be shown for the task: it is held out to measure the accuracy, or was `drawn` for a blind audit."""
    return np.asarray(rows.holdout | np.isin(rows.ids, list(drawn)))


def believed(
    head: Head, matrix: NDArray[np.float16], at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The class that the head takes each of the rows `at` (n,) of `matrix` for, (n,), and how sure it is, (n,)."""
    classes, confidence = np.empty(len(at), np.int64), np.empty(len(at), np.float32)
    for start in range(0, len(at), CHUNK):
        probabilities = head.predict_proba(matrix[at[start : start + CHUNK]])
        classes[start : start + CHUNK] = probabilities.argmax(axis=1)
        confidence[start : start + CHUNK] = probabilities.max(axis=1)
    return classes, confidence


def similar(matrix: NDArray[np.float16], at: NDArray[np.int64], seed: NDArray[np.float16]) -> NDArray[np.float32]:
    """(n,) cosine of `seed` (d,) and each of the rows `at` (n,) of `matrix`, all of unit length."""
    found = np.empty(len(at), np.float32)
    wanted = seed.astype(np.float32)
    for start in range(0, len(at), CHUNK):
        found[start : start + CHUNK] = matrix[at[start : start + CHUNK]].astype(np.float32) @ wanted
    return found
