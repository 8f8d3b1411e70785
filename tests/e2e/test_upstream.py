"""Our model class behind the upstream label-studio-ml server: it answers, and a label leads to our job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.worker.supervisor import die_with_parent
from tests.e2e import acts
from tests.e2e.stack import Stack, ended, inline, wait_until

PYTHON = Path(__file__).resolve().parents[2] / ".venv-upstream" / "bin" / "python"
SERVER = """
from label_studio_ml.api import init_app
from ml_backend.web.label_studio_ml import ActiveLearningModel

app = init_app(model_class=ActiveLearningModel, model_dir={model_dir!r})

if __name__ == "__main__":
    app.run(host="127.0.0.1", port={port})
"""


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, tasks=40) as stack:
        yield stack


@pytest.fixture
def upstream(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The address of upstream's server with our class in it, on the same store as `stack`."""
    if not PYTHON.is_file():
        pytest.skip("no label-studio-ml: run `make setup`")
    port = free_port()
    script = tmp_path / "server.py"
    script.write_text(SERVER.format(model_dir=str(tmp_path / "models"), port=port))
    environment = {
        "LABEL_STUDIO_URL": stack.settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": stack.settings.label_studio_api_key,
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(stack.settings.document_root),
        "ML_BACKEND_DATA_DIR": str(stack.settings.data_dir),
    }
    process = subprocess.Popen([PYTHON, script], env={**os.environ, **environment}, preexec_fn=die_with_parent)  # noqa: PLW1509
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url), "upstream server")
        yield url
    finally:
        ended(process)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=1).ok
    except requests.RequestException:
        return False


def test_label_studio_connects_predicts_and_a_label_makes_our_job_due(stack: Stack, upstream: str) -> None:
    stack.turn()
    for _ in range(12):
        stack.label_next()
    version = stack.turn()
    assert version.version == 1
    job = stack.services.jobs.claim("test")
    if job is not None:
        stack.services.jobs.finish(job)
    backend = stack.client.create_backend(stack.project_id, url=upstream, title="upstream")
    assert backend["state"] == "CO", backend
    waiting = stack.ranking(version)[:5]
    acts.delete_predictions_of(stack.client, stack.project_id, waiting)
    stack.client.transport.call(
        "POST",
        f"/api/dm/actions?id=retrieve_tasks_predictions&project={stack.project_id}",
        json={"selectedItems": {"all": False, "included": waiting}},
    )
    predictions = stack.client.predictions_of(stack.project_id, waiting)
    assert {p["model_version"] for given in predictions.values() for p in given} == {version.served_name}
    assert all(len(given) == 1 for given in predictions.values())
    stack.label_next()
    due = wait_until(lambda: stack.services.jobs.status(stack.project).due, "job due")
    assert due.reason == "ANNOTATION_CREATED"
    assert due.labels == 1
