"""What a version takes for what: every image where it belongs, with one label or several."""

from __future__ import annotations

import numpy as np
import pytest

from ml_backend.insight.confusion import cell, confusion
from ml_backend.learning.held_out_answers import HeldOutAnswers

CLASSES = ("cat", "dog", "owl")


def answers(truth: list[list[int]], said: list[list[int]]) -> HeldOutAnswers:
    n = len(truth)
    arrays = [np.array([[c in row for c in range(3)] for row in rows], bool) for rows in (truth, said)]
    return HeldOutAnswers.of(np.arange(10, 10 + n), arrays[0], arrays[1], np.linspace(0.5, 0.9, n))


def test_each_image_of_one_label_is_in_one_cell_and_a_cell_opens_its_images() -> None:
    given = answers([[0], [0], [1], [2]], [[0], [1], [1], [1]])
    found = confusion(given, CLASSES)
    assert found.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.counts.sum() == 4
    assert given.tasks[cell(given, 2, 1)].tolist() == [13]
    assert found.worst(5) == [(0, 1, 1), (2, 1, 1)]
    assert found.most_mistaken(2) == [0, 1]


def test_with_several_labels_what_was_missed_and_what_was_added_meet() -> None:
    given = answers([[0, 1], [0, 1], [], [2], []], [[0, 2], [0], [2], [2], []])
    found = confusion(given, CLASSES)
    assert found.counts[1, 2] == 1, "dog missed, owl in its place"
    assert found.counts[1, 3] == 1, "dog missed, nothing in its place"
    assert found.counts[3, 2] == 1, "owl where there is none"
    assert found.counts[3, 3] == 1, "nothing, and nothing said"
    assert found.counts.diagonal().tolist()[:3] == [2, 0, 1]


@pytest.mark.parametrize("several", [False, True])
def test_every_cell_opens_as_many_images_as_it_says(several: bool) -> None:
    rng = np.random.default_rng(3)
    rows = [
        [
            [int(c) for c in np.flatnonzero(rng.random(3) < 0.4)] if several else [int(rng.integers(3))]
            for _ in range(200)
        ]
        for _ in range(2)
    ]
    given = answers(*rows)
    counts = confusion(given, CLASSES).counts
    for row in range(4):
        for column in range(4):
            places = cell(given, row if row < 3 else -1, column if column < 3 else -1)
            assert len(places) == counts[row, column]
            assert (np.diff(given.confidence[places]) <= 0).all()
