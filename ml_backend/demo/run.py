"""The demo's parts: a Label Studio, this service beside it, and a project with sample images in it."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ml_backend.demo.digits import CLASSES
from ml_backend.demo.label_studio import EmbeddedLabelStudio, answers, find_binary, free_port, is_free
from ml_backend.errors import BackendError, ConfigError
from ml_backend.hosts import host_slug
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.storage import add_local_storage
from ml_backend.settings import Settings
from ml_backend.worker.supervisor import die_with_parent

TITLE = "Digits"


@contextlib.contextmanager
def label_studio(args: argparse.Namespace, data: Path) -> Iterator[EmbeddedLabelStudio]:
    binary = find_binary(Path.cwd(), os.environ)
    if binary is None:
        raise ConfigError(
            "Label Studio is not installed: run `make setup`, or set LABEL_STUDIO_BIN to the path of its executable."
        )
    port = _port(args.port, 8080, "--port")
    print(f"Starting Label Studio on http://127.0.0.1:{port} (this takes half a minute the first time) ...", flush=True)
    with EmbeddedLabelStudio(binary, data / "label-studio", port=port, document_root=data / "images") as studio:
        yield studio


@contextlib.contextmanager
def service(args: argparse.Namespace, data: Path, studio: EmbeddedLabelStudio) -> Iterator[Settings]:
    """This service beside it, as `ml-backend serve` runs it."""
    port = _port(args.backend_port, 9090, "--backend-port")
    environment = _beside(studio, data, port) | {
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(data / "images"),
        "ML_BACKEND_DATABASE_URL": "",  # all of it is in `data`
        "ML_BACKEND_LOG_LEVEL": "WARNING",
        "ML_BACKEND_DOWNLOADS": "no",  # the digits need no pretrained network, and the demo waits for nobody
    }
    given = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in environment}
    print(f"Starting this service on http://127.0.0.1:{port} ...", flush=True)
    command = [sys.executable, "-m", "ml_backend.cli", "serve"]
    process = subprocess.Popen(command, env=given | environment, preexec_fn=die_with_parent)  # noqa: PLW1509
    try:
        settings = Settings.from_environ(given | environment)
        if not answers(settings.url, process, 60):
            raise BackendError("The service did not start; see its messages above.")
        yield settings
    finally:
        process.terminate()
        process.wait()


def _beside(studio: EmbeddedLabelStudio, data: Path, port: int) -> dict[str, str]:
    """What a command has to be told to work beside the demo."""
    return {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        "ML_BACKEND_DATA_DIR": str(data / "backend"),
        "ML_BACKEND_PORT": str(port),
        "ML_BACKEND_URL": f"http://127.0.0.1:{port}",
    }


def _port(given: int | None, usual: int, option: str) -> int:
    """The port given, or the usual one, or a free one if somebody else has that. Raises ConfigError for a taken one."""
    port = usual if given is None else given
    if is_free(port):
        return port
    if given is not None:
        raise ConfigError(
            f"Port {port} is in use: choose another port with {option}, or omit {option} to use a free one."
        )
    port = free_port()
    print(f"Port {usual} is in use; using {port} instead ({option} chooses another).", flush=True)
    return port


def project(client: LabelStudio, data: Path, filenames: list[str], settings: Settings) -> int:
    """The demo's project with its images in it, connected; made once and found again."""
    known = next((p for p in client.projects() if p["title"] == TITLE), None)
    if known is None:
        known = client.create_project(TITLE, label_config(CLASSES))
    project_id = int(known["id"])
    add_local_storage(client, project_id, data / "images" / "digits")
    if not known.get("task_number"):
        tasks = [{"image": f"/data/local-files/?d=digits/{name}", "filename": name} for name in filenames]
        client.import_tasks(project_id, tasks)
    connect(client, project_id, f"{settings.url}/hosts/{host_slug(client.url)}")
    return project_id


def welcome(studio: EmbeddedLabelStudio, settings: Settings, project_id: int, data: Path) -> str:
    beside = _beside(studio, data, settings.port)
    exports = "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in beside.items())
    return f"""
  Label Studio   {studio.url}/projects/{project_id}/
  log in as      {studio.username}   password  {studio.password}
  then click     "Label All Tasks": the images come in the order the model chose;
                 the tab "Active learning queue" shows the same order
  see it learn   {settings.url}
                 a page to leave open; sign in with the token below
  token          {studio.token}
  data folder    {settings.data_dir}
  all files      {data}

  To run other commands with this demo, set this in another terminal:
    {exports}"""
