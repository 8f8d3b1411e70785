"""See the whole loop on this machine: a real Label Studio on SQLite, this service, and 1,797 images of digits.

Without options it keeps running and says what to click. With --simulate N it plays an annotator who labels N tasks in
the order they are served, prints one row per round and exports the CSV; with --exit it then stops everything.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from ml_backend.demo.digits import CLASSES, write_digits
from ml_backend.demo.label_studio import EmbeddedLabelStudio, find_binary, free_port, is_free
from ml_backend.errors import BackendError, ConfigError, LabelStudioUnavailableError
from ml_backend.exports.label_rows import COLUMNS, export_rows, write_csv
from ml_backend.hosts import host_slug
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import annotation_result, label_config, parse_label_config
from ml_backend.labelstudio.connection import connect
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.store.scheduling import Job
from ml_backend.worker.supervisor import die_with_parent

TITLE = "Digits"
QUEUE_SECONDS = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=Path("demo-data"), help=("folder for everything it writes (default: %(default)s)")
    )
    parser.add_argument("--port", type=int, help="Label Studio's port (default: 8080, or a free one)")
    parser.add_argument("--backend-port", type=int, help="this service's port (default: 9090, or a free one)")
    parser.add_argument("--simulate", type=int, metavar="N", default=0, help="label N tasks as a person would")
    parser.add_argument("--pace", type=float, default=0.3, help="seconds the simulated annotator spends on an image")
    parser.add_argument("--exit", action="store_true", help="stop everything at the end")


def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped on that, too
    print("Writing 1,797 images of handwritten digits ...", flush=True)
    data: Path = args.data.resolve()
    truth = write_digits(data / "images" / "digits")
    with _label_studio(args, data) as studio, _service(args, data, studio) as settings:
        client = LabelStudio(studio.url, studio.token)
        project_id = _project(client, data, list(truth), settings)
        demo = Demo(client, Services.open(settings), project_id, truth)
        print("Waiting for the first queue ...", flush=True)
        demo.wait_for_queue()
        print(_welcome(studio, settings, project_id, data), flush=True)
        if args.simulate:
            demo.simulate(args.simulate, args.pace)
            demo.export(data / "labels.csv")
        if not args.exit:
            print("\nPress Ctrl-C to stop everything.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0


@dataclass
class Demo:
    """The running demo, seen by somebody who labels."""

    client: LabelStudio
    services: Services
    project_id: int
    truth: dict[str, str]

    @property
    def project(self) -> Project:
        return next(p for p in self.services.ledger.projects() if p.key.project_id == self.project_id)

    def wait_for_queue(self) -> None:
        """Return when a verified queue is served and no training is due or running."""
        deadline = time.monotonic() + QUEUE_SECONDS
        while time.monotonic() < deadline:
            jobs = self.services.jobs.status(self.project)
            last = self.services.ledger.last_round(self.project)
            if jobs.stopped:
                raise BackendError(f"Training stopped: {jobs.stopped}")
            waiting = jobs.running is not None or (jobs.due is not None and jobs.due.immediate)
            if last is not None and last.state == "verified" and not waiting:
                return
            time.sleep(0.1)
        raise LabelStudioUnavailableError("No queue was pushed; the log above says why.")

    def simulate(self, count: int, pace: float) -> None:
        """Label `count` tasks from the true labels, in the order they are served; print a row a round."""
        schema = parse_label_config(self.client.get_project(self.project_id)["label_config"])
        print(f"\n{'labels':>6}  {'queue':<9} {'held-out accuracy (95 % interval)':<34} {'label to queue':>14}")
        shown: set[int] = {job.id for job in self.services.jobs.history(self.project)}
        for _ in range(count):
            task = self.client.next_task(self.project_id)
            if task is None:
                raise BackendError("Label Studio has no tasks left to serve.")
            time.sleep(pace)
            label = self.truth[task["data"]["filename"]]
            self.client.submit(task, annotation_result(schema, [label]), lead_time=pace)
            self._show_new(shown)
        self.services.jobs.mark_due(self.project, immediately=True, reason="last labels")
        self.wait_for_queue()
        self._show_new(shown)
        seconds = sorted(self._seconds(job) for job in self._trained())
        if seconds:
            print(
                "Median time from the label that started a training to the new queue, in seconds: "
                f"{seconds[len(seconds) // 2]:.1f}"
            )

    def export(self, path: Path) -> None:
        rows = export_rows(self.services.ledger.rows(self.project))
        written = write_csv(path, rows, COLUMNS)
        with path.open(encoding="utf-8", newline="") as file:
            right = sum(self.truth[row["filename"]] == row["label"] for row in csv.DictReader(file))
        print(f"\n{written} labels exported to {path}; {right} of them match the truth.")

    def _trained(self) -> list[Job]:
        """Jobs that labels fired by their number, oldest first; the quiet-time debounce is no part of their seconds."""
        jobs = reversed(self.services.jobs.history(self.project))
        enough = self.services.settings.train_after_labels
        return [job for job in jobs if job.state == "done" and job.labels >= enough]

    def _seconds(self, job: Job) -> float:
        """From the label that made the job due to its queue verified."""
        name = (job.summary or {}).get("served")
        made = next((r for r in self.services.ledger.rounds(self.project) if r.served_name == name), None)
        return (made.verified_at - job.due_at).total_seconds() if made and made.verified_at else float("nan")

    def _show_new(self, shown: set[int]) -> None:
        for job in reversed(self.services.jobs.history(self.project)):
            if job.state == "done" and job.id not in shown and job.summary and job.summary.get("served"):
                shown.add(job.id)
                seconds = f"{self._seconds(job):.1f} s" if job.labels else ""
                labels = job.summary["labelled"]
                print(f"{labels:>6}  {job.summary['served']:<9} {self._accuracy(job):<34} {seconds:>14}", flush=True)

    def _accuracy(self, job: Job) -> str:
        number = (job.summary or {}).get("version")
        if not number:
            return "no model yet"
        measured = self.services.versions.version(self.project, number).meta["metrics"]["holdout"]
        if not measured["n"]:
            return "no held-out labels yet"
        low, high = measured["low"], measured["high"]
        return f"{measured['accuracy']:.1%} ({low:.1%} to {high:.1%}, n={measured['n']})"


@contextlib.contextmanager
def _label_studio(args: argparse.Namespace, data: Path) -> Iterator[EmbeddedLabelStudio]:
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
def _service(args: argparse.Namespace, data: Path, studio: EmbeddedLabelStudio) -> Iterator[Settings]:
    """This service beside it, as `ml-backend serve` runs it."""
    port = _port(args.backend_port, 9090, "--backend-port")
    environment = _beside(studio, data, port) | {
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(data / "images"),
        "ML_BACKEND_DATABASE_URL": "",  # all of it is in `data`
        "ML_BACKEND_LOG_LEVEL": "WARNING",
    }
    given = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in environment}
    print(f"Starting this service on http://127.0.0.1:{port} ...", flush=True)
    command = [sys.executable, "-m", "ml_backend.cli", "serve"]
    process = subprocess.Popen(command, env=given | environment, preexec_fn=die_with_parent)  # noqa: PLW1509
    try:
        settings = Settings.from_environ(given | environment)
        _wait_for(f"{settings.url}/health", process)
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


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=1).ok:
                return
        time.sleep(0.1)
    raise BackendError("The service did not start; see its messages above.")


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


def _project(client: LabelStudio, data: Path, filenames: list[str], settings: Settings) -> int:
    """The demo's project with its images in it, connected; made once and found again."""
    known = next((p for p in client.projects() if p["title"] == TITLE), None)
    if known is None:
        known = client.create_project(TITLE, label_config(CLASSES))
    project_id = int(known["id"])
    client.add_local_folder(project_id, data / "images" / "digits")
    if not known.get("task_number"):
        tasks = [{"image": f"/data/local-files/?d=digits/{name}", "filename": name} for name in filenames]
        client.import_tasks(project_id, tasks)
    connect(client, project_id, f"{settings.url}/hosts/{host_slug(client.url)}")
    return project_id


def _welcome(studio: EmbeddedLabelStudio, settings: Settings, project_id: int, data: Path) -> str:
    beside = _beside(studio, data, settings.port)
    exports = "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in beside.items())
    return f"""
  Label Studio   {studio.url}/projects/{project_id}/
  log in as      {studio.username}   password  {studio.password}
  then click     "Label All Tasks": the images come in the order the model chose;
                 the tab "Active learning queue" shows the same order
  this service   {settings.url}/projects
  data folder    {settings.data_dir}
  token          {studio.token}
  all files      {data}

  To run other commands with this demo, set this in another terminal:
    {exports}"""
