"""How long our webhook takes under load, while the worker trains; and whether every event is kept.

    python -m benchmarks.webhook_load --rate 100 --seconds 60

Starts a Label Studio and this service on 127.0.0.1. Events are sent at a steady rate, each on a connection of its own as
Label Studio does it, whether or not the ones before are answered; the time is counted from when an event was due, so
that a stall is charged to every event behind it. Aim: p99 below 50 ms, no event lost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa

from benchmarks.live import Spread, Training, live_service, machine
from ml_backend.hosts import host_slug
from ml_backend.store.schema import events
from tests.e2e.stack import Stack

LIMIT_MS = 50.0
MOST_PER_SECOND, LONGEST_SECONDS = 500, 600
ACTION = "ANNOTATION_CREATED"
SENDER = Path(__file__).parent / "sender.py"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=100, help="events a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=600, help="images in the project that is trained on")
    parser.add_argument("--threads", type=int, default=32, help="events under way at most")
    args = parser.parse_args(argv)
    if not (0 < args.rate <= MOST_PER_SECOND and 0 < args.seconds <= LONGEST_SECONDS):
        parser.error(f"at most {MOST_PER_SECOND} events a second for {LONGEST_SECONDS} s")
    with live_service(args.tasks) as (_, stack), Training(stack) as training:
        load(stack, rate=args.rate, seconds=2, threads=args.threads)  # warms up connections and caches
        before = kept_events(stack)
        waits, answers = load(stack, rate=args.rate, seconds=args.seconds, threads=args.threads)
        share, kept = training.share(), kept_events(stack) - before
    spread = Spread.of(waits)
    report = {
        "milliseconds": asdict(spread),
        "sent": len(waits),
        "answers": dict(answers),
        "kept": kept,
        "training": share,
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if spread.p99 < LIMIT_MS and kept == len(waits) else 1


def load(stack: Stack, *, rate: int, seconds: int, threads: int) -> tuple[list[float], Counter[int]]:
    """Send `rate * seconds` events as Label Studio does; seconds from due to answered, and how many of each status."""
    url = f"{stack.settings.url}/hosts/{host_slug(stack.client.url)}/webhook?project={stack.project_id}"
    command = [sys.executable, str(SENDER), url, json.dumps({"action": ACTION}), *map(str, (rate, seconds, threads))]
    answered = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return [wait for wait, _ in answered], Counter(status for _, status in answered)


def kept_events(stack: Stack) -> int:
    """How many events of this kind are in the store: nobody else here creates annotations."""
    with stack.services.database.read() as connection:
        statement = sa.select(sa.func.count()).select_from(events).where(events.c.action == ACTION)
        return int(connection.scalar(statement) or 0)


if __name__ == "__main__":
    raise SystemExit(main())
