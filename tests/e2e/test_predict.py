"""Label Studio asks for predictions of tasks that the service has not seen, and somebody else for files that are not theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e.stack import Stack, running

pytestmark = pytest.mark.e2e
WAIT_AN_HOUR = {"ML_BACKEND_TRAIN_AFTER_LABELS": "24", "ML_BACKEND_TRAIN_AFTER_SECONDS": "3600", "ML_BACKEND_POLL_SECONDS": "3600"}  # fmt: skip


def ask(stack: Stack, task: int, image: str) -> dict[str, Any]:
    """What anybody on this machine may send."""
    body = {"project": str(stack.project_id), "tasks": [{"id": task, "data": {"image": image}}]}
    answer = requests.post(f"{stack.settings.url}/predict", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["results"][0])


def test_a_new_task_is_predicted_and_a_file_that_no_task_shows_is_not_read(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    with running(label_studio, client, tmp_path, tasks=120, **WAIT_AN_HOUR) as stack:
        first = stack.round_after(-1)
        for _ in range(24):
            stack.label_next()
        assert stack.round_after(first.number).version == 1
        shown = next(iter(client.tasks(stack.project_id, schema=stack.schema))).image
        assert shown is not None
        client.import_tasks(stack.project_id, [{"image": shown, "filename": "again.png"}])
        new = max(task.id for task in client.tasks(stack.project_id, schema=stack.schema))
        chosen = {"selectedItems": {"all": False, "included": [new]}}
        path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={stack.project_id}"
        client.transport.call("POST", path, json=chosen)
        (given,) = client.predictions_of(stack.project_id, [new])[new]
        assert given["score"] > 0
        assert "error" not in ask(stack, new, shown)
        assert "does not show this image" in ask(stack, new + 1000, shown)["error"]
        assert "does not show this image" in ask(stack, new, shown + "x")["error"]
        assert "ML_BACKEND_IMAGE_HOSTS" in ask(stack, new, "http://169.254.169.254/latest/meta-data")["error"]
        page = requests.post(f"{stack.settings.url}/predict", json={}, headers={"Origin": client.url}, timeout=10)
        assert page.status_code == 403, "Label Studio's server calls, its pages do not"
