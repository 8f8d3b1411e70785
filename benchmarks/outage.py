"""Label Studio stopped in the middle of a cycle and started again later: how long until its queue is right by itself?

    python -m benchmarks.outage --seconds 60

The running service is left alone; nobody asks for anything. Printed: seconds from Label Studio's start until the queue
it serves is the round computed from every label, and how often the job was put off meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks.live import live_service, machine
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.store.job import Job
from ml_backend.store.rounds import Round
from tests.e2e.stack import Stack, wait_until
from tests.readings import read_back


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long Label Studio is away")
    parser.add_argument("--after", type=float, default=0.3, help="seconds between the cycle's start and the stop")
    parser.add_argument("--tasks", type=int, default=1000)
    args = parser.parse_args(argv)
    with live_service(args.tasks) as (server, stack):
        before, labels = stack.round_after(0), stack.settings.train_after_labels
        for _ in range(labels):
            stack.label_next()
        job = wait_until(lambda: running(stack), "running job")
        time.sleep(args.after)
        server.stop()
        hit = stack.services.ledger.last_round(stack.project) != before or running(stack) is not None
        delays = wait_away(stack, args.seconds)
        seconds = come_back(server, stack, before, labels)
    report = {
        "seconds from the start of Label Studio to the right queue": round(seconds, 1),
        "stopped in the middle of the cycle": hit and delays > 0,
        "job put off": delays,
        "job": job.id,
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if report["stopped in the middle of the cycle"] else 2


def running(stack: Stack) -> Job | None:
    return stack.services.jobs.status(stack.project).running


def wait_away(stack: Stack, seconds: float) -> int:
    """Let the time pass; how often the job was put off in it."""
    delays, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        due = stack.services.jobs.status(stack.project).due
        delays = max(delays, due.delays if due else 0)
        time.sleep(0.2)
    return delays


def come_back(server: EmbeddedLabelStudio, stack: Stack, before: Round, labels: int) -> float:
    """Start Label Studio; seconds from when it answers until it serves the new round, with every label learned."""
    server.start()
    began = time.monotonic()

    def right() -> bool:
        last = stack.services.ledger.last_round(stack.project)
        if last is None or last.number == before.number or last.state != "verified":
            return False
        served = read_back(stack.client, stack.project_id, last.served_name)
        counted = stack.services.ledger.counts(stack.project).labelled
        current = stack.client.get_project(stack.project_id)["model_version"]
        return served == stack.ranking(last) and counted == labels and current == last.served_name

    wait_until(right, "right queue")
    return time.monotonic() - began


if __name__ == "__main__":
    raise SystemExit(main())
