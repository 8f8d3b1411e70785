"""How long a webhook waits for the store: events at a steady rate while a worker process reconciles without a pause.

    python benchmarks/inbox.py --rate 100 --seconds 20

Prints the milliseconds of `Inbox.record` (p50, p99, worst), counted from the moment an event was to be sent, so that a
stall is charged to every event behind it; and whether every event is there afterwards.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml_backend.records import Annotation, LabelSchema, ProjectKey, Task
from ml_backend.store.database import Database
from ml_backend.store.events import Inbox
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.worker.loop import NICENESS

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

KEY = ProjectKey("http://label-studio", 1)
SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog"))
START = datetime(2026, 1, 1, tzinfo=UTC)


def worker(url: str, tasks: int, stop: Event) -> None:
    """Reconcile in a loop, each time with every label changed: more writing than any real project does."""
    os.nice(NICENESS)
    ledger = Ledger(Database(url))
    project = ledger.project(KEY)
    turn = 0
    while not stop.is_set():
        turn += 1
        at, name = START + timedelta(seconds=turn), SCHEMA.labels[turn % 2]
        ledger.reconcile(
            project,
            (
                (Task(i, f"/{i}.png", {}, at), [Annotation(i, i, (name,), False, False, 1, START, at)])
                for i in range(tasks)
            ),
            full=True,
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=100, help="events a second")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=5000, help="tasks the worker reconciles in each turn")
    parser.add_argument("--threads", type=int, default=8, help="of the web process")
    parser.add_argument("--url", help="database URL; a new SQLite file by default")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        url = args.url or f"sqlite:///{Path(folder) / 'store.db'}"
        database = Database(url)
        project = Ledger(database).upsert_project(KEY, title="bench", label_config="<View/>", schema=SCHEMA)
        inbox = Inbox(database, Jobs(database))
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        process = context.Process(target=worker, args=(url, args.tasks, stop))
        process.start()
        try:
            time.sleep(2)  # the worker's start is not what is measured
            waits = load(inbox, rate=args.rate, seconds=args.seconds, threads=args.threads)
        finally:
            stop.set()
            process.join()
        kept = inbox.pending(project).events
        result = {
            name: round(float(np.percentile(waits, q)) * 1e3, 2)
            for name, q in (("p50", 50), ("p99", 99), ("worst", 100))
        }
        print(json.dumps({"milliseconds": result, "sent": len(waits), "kept": kept}))
    return 0 if kept == len(waits) else 1


def load(inbox: Inbox, *, rate: int, seconds: int, threads: int) -> list[float]:
    begin = time.perf_counter()

    def send(i: int) -> float:
        due = begin + i / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        annotation = {"id": i, "task": i % 5000, "was_cancelled": False, "updated_at": str(i)}
        inbox.record(KEY, "ANNOTATION_CREATED", {"annotation": annotation})
        return time.perf_counter() - due

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(send, range(rate * seconds)))


if __name__ == "__main__":
    raise SystemExit(main())
