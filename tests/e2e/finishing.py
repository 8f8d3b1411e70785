"""A project brought to its end beside a running service: people who answer what they are asked, and commands that are killed."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.worker.supervisor import die_with_parent
from tests.e2e.stack import Stack, wait_until

LOOK = 1.0
"""Seconds between looks at how far the writing is."""
RATE = 1_000
"""Labels a second that are written at most, to choose the moments of kills by."""


@dataclass(frozen=True)
class Given:
    """One annotation, as Label Studio has it. accepted: the certificate of a label that is a model's."""

    task: int
    labels: tuple[str, ...]
    annotator: int | None
    accepted: str | None


class Annotators:
    """People who take turns and always know the truth. They are quicker than any person, so where the queue is used up
    they let the service renew it before they take what Label Studio has in reserve.

    looks: answers in all. beside: tasks of them that no queue of late had asked for, which Label Studio had in reserve.
    """

    def __init__(self, stack: Stack, people: Sequence[LabelStudio]) -> None:
        self.stack, self.people = stack, people
        self.answered: set[int] = set()
        self.beside: list[int] = []

    @property
    def looks(self) -> int:
        return len(self.answered)

    def answer(self, enough: Callable[[], bool] = lambda: False) -> int:
        """Answer what is served until that is so, or until nothing is, with the service at rest; returns how many."""
        before, fresh = self.looks, False
        while not enough():
            if not fresh and not self._left():
                at_rest(self.stack)
                fresh = True
                continue
            fresh = False
            who = self.people[self.looks % len(self.people)]
            task = next_task(who, self.stack.project_id)
            if task is None:
                return self.looks - before
            self._submit(who, task)
        return self.looks - before

    def _left(self) -> set[int]:
        last = self.stack.services.ledger.last_round(self.stack.project)
        return set(self.stack.ranking(last)) - self.answered if last else set()

    def _was_asked(self, number: int) -> bool:
        """By a queue of late: Label Studio serves the former one until the next is pushed."""
        rounds = islice(self.stack.services.ledger.rounds(self.stack.project), 3)
        return any(number in self.stack.ranking(each) for each in rounds)

    def _submit(self, who: LabelStudio, task: dict[str, Any]) -> None:
        number = int(task["id"])
        assert number not in self.answered, f"task {number} is asked for twice"
        if not self._was_asked(number):
            self.beside.append(number)
        submit(who, task, annotation_result(self.stack.schema, [self.stack.truth[task["data"]["filename"]]]))
        self.answered.add(number)


def at_rest(stack: Stack) -> None:
    """Have a turn done now, and wait until no other is asked for."""
    jobs = stack.services.jobs
    jobs.mark_due(stack.project, immediately=True, reason="benchmark")

    def resting() -> bool:
        status = jobs.status(stack.project)
        assert status.stopped is None, status.stopped
        return status.due is None and status.running is None

    wait_until(resting, "quiet")


def audited(stack: Stack) -> bool:
    """Whether the audit that is on has nothing left to look at."""
    acceptance = stack.services.acceptances.auditing(stack.project)
    return acceptance is not None and acceptance.complete


def command(stack: Stack, *words: str) -> dict[str, Any]:
    """What `ml-backend ... --json` says of this project. Raises AssertionError with its words where it fails."""
    ran = subprocess.run(_line(stack, *words), env=_environment(stack), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return dict(json.loads(ran.stdout))


def exported(stack: Stack, out: Path) -> list[dict[str, str]]:
    """The rows of `export labels --include accepted`."""
    words = ("export", "labels", "--include", "accepted", "--project", str(stack.project_id), "--out", str(out))
    line = [sys.executable, "-m", "ml_backend.cli", *words]
    ran = subprocess.run(line, env=_environment(stack), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass
class Writing:
    """One run of `accept write`. Moments by `time.monotonic`; None for what it did not come to.

    began: it works, after Python and its libraries have started. in_place: every label is there. left: tasks without a label.
    """

    started: float
    began: float | None = None
    in_place: float | None = None
    ended: float = 0.0
    left: int = sys.maxsize
    looked: float = 0.0
    killed: bool = False
    said: str = ""

    @property
    def seconds(self) -> float:
        """At work, until the last label is in place or it ends."""
        return 0.0 if self.began is None else (self.in_place or self.ended) - self.began


def write(stack: Stack, remaining: int, kill: Callable[[Writing], bool] = lambda _: False) -> Writing:
    """Run `accept write` until it ends, or until `kill` says so: then it is killed, as the kernel kills what takes too much.

    remaining: tasks that have no label once everything is in place.
    """
    process = subprocess.Popen(
        _line(stack, "accept", "write"),
        env=_environment(stack),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509
    )
    run = Writing(time.monotonic())
    try:
        while process.poll() is None and not (run.began and kill(run)):
            time.sleep(0.05)
            _look(stack, process.pid, remaining, run)
    finally:
        process.kill()
        run.said, _ = process.communicate()
    run.ended, run.killed = time.monotonic(), process.returncode == -signal.SIGKILL
    run.left = stack.client.unlabelled(stack.project_id)
    assert run.killed or process.returncode == 0, run.said
    return run


def _look(stack: Stack, pid: int, remaining: int, run: Writing) -> None:
    """Note how far it is; Label Studio is asked seldom, as it has better things to do."""
    now = time.monotonic()
    if run.began is None:
        running = stack.services.jobs.status(stack.project).running
        run.began = now if running is not None and (running.worker or "").endswith(f":{pid}") else None
    elif run.in_place is None and now - run.looked >= LOOK:
        run.left, run.looked = stack.client.unlabelled(stack.project_id), now
        run.in_place = now if run.left <= remaining else None


def killed(stack: Stack, remaining: int, total: int, times: int, rng: random.Random) -> list[Writing]:
    """Run `accept write`, kill it at a random moment, again and again, and once to its end.

    The moments: soon after it began, and then once a random share of all is in place, of each further part of it one.
    """
    runs = []
    for place in range(times):
        share = rng.uniform(place, place + 1) / times if place else 0.0
        after = rng.uniform(0.0, 1.0 if place else 1.0 + total / times / RATE)
        runs.append(write(stack, remaining, _moment(remaining + int(total * (1 - share)), after)))
    return [*runs, write(stack, remaining)]


def _moment(left: int, after: float) -> Callable[[Writing], bool]:
    """So many seconds after at most `left` tasks are without a label."""
    reached: list[float] = []

    def now(run: Writing) -> bool:
        if not reached and run.left <= left:
            reached.append(time.monotonic())
        return bool(reached) and time.monotonic() - reached[0] >= after

    return now


def given_in(stack: Stack) -> dict[int, Given]:
    """Every annotation that Label Studio has, by its id."""
    return {
        given.id: Given(task.id, given.labels, given.annotator, given.accepted)
        for task, answers in stack.client.annotated(stack.project_id, schema=stack.schema)
        for given in answers
    }


def _line(stack: Stack, *words: str) -> list[str]:
    return [sys.executable, "-m", "ml_backend.cli", *words, "--project", str(stack.project_id), "--json"]


def _environment(stack: Stack) -> dict[str, str]:
    return {**os.environ, **stack.environment}
