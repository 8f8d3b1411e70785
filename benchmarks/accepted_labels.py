"""Accepted labels into a real Label Studio and out of it again, against one by one in the same run.

    python -m benchmarks.accepted_labels                  5,000 tasks; 60 one by one before, and 60 after
    python -m benchmarks.accepted_labels --tasks 1000     a quick look

Aim: 400 labels a second on SQLite, until the last one is in place; deleting the temporary predictions comes after that.
The sync is the one that reads all of them into the ledger.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.import_labels import LABELS, project, seconds_singly
from benchmarks.live import label_studio, machine
from ml_backend.acceptance.writing import undo, write
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.services import Services
from ml_backend.settings import Settings

CERTIFICATE = "0f3a9c5512de"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument(
        "--sample", type=int, default=60, help="labels written and deleted one by one, before and after"
    )
    args = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as name,
        label_studio(Path(name)) as server,
        LabelStudio(server.url, server.token) as client,
    ):
        settings = Settings(
            label_studio_url=server.url, label_studio_api_key=server.token, data_dir=Path(name) / "backend"
        )
        services = Services.open(settings)
        print(json.dumps(measured(client, services, args.tasks, args.sample), indent=2))
        services.database.close()
    return 0


def measured(client: LabelStudio, services: Services, tasks: int, sample: int) -> dict[str, Any]:
    """Labels a second written, read, and taken back; one by one is measured on both sides, in a project as large."""
    report: dict[str, Any] = {"machine": machine(), "tasks": tasks}
    (one_by_one, ids), (number, accepted) = project(client, tasks), project(client, tasks)
    config = client.get_project(number)["label_config"]
    known = services.registry.register(client.url, number, config, created=None)
    known, _ = services.label_sync.sync(known, full=True)
    labels = {task_id: LABELS[place % 2] for place, task_id in enumerate(accepted)}
    created, deleted = seconds_singly(client, one_by_one, ids[:sample], 1), seconds_deleting(client, ids[:sample])

    noted: list[float] = []
    began = time.perf_counter()
    done = write(known, CERTIFICATE, labels, client, services.jobs, lambda _: noted.append(time.perf_counter() - began))
    rates = {"written, until in place": noted[-1], "written, until tidied up": time.perf_counter() - began}
    rates["read into the ledger"] = seconds(lambda: services.label_sync.sync(known, full=False, lazily=True))
    counts = services.ledger.counts(known)
    rates["taken back"] = seconds(lambda: undo(known, CERTIFICATE, client, services.jobs))

    created += seconds_singly(client, one_by_one, ids[sample : 2 * sample], 1)
    deleted += seconds_deleting(client, ids[sample : 2 * sample])
    if (len(done.written), counts.accepted, client.unlabelled(number)) != (tasks, tasks, tasks):
        raise SystemExit(f"not every label was written, read and taken back: {len(done.written)}, {counts.accepted}")
    report |= {f"{name}, s": round(taken, 1) for name, taken in rates.items()}
    report |= {f"{name}, labels/s": round(tasks / taken) for name, taken in rates.items()}
    report["one by one, written, labels/s"] = round(2 * sample / created, 1)
    report["one by one, deleted, labels/s"] = round(2 * sample / deleted, 1)
    return report


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def seconds_deleting(client: LabelStudio, ids: Sequence[int]) -> float:
    annotations = [annotation["id"] for task_id in ids for annotation in client.task(task_id)["annotations"]]
    began = time.perf_counter()
    for number in annotations:
        client.delete_annotation(number)
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
