"""`import-labels` onto existing tasks of a real Label Studio, against the same one by one in the same run.

    python -m benchmarks.import_labels                  5,000 tasks; 150 one by one before, and 150 after
    python -m benchmarks.import_labels --tasks 1000     a quick look

One by one is measured twice: a request at a time, and four at a time, as `import-labels` did it before. Aim: 50 times faster
than one by one. The time until the command ends includes deleting the temporary predictions; the labels are there before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.live import label_studio, machine
from ml_backend.imports.annotations import WRITERS, import_labels
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import annotation_result

LABELS = ("cat", "dog")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--sample", type=int, default=150, help="labels written one by one, before and after each")
    args = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as name,
        label_studio(Path(name)) as server,
        LabelStudio(server.url, server.token) as client,
    ):
        print(json.dumps(compared(client, args.tasks, args.sample), indent=2))
    return 0


def compared(client: LabelStudio, tasks: int, sample: int) -> dict[str, Any]:
    """Labels a second in each way; the two projects are as large, and one by one is measured on both sides."""
    report: dict[str, Any] = {"machine": machine(), "tasks": tasks}
    (one_by_one, ids), (at_once, names) = project(client, tasks), project(client, tasks)
    half = sample // 2
    parts = [ids[start : start + half] for start in range(0, 4 * half, half)]
    singly = [seconds_singly(client, one_by_one, parts[0], 1), seconds_singly(client, one_by_one, parts[1], WRITERS)]
    planned, placed, ended = seconds_at_once(client, at_once, names)
    singly[1] += seconds_singly(client, one_by_one, parts[2], WRITERS)
    singly[0] += seconds_singly(client, one_by_one, parts[3], 1)
    rates = [2 * half / seconds for seconds in singly]
    for name, rate in zip(("a request at a time", f"{WRITERS} at a time"), rates, strict=True):
        report[f"one by one, {name}, labels/s"] = round(rate, 1)
    report["of this, reading what is there, s"] = round(planned, 1)
    for name, seconds in (("labels in place", placed), ("command ended", ended), ("writing alone", placed - planned)):
        report[f"{name}, s"] = round(seconds, 1)
        report[f"{name}, labels/s"] = round(tasks / seconds)
        report[f"{name}, times one by one"] = [round(tasks / seconds / rate, 1) for rate in rates]
    return report


def project(client: LabelStudio, tasks: int) -> tuple[int, list[int]]:
    number = int(client.create_project("labels to come", label_config(LABELS))["id"])
    client.import_tasks(number, [{"image": f"/data/local-files/?d=images/{index:06}.png"} for index in range(tasks)])
    return number, [task.id for task in client.tasks(number)]


def seconds_singly(client: LabelStudio, number: int, ids: Sequence[int], writers: int) -> float:
    result = annotation_result(client.schema(number), LABELS[:1])
    began = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(lambda task_id: client.create_annotation(task_id, result, lead_time=0.0), ids))
    return time.perf_counter() - began


def seconds_at_once(client: LabelStudio, number: int, ids: Sequence[int]) -> tuple[float, float, float]:
    """Seconds until it is known what to write, until the last label is in place, and until nothing temporary is left."""
    given = {str(task_id): [LABELS[place % 2]] for place, task_id in enumerate(ids)}
    schema, noted = client.schema(number), list[float]()
    began = time.perf_counter()

    def note(_: int) -> None:
        noted.append(time.perf_counter() - began)

    report = import_labels(number, schema, given, client, on_progress=note)
    ended = time.perf_counter() - began
    found = {str(task.id): [list(a.labels) for a in annotations] for task, annotations in client.annotated(number)}
    if report.written != len(ids) or found != {task_id: [labels] for task_id, labels in given.items()}:
        raise SystemExit(f"not every task has its one label: {report.written} of {len(ids)} written")
    return noted[0], noted[-1], ended


if __name__ == "__main__":
    raise SystemExit(main())
