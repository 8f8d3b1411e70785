"""Predictions of former queues stay as long as a browser may hold them, and no longer: they do not pile up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e.stack import Stack, inline, wait_until

BATCH, GRACE, TURNS = 5, 5.0, 200
HELD_OUT = 4
QUEUE = 2 * BATCH + HELD_OUT
"""Predictions of one queue: the batch with what is held out, and as many tasks in reserve."""


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_200_turns_leave_no_more_predictions_than_those_of_the_grace_period(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    began: list[float] = []
    with inline(
        label_studio,
        client,
        tmp_path,
        tasks=400,
        batch_size=BATCH,
        prediction_grace_seconds=GRACE,
        holdout_first=HELD_OUT,
    ) as stack:
        for _ in range(TURNS):
            began.append(time.monotonic())
            stack.turn()
            # A queue is replaced by the next turn, and its time counts from the turn after that.
            recent = sum(moment >= began[-1] - 2 * GRACE for moment in began) + 2  # twice as long while people label
            assert sum(stored(stack).values()) <= QUEUE * recent, f"turn {len(began)}: {stored(stack)}"
            stack.label_next()
        wait_until(lambda: [stack.turn().served_name] == list(stored(stack)), "end of the former queues")


def stored(stack: Stack) -> dict[str, int]:
    versions = stack.client.model_versions(stack.project_id)
    return {name: count for name, count in versions.items() if count}
