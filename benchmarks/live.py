"""What the benchmarks of the running service share: a real Label Studio, the service beside it, and endless training."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np

from ml_backend.demo.label_studio import CONNECTED, EmbeddedLabelStudio, find_binary
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.results import annotation_result
from ml_backend.records import Annotation
from ml_backend.store.job import Job
from tests.e2e.stack import Stack, running

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def label_studio(folder: Path) -> Iterator[EmbeddedLabelStudio]:
    """A Label Studio of one's own in `folder`; its first start takes half a minute."""
    binary = find_binary(ROOT, os.environ)
    if binary is None:
        raise SystemExit("no Label Studio: run `make setup`, or set LABEL_STUDIO_BIN")
    (folder / "files").mkdir()
    with EmbeddedLabelStudio(binary, folder / "data", document_root=folder / "files", environment=CONNECTED) as server:
        yield server


@contextmanager
def live_service(tasks: int, **environment: str) -> Iterator[tuple[EmbeddedLabelStudio, Stack]]:
    """Label Studio, the service as `ml-backend serve` runs it, and a connected project of so many images."""
    with (
        tempfile.TemporaryDirectory() as name,
        label_studio(Path(name)) as server,
        LabelStudio(server.url, server.token) as client,
        running(server, client, Path(name), tasks=tasks, **environment) as stack,
    ):
        stack.round_after(0)
        yield server, stack


class Training(threading.Thread):
    """Keeps the worker training: imports labelled tasks, then changes an answer whenever a training has started."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.stack, self.over = stack, threading.Event()
        self.began = datetime.now(UTC)
        self.failed: Exception | None = None

    def label_all(self) -> None:
        """Import the images once more, labelled; return when that has been trained on."""
        stack, before = self.stack, self.stack.services.ledger.last_round(self.stack.project)
        stack.client.import_tasks(
            stack.project_id,
            [
                {
                    "data": {"image": f"/data/local-files/?d=samples/digits/{name}", "filename": name},
                    "annotations": [{"result": annotation_result(stack.schema, [label])}],
                }
                for name, label in stack.truth.items()
            ],
        )
        stack.services.jobs.mark_due(stack.project, immediately=True, reason="benchmark")
        stack.round_after(before.number if before else 0)

    def run(self) -> None:
        try:
            self.change_answers()
        except Exception as error:  # noqa: BLE001 - told by `share`, in the benchmark's own thread
            self.failed = error

    def change_answers(self) -> None:
        stack, rng = self.stack, random.Random(0)
        answers = self.answers()
        while not self.over.wait(0.1):
            status = stack.services.jobs.status(stack.project)
            if status.due is None:
                label = rng.choice(stack.schema.labels)
                stack.client.update_annotation(rng.choice(answers).id, result=annotation_result(stack.schema, [label]))
                stack.services.jobs.mark_due(stack.project, immediately=True, reason="benchmark")

    def answers(self) -> Sequence[Annotation]:
        listed = self.stack.client.annotated(self.stack.project_id, schema=self.stack.schema)
        return [answer for _, given in listed for answer in given]

    def __enter__(self) -> Self:
        self.label_all()
        self.began = datetime.now(UTC)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def share(self) -> dict[str, float]:
        """Share of the time so far in which a cycle was running, and in which it trained; how many ended."""
        if self.failed:
            raise self.failed
        ended = [job for job in self.stack.services.jobs.history(self.stack.project, limit=10_000) if self.counts(job)]
        seconds = (datetime.now(UTC) - self.began).total_seconds()
        ran = sum(
            (job.finished_at - job.started_at).total_seconds() for job in ended if job.finished_at and job.started_at
        )
        trained = sum(float((job.summary or {}).get("seconds", {}).get("train", 0.0)) for job in ended)
        return {"running": round(ran / seconds, 2), "in train": round(trained / seconds, 2), "cycles": len(ended)}

    def counts(self, job: Job) -> bool:
        return job.state == "done" and job.started_at is not None and job.started_at > self.began


@dataclass(frozen=True)
class Spread:
    """Milliseconds of many measurements."""

    p50: float
    p90: float
    p99: float
    worst: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        return cls(*(round(float(np.percentile(seconds, q)) * 1e3, 2) for q in (50, 90, 99, 100)))


def machine() -> str:
    """What else the machine is doing: figures of a busy one are not to be believed."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
