"""Nobody waits twice for what takes long to count, and nobody is told old counts of what does not."""

from __future__ import annotations

import threading
from dataclasses import replace

from ml_backend.store.known_counts import KnownCounts
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import Counts


def test_a_small_project_is_counted_anew_each_time(ledger: Ledger, project: Project) -> None:
    counts = ledger.counts(project)
    numbers = iter(range(100))
    moment = [0.0]
    known = KnownCounts(lambda _: replace(counts, tasks=next(numbers)), clock=lambda: moment[0])
    told = []
    for _ in range(3):
        told.append(known.of(project).tasks)
        moment[0] += 0.001
    assert told == [0, 1, 2]


def test_a_large_one_is_counted_beside_the_request(ledger: Ledger, project: Project) -> None:
    counts = ledger.counts(project)
    moment, go_on, counted = [0.0], threading.Event(), threading.Event()
    made: list[int] = []

    def count(_: Project) -> Counts:
        if made:
            assert go_on.wait(10)
        made.append(len(made))
        moment[0] += 1.0
        counted.set()
        return replace(counts, tasks=made[-1])

    known = KnownCounts(count, clock=lambda: moment[0])
    assert known.of(project).tasks == 0, "the first one waits"
    assert known.of(project).tasks == 0, "counting rests"
    assert len(made) == 1
    moment[0] += 21.0
    counted.clear()
    assert [known.of(project).tasks for _ in range(5)] == [0] * 5, "nobody waits"
    go_on.set()
    assert counted.wait(10)
    for thread in threading.enumerate():
        if thread.name == "counts":
            thread.join(10)
    assert known.of(project).tasks == 1
    assert len(made) == 2, "five who look are one count"
