"""What a person changes under Settings of a real Label Studio: told for what it is, and put right where it can be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ml_backend.demo.digits import CLASSES
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.queue import UNCERTAINTY
from ml_backend.labelstudio.results import annotation_result
from tests.e2e.stack import Stack, inline, running, wait_until

POLL_S = 12


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, tasks=60) as stack:
        yield stack


def state(stack: Stack) -> str:
    queue = stack.services.status.of(stack.project)["queue"]
    return str(queue["state"]) if queue else ""


def problems(stack: Stack) -> str:
    return " ".join(stack.services.status.of(stack.project)["problems"])


def order_of_the_doctor(stack: Stack) -> tuple[str, str]:
    results = stack.services.diagnosis.examine(stack.client.url, lambda: [stack.project])
    return next((result.state, result.message) for result in results if result.name.endswith("order"))


def test_tasks_with_overlap_first_are_not_called_the_queue(stack: Stack) -> None:
    stack.turn()
    assert state(stack) == "verified"
    bent = {"maximum_annotations": 2, "overlap_cohort_percentage": 30, "show_overlap_first": True}
    stack.client.update_project(stack.project_id, **bent)
    round_ = stack.turn()
    asked = set(stack.ranking(round_))
    served = []
    for _ in range(15):
        task = next_task(stack.client, stack.project_id)
        assert task is not None
        served.append(task["id"])
        submit(stack.client, task, annotation_result(stack.schema, [CLASSES[0]]))
    assert set(served) - asked, "Label Studio itself serves what was not asked for"
    assert state(stack) == "pushed"
    assert "show_overlap_first" in problems(stack)
    assert order_of_the_doctor(stack)[0] == "FIX"
    assert stack.services.jobs.status(stack.project).stopped is None
    stack.client.update_project(stack.project_id, show_overlap_first=False)
    stack.turn()
    assert state(stack) == "verified"
    assert "show_overlap_first" not in problems(stack)


@pytest.mark.parametrize("events", [True, False], ids=["told by an event", "no event arrives"])
def test_a_version_or_sampling_that_a_person_chose_is_put_right_before_the_poll_interval_has_passed(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, *, events: bool
) -> None:
    poll = {} if events else {"ML_BACKEND_POLL_SECONDS": str(POLL_S)}
    with running(label_studio, client, tmp_path, tasks=60, **poll) as stack:
        name = stack.round_after(0).served_name
        if not events:
            for hook in client.webhooks(stack.project_id):
                client.update_webhook(hook["id"], is_active=False)
        for change in ({"model_version": ""}, {"sampling": "Sequential sampling"}):
            changed = datetime.now(UTC)
            client.update_project(stack.project_id, **change)
            seen = state(stack)
            wait_until(lambda: _is_right(client, stack, name), "queue put right")
            wait_until(lambda: state(stack) == "verified", "verified queue")
            assert _looked_after(stack, changed) < POLL_S
            assert seen == "pushed" or not events


def _looked_after(stack: Stack, changed: datetime) -> float:
    """Seconds until a turn was due that looked at a change; what the turn takes depends on how busy the machine is."""
    made = [job.created_at for job in stack.services.jobs.history(stack.project) if job.created_at > changed]
    return (min(made) - changed).total_seconds() if made else 0.0  # one was under way


def _is_right(client: LabelStudio, stack: Stack, name: str) -> bool:
    project = client.get_project(stack.project_id)
    return bool(project["model_version"] == name and project["sampling"] == UNCERTAINTY)


def test_none_of_them_is_learned_from_label_studio_to_the_export(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    """Half of the images have nothing on them, as far as the annotator says, and the model comes to say so too."""
    config = label_config(CLASSES, multiple=True)
    with inline(label_studio, client, tmp_path, tasks=120, config=config, batch_size=60) as stack:
        stack.turn()
        there = {"0", "1", "2", "3", "4"}
        for _ in range(55):
            task = next_task(client, stack.project_id)
            assert task is not None
            truth = stack.truth[task["data"]["filename"]]
            submit(client, task, annotation_result(stack.schema, [truth] if truth in there else []))
        assert stack.turn().version == 1
        labels = stack.services.ledger.labels(stack.project)
        none = [label for label in labels if label.labels == ()]
        assert len(labels) == 55
        assert 15 <= len(none) <= 40
        corpus = stack.services.corpus_builder.encode_missing(stack.project, lambda *_: None)
        model = stack.services.predictor.current(stack.project)
        assert corpus is not None
        assert model is not None
        names = {task.id: task.data["filename"] for task in stack.services.ledger.tasks(stack.project)}
        new = np.flatnonzero(~corpus.rows.labelled)
        blank = np.array([stack.truth[names[int(task)]] not in there for task in corpus.rows.ids[new]])
        said = np.asarray(model.head.predict_proba(corpus.vectors(new)) < 0.5).all(axis=1)
        assert np.mean(said, where=blank) > 0.6
        assert np.mean(said, where=~blank) < 0.5
