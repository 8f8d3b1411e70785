"""Does one process grow? Predictions and cycles in turn, in a single process, against a real Label Studio.

    python -m benchmarks.memory --cycles 200 --predictions 20000

Each cycle has a new label, so it trains, publishes, prunes, scores and pushes. Printed: resident memory after every tenth,
and the last one over the first. Aim: at most 1.1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil
from fastapi.testclient import TestClient

from benchmarks.live import label_studio, machine
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.web.app import create_app
from ml_backend.worker.loop import Worker
from tests.e2e.stack import Stack, inline

LIMIT = 1.1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--predictions", type=int, default=20_000)
    parser.add_argument("--tasks", type=int, default=600)
    args = parser.parse_args(argv)
    if args.cycles < 10 or args.tasks < args.cycles + 50:
        parser.error("at least 10 cycles, and 50 tasks more than cycles: each cycle takes a label")
    with (
        tempfile.TemporaryDirectory() as name,
        label_studio(Path(name)) as server,
        LabelStudio(server.url, server.token) as client,
        inline(server, client, Path(name), tasks=args.tasks) as stack,
    ):
        began = time.perf_counter()
        resident = work(stack, args.cycles, args.predictions)
        seconds = time.perf_counter() - began
        trained = len(stack.services.versions.list(stack.project))
    ratio = round(resident[-1] / resident[0], 3)
    report = {
        "ratio": ratio,
        "MiB after each tenth": resident,
        "cycles": args.cycles,
        "versions trained": trained,
        "predictions": args.predictions,
        "seconds": round(seconds),
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if ratio <= LIMIT else 1


def work(stack: Stack, cycles: int, predictions: int) -> list[float]:
    """Label, cycle, predict, over and over; MiB of resident memory after each tenth of it."""
    worker, http, process = (
        Worker(stack.services),
        TestClient(create_app(stack.services), "http://localhost"),
        psutil.Process(),
    )
    worker.work()  # the project is due since it was registered: the first queue
    tasks = [stack.client.task(task.id) for task in list(stack.client.tasks(stack.project_id))[:100]]
    bodies = [{"id": task["id"], "data": task["data"]} for task in tasks]
    resident = []
    done = 0
    for cycle in range(1, cycles + 1):
        stack.label_next()
        stack.services.jobs.mark_due(stack.project, immediately=True, reason="benchmark")
        worker.work()
        stopped = stack.services.jobs.status(stack.project).stopped
        if stopped:
            raise SystemExit(f"the cycle failed: {stopped}")
        while done < predictions * cycle // cycles:
            some = bodies[: min(len(bodies), predictions * cycle // cycles - done)]
            answer = http.post("/predict", json={"tasks": some, "project": str(stack.project_id)})
            answer.raise_for_status()
            done += len(answer.json()["results"])
        if cycle * 10 // cycles > (cycle - 1) * 10 // cycles:
            resident.append(round(process.memory_info().rss / 2**20, 1))
    return resident


if __name__ == "__main__":
    raise SystemExit(main())
