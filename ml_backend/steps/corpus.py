"""What a turn works on: every task of the project beside the place of its vector in the feature store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.learning.record import Record, fold_of, image_keys
from ml_backend.store.rows import PoolRows

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder
    from ml_backend.learning.fold_heads import FoldHeads
    from ml_backend.learning.head import Head
    from ml_backend.store.graphs import GraphStore, ImageGraph


@dataclass(frozen=True)
class Corpus:
    """Tasks and vectors of one project at one moment.

    rows: the N tasks by id. at: (N,) row of each task's vector in `matrix`, -1 where there is none.
    matrix: (M, d) float16, memory-mapped. encoder: what made the vectors. imported: what the model that the project
    started from had learned from; such images measure no model that comes of it.
    """

    rows: PoolRows
    at: NDArray[np.int64]
    matrix: NDArray[np.float16]
    encoder: Encoder
    classes: tuple[str, ...]
    multiple: bool
    imported: Record | None = None

    @property
    def encoded(self) -> NDArray[np.bool_]:
        """(N,) the vector is there."""
        return self.at >= 0

    def vectors(self, tasks: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, d) vectors of the tasks at these positions. No copy where they are one run: a million stay on disk."""
        places = self.at[tasks]
        if len(places) and (np.diff(places) == 1).all():
            return self.matrix[places[0] : places[-1] + 1]
        return self.matrix[places]

    def graph(self, project_id: int, graphs: GraphStore) -> ImageGraph:
        """Of all images that have a vector."""
        encoded = np.flatnonzero(self.encoded)
        images = image_keys(self.rows.hashes[encoded])  # what was not read yet has no hash
        return graphs.of(project_id, self.encoder.id, images, self.at[encoded], self.matrix)

    def examples(self, *, held_out: bool) -> Examples:
        """Labelled tasks with their vectors: those that measure the accuracy, or those that are not held out.

        A held-out label that may not measure (yet) is neither.
        """
        if not held_out:
            return self._labelled(~self.rows.holdout)
        found = self.unseen(self.imported, self._labelled(self.rows.measured))
        return replace(found, undecided=int(self.rows.undecided.sum()))

    @property
    def all_examples(self) -> Examples:
        """All labelled tasks with their vectors, held-out ones too."""
        return self._labelled(self.rows.labelled)

    def to_learn_from(self, *, held_out: bool) -> int:
        """How many labelled tasks there are to learn from, with held-out ones or without."""
        labelled = self.rows.labelled & self.encoded
        return int((labelled if held_out else labelled & ~self.rows.holdout).sum())

    def images(self, examples: Examples) -> NDArray[np.uint64]:
        """(n,) by which the examples' images are known, whatever task shows them."""
        return image_keys(self.rows.hashes[examples.tasks])

    def folds(self, examples: Examples) -> NDArray[np.int64]:
        """(n,) the fold of each example that is held out, whether it measures yet or not; -1 for the others."""
        return np.where(self.rows.holdout[examples.tasks], fold_of(self.images(examples)), -1)

    def unseen(self, record: Record | None, examples: Examples, heads: FoldHeads | None = None) -> Examples:
        """Those whose image the model of that record did not learn from; with its fold heads, what is asked about it."""
        if record is None:
            return examples
        images = self.images(examples)
        return examples.at(np.flatnonzero(heads.unseen(record, images) if heads else ~record.has(images)))

    def learned_before(self, examples: Examples) -> NDArray[np.bool_]:
        """(n,) whether the model that the project started from had learned from their image."""
        images = self.images(examples)
        return np.zeros(len(images), np.bool_) if self.imported is None else self.imported.has(images)

    def targets(self, tasks: NDArray[np.int64]) -> NDArray[Any]:
        """Labels of the tasks at these positions: (n,) class indices, or (n, C) booleans."""
        if not self.multiple:
            return self.rows.labels[tasks]
        ticked = np.zeros((len(self.rows.ids), len(self.classes)), dtype=np.bool_)
        ticked[self.rows.pairs[:, 0], self.rows.pairs[:, 1]] = True
        return ticked[tasks]

    def _labelled(self, among: NDArray[np.bool_]) -> Examples:
        tasks = np.flatnonzero(self.rows.labelled & self.encoded & among)
        return Examples(self.vectors(tasks), self.targets(tasks), tasks)


@dataclass(frozen=True)
class Examples:
    """Labelled vectors: features (n, d), targets (n,) class indices or (n, C) booleans, tasks (n,) corpus positions.

    undecided: of what measures, how many more tasks belong to it and have no label, as somebody skipped them.
    """

    features: NDArray[np.float16]
    targets: NDArray[Any]
    tasks: NDArray[np.int64]
    undecided: int = 0

    def at(self, places: NDArray[np.int64]) -> Examples:
        return Examples(self.features[places], self.targets[places], self.tasks[places])

    def correct(self, head: Head) -> NDArray[np.bool_]:
        """(n,) whether the head is right on each row."""
        if not len(self.targets):
            return np.zeros(0, dtype=np.bool_)
        return self.right(head.predict_proba(self.features))

    def right(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(n,) whether (n, C) probabilities answer right: the top class, or for several labels the whole set."""
        if self.targets.ndim == 1:
            return np.asarray(probabilities.argmax(axis=1) == self.targets)
        return np.asarray(((probabilities >= 0.5) == self.targets).all(axis=1))
