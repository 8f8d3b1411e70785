"""Which classes a version takes for which, on the held-out images that measured it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.learning.held_out_answers import HeldOutAnswers


@dataclass(frozen=True)
class Confusion:
    """counts: (K, K) images, rows by people's label, columns by the version's guess. classes: K - 1 of them, then "nothing".

    With one label an image, each is in one cell. With several, an image is in the diagonal for each label that is right, and in
    the cell of each label that was missed and each that was guessed in its place; a label that was missed, with none guessed in its
    place, is in the last column, and one that was guessed beside those that are right, in the last row.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    def most_mistaken(self, most: int) -> list[int]:
        """Places of at most so many classes, those of the fullest cells beside the diagonal, in their order; "nothing" aside."""
        chosen: dict[int, None] = {}
        for row, column, _ in self.worst(most * most):
            pair = [place for place in (row, column) if place < len(self.classes)]
            if len(chosen | dict.fromkeys(pair)) <= most:
                chosen |= dict.fromkeys(pair)
        return sorted(chosen)

    def worst(self, most: int) -> list[tuple[int, int, int]]:
        """(label, guess, images) of the cells beside the diagonal, the fullest first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        found = [(int(r), int(c), int(wrong[r, c])) for r, c in zip(rows, columns, strict=True)]
        return sorted(found, key=lambda cell: (-cell[2], cell[0], cell[1]))[:most]


def confusion(answers: HeldOutAnswers, classes: Sequence[str]) -> Confusion:
    truth, missed, extra = _parts(answers)
    counts = missed.astype(np.int64).T @ extra.astype(np.int64)
    counts[np.arange(len(classes)), np.arange(len(classes))] = (truth & answers.said).sum(axis=0)
    counts[-1, -1] = int((~answers.truth.any(axis=1) & ~answers.said.any(axis=1)).sum())
    return Confusion(tuple(classes), counts)


def cell(answers: HeldOutAnswers, label: int, guess: int) -> NDArray[np.int64]:
    """Places in `answers` of the images of a cell, the surest guess first. label, guess: -1 for "nothing"."""
    truth, missed, extra = _parts(answers)
    if label == guess == -1:
        inside = ~answers.truth.any(axis=1) & ~answers.said.any(axis=1)
    elif label == guess:
        inside = truth[:, label] & answers.said[:, guess]
    else:
        inside = missed[:, label] & extra[:, guess]
    places = np.flatnonzero(inside)
    return np.asarray(places[np.argsort(-answers.confidence[places], kind="stable")])


def _parts(answers: HeldOutAnswers) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """The labels (n, C); and (n, C + 1) those missed and those guessed in their place, "nothing" last."""
    missed, extra = answers.truth & ~answers.said, answers.said & ~answers.truth
    lacks, adds = missed.any(axis=1), extra.any(axis=1)
    return (
        answers.truth,
        np.column_stack([missed, ~lacks & adds]),
        np.column_stack([extra, lacks & ~adds]),
    )
