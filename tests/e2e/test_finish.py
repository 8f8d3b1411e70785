"""From some labels to every image labelled: an audit, what it vouches for written and killed on the way, the rest by people."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.bulk_annotations import MARK
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e.finishing import Annotators, at_rest, audited, command, exported, given_in, killed
from tests.e2e.stack import running

pytestmark = pytest.mark.e2e

IMAGES, LABELS, ERROR, KILLS = 300, 80, "10%", 3


def test_writing_is_killed_three_times_every_task_is_labelled_at_the_end_and_undo_leaves_what_people_said(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, three_users: list[LabelStudio], tmp_path: Path
) -> None:
    with running(label_studio, client, tmp_path, tasks=IMAGES) as stack:
        stack.round_after(0)
        people = Annotators(stack, three_users)
        people.answer(lambda: people.looks >= LABELS)
        at_rest(stack)
        command(stack, "accept", "audit", "--error", ERROR)
        people.answer(lambda: audited(stack))
        certificate = command(stack, "accept", "certify", "--out", str(tmp_path))
        total = command(stack, "accept", "write", "--dry-run")["to_write"]
        assert total == certificate["accepted_unseen"] > 0

        left = IMAGES - people.looks - total
        runs = killed(stack, left, total, KILLS, random.Random(0))
        assert [run.killed for run in runs] == [True] * KILLS + [False]
        assert client.unlabelled(stack.project_id) == left
        assert not [name for name in client.model_versions(stack.project_id) if name.startswith(MARK)]
        people.answer()

        given = given_in(stack)
        human = {number: each for number, each in given.items() if each.accepted is None}
        accepted = [each.task for each in given.values() if each.accepted == certificate["certificate"]]
        assert client.unlabelled(stack.project_id) == 0
        assert len({each.task for each in given.values()}) == len(given) == IMAGES, "each task has one answer"
        assert ({each.task for each in human.values()}, len(accepted)) == (people.answered, total)

        rows = exported(stack, tmp_path / "labels.csv")
        assert {row["filename"] for row in rows} == set(stack.truth)
        assert sum(row["origin"] == "accepted" for row in rows) == total
        wrong = [row["origin"] for row in rows if stack.truth[row["filename"]] != row["label"]]
        assert set(wrong) <= {"accepted"}
        assert len(wrong) <= certificate["wrong_among_these_at_most"]

        undone = command(stack, "accept", "undo", certificate["certificate"])
        assert (undone["taken_back"], undone["kept"]) == (total, 0)
        assert given_in(stack) == human
