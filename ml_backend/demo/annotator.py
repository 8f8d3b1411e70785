"""Somebody who labels the demo's images by their true labels, in the order they are served."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

from ml_backend.errors import BackendError, LabelStudioUnavailableError
from ml_backend.exports.label_rows import COLUMNS, export_rows, write_csv
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import parse_label_config
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.project_settings import settings_of
from ml_backend.services import Services
from ml_backend.store.job import Job
from ml_backend.store.projects import Project
from ml_backend.wording import measured

QUEUE_SECONDS = 120.0


@dataclass
class Annotator:
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
            task = next_task(self.client, self.project_id)
            if task is None:
                raise BackendError("Label Studio has no tasks left to serve.")
            time.sleep(pace)
            label = self.truth[task["data"]["filename"]]
            submit(self.client, task, annotation_result(schema, [label]), lead_time=pace)
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
        enough = settings_of(self.project, self.services.settings).train_after_labels
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
        return measured(self.services.versions.version(self.project, number).meta.metrics.holdout)
