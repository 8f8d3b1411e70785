"""Does Submit take longer in Label Studio when this service is connected? Pairs of submits, with and without webhook.

    python -m benchmarks.annotators_wait --pairs 200

Two projects of one Label Studio, alike but for the webhook; one answer in each, in random order, so that whatever else
the machine does meets both. The worker trains all the while. Aim: the median takes at most 1.25 times as long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import requests

from benchmarks.live import Spread, Training, live_service, machine
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.hosts import host_slug
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.results import annotation_result
from tests.e2e.stack import Stack, import_digits

LIMIT = 1.25


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=600, help="images in the project that is trained on")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between pairs")
    args = parser.parse_args(argv)
    with live_service(args.tasks) as (server, stack):
        truth = dict(list(stack.truth.items())[: args.pairs + 10])
        connected, alone = (Submits(server, stack, truth) for _ in range(2))
        connect(stack.client, connected.project_id, f"{stack.settings.url}/hosts/{host_slug(stack.client.url)}")
        with Training(stack) as training:
            pairs = measure(stack, connected, alone, args.pairs, args.pause)
            share = training.share()
        arrived = len(stack.services.inbox.ignored(stack.project))
    with_webhook, without = ([pair[i] for pair in pairs] for i in (0, 1))
    during = [pair for pair in pairs if pair[2]]
    report: dict[str, Any] = {
        "ratio of medians": ratio(pairs),
        "ratio of medians, training at that moment": ratio(during) if during else None,
        "median of paired ratios": round(statistics.median(a / b for a, b, _ in pairs), 3),
        "with webhook, ms": asdict(Spread.of(with_webhook)),
        "without, ms": asdict(Spread.of(without)),
        "pairs": len(pairs),
        "pairs while a training ran": len(during),
        "training": share,
        "unknown events": arrived,
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if report["ratio of medians"] <= LIMIT else 1


class Submits:
    """A project whose tasks are answered one after the other, as a browser would."""

    def __init__(self, server: EmbeddedLabelStudio, stack: Stack, truth: dict[str, str]) -> None:
        self.url, self.stack = server.url, stack
        self.project_id = import_digits(server, stack.client, truth)
        self.tasks = iter(
            [(task.id, truth[str(task.data["filename"])]) for task in stack.client.tasks(self.project_id)]
        )
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Token {server.token}"

    def submit(self) -> float:
        """Seconds that one Submit takes."""
        task_id, label = next(self.tasks)
        body = {"result": annotation_result(self.stack.schema, [label]), "lead_time": 1.0}
        began = time.perf_counter()
        self.session.post(f"{self.url}/api/tasks/{task_id}/annotations/", json=body, timeout=60).raise_for_status()
        return time.perf_counter() - began


def measure(
    stack: Stack, connected: Submits, alone: Submits, count: int, pause: float
) -> list[tuple[float, float, bool]]:
    """Seconds with the webhook, seconds without, and whether a training ran before and after the pair."""
    rng, pairs = np.random.default_rng(0), []
    for number in range(count + 5):
        before = is_training(stack)
        first_connected = bool(rng.integers(2))
        one = (connected if first_connected else alone).submit()
        two = (alone if first_connected else connected).submit()
        if number >= 5:  # the first few warm up Label Studio's own caches
            pairs.append((*((one, two) if first_connected else (two, one)), before and is_training(stack)))
        time.sleep(pause)
    return pairs


def is_training(stack: Stack) -> bool:
    return stack.services.jobs.status(stack.project).running is not None


def ratio(pairs: list[tuple[float, float, bool]]) -> float:
    return round(statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs), 3)


if __name__ == "__main__":
    raise SystemExit(main())
