"""Killed again and again while people label, webhooks are lost and faults strike: every label is there, as in Label Studio."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.errors import BackendError, NothingToAskError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from tests.e2e import acts
from tests.e2e.faults import Clock, Faults
from tests.e2e.lossy import lossy_proxy
from tests.e2e.stack import Stack, running, wait_until
from tests.postgresql import Cluster, restartable
from tests.readings import read_back

TASKS = 1000


class Annotator(threading.Thread):
    """Labels what is served; now and then skips, changes a mind, takes an answer back, or answers a task again."""

    def __init__(self, stack: Stack, who: LabelStudio, seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.stack, self.who, self.stop = stack, who, stop
        self.rng = random.Random(seed)
        self.mine: dict[int, int] = {}  # annotation id -> task id
        self.did: Counter[str] = Counter()

    def run(self) -> None:
        while not self.stop.wait(self.rng.uniform(0.1, 0.8)):
            act = self.rng.choices(
                [self.create, self.skip, self.update, self.delete, self.answer_again], [60, 10, 15, 10, 5]
            )[0]
            try:
                act()
                self.did[act.__name__] += 1
            except NothingToAskError:  # what is left of the batch is locked by the others, until it is renewed
                self.did["nothing served"] += 1
            except BackendError:  # Label Studio itself, on SQLite, refuses a request now and then
                self.did["refused"] += 1

    def create(self) -> None:
        task = self.served()
        label = self.stack.truth[task["data"]["filename"]] if self.rng.random() < 0.85 else self.any_label()
        made = submit(self.who, task, annotation_result(self.stack.schema, [label]))
        self.mine[int(made["id"])] = int(task["id"])

    def skip(self) -> None:
        acts.skip(self.who, self.served()["id"])

    def update(self) -> None:
        if self.mine:
            result = annotation_result(self.stack.schema, [self.any_label()])
            self.who.update_annotation(self.rng.choice(list(self.mine)), result=result)

    def delete(self) -> None:
        if self.mine:
            annotation = self.rng.choice(list(self.mine))
            del self.mine[annotation]
            acts.delete_annotation(self.who, annotation)

    def answer_again(self) -> None:
        if self.mine:
            self.answer(self.rng.choice(list(self.mine.values())), self.any_label())

    def served(self) -> dict[str, Any]:
        task = next_task(self.who, self.stack.project_id)
        if task is None:
            raise NothingToAskError("nothing is served")
        return task

    def answer(self, task_id: int, label: str) -> None:
        made = self.who.create_annotation(task_id, annotation_result(self.stack.schema, [label]))
        self.mine[int(made["id"])] = task_id

    def any_label(self) -> str:
        return self.rng.choice(self.stack.schema.labels)


SHORT = (pytest.mark.timeout(3_600),)
LONG = (pytest.mark.long, pytest.mark.timeout(14_400))
AFTERNOONS = {
    "fifteen-sqlite": (15, False, SHORT),
    "fifteen-postgresql": (15, True, SHORT),
    "hundred-sqlite": (120, False, LONG),
    "hundred-postgresql": (120, True, LONG),
}
"""How often is killed, whether the state is in PostgreSQL, and the marks of the run."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "postgresql"),
    [pytest.param(kills, there, id=name, marks=marks) for name, (kills, there, marks) in AFTERNOONS.items()],
)
def test_kills_and_faults_lose_no_label_and_leave_the_newest_good_version_serving(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    three_users: list[LabelStudio],
    tmp_path: Path,
    kills: int,
    postgresql: bool,
) -> None:
    with restartable() if postgresql else nullcontext() as database:
        survive(label_studio, client, three_users, tmp_path, kills, database)


def survive(
    server: EmbeddedLabelStudio,
    client: LabelStudio,
    users: list[LabelStudio],
    folder: Path,
    kills: int,
    database: Cluster | None,
) -> None:
    """Three people label while processes are killed and faults strike; then everything must be as it should."""
    port, stop, clock = free_port(), threading.Event(), Clock(folder / "clock")
    environment = {"ML_BACKEND_PORT": str(port), "ML_BACKEND_POLL_SECONDS": "5", "ML_BACKEND_LOG_LEVEL": "ERROR"}
    environment |= clock.environment | ({"ML_BACKEND_DATABASE_URL": database.url} if database else {})
    with (
        lossy_proxy(f"http://127.0.0.1:{port}", drop=0.3, double=0.1) as proxy,
        running(server, client, folder, tasks=TASKS, ML_BACKEND_URL=proxy.url, **environment) as stack,
    ):
        stack.round_after(0)
        faults = Faults(stack, clock, database, folder, random.Random(kills))
        annotators = [Annotator(stack, who, seed, stop) for seed, who in enumerate(users)]
        for annotator in annotators:
            annotator.start()
        try:
            killed = kill_at_random(stack, kills, faults)
        finally:
            stop.wait(5.0)
            stop.set()
            for annotator in annotators:
                annotator.join()
        faults.calm()
        settle(stack)
        did = sum((annotator.did for annotator in annotators), Counter())
        print(f"\nkilled {dict(killed)}; faults {dict(faults.did)}; people {dict(did)}; webhooks {dict(proxy.counts)}")
        assert sum(killed[name] for name in TARGETS) >= kills
        assert all(did[act] for act in ("create", "skip", "update", "delete", "answer_again"))
        assert all(proxy.counts[fate] for fate in ("dropped", "doubled", "passed"))
        ledger = {label.task_id: label.labels for label in stack.services.ledger.labels(stack.project)}
        assert ledger == consensus_of_export(stack)
        assert_versions_load_or_are_gone(stack)
        assert_the_newest_good_version_serves(stack)
        assert_the_last_round_is_served(stack)


def kill_at_random(stack: Stack, kills: int, faults: Faults) -> Counter[str]:
    """kill -9 at random moments, half of the worker's in the middle of a cycle; the supervisor restarts what died."""
    rng, killed = random.Random(0), Counter[str]()
    wanted = [*faults.kinds, "import-model: exit 0"]
    while sum(killed[name] for name in TARGETS) < kills or not all(faults.did[name] for name in wanted):
        time.sleep(rng.uniform(0.3, 3.0))
        if rng.random() < 0.5:
            faults.strike()
        name = rng.choices(TARGETS, [45, 40, 15])[0]
        if name == "worker" and rng.random() < 0.5:
            with suppress(AssertionError):
                wait_until(lambda: stack.services.jobs.status(stack.project).running, "running job", 20)
            time.sleep(rng.uniform(0.0, 1.0))
        busy = stack.services.jobs.status(stack.project).running is not None
        for process in processes()[name]:
            process.kill()
            killed[name] += 1
            killed["in the middle of a cycle"] += busy and name == "worker"
    return killed


TARGETS = ("worker", "web worker", "web master")


def processes() -> dict[str, list[psutil.Process]]:
    """The service's processes that live right now; a name that is just being restarted has none."""
    found: dict[str, list[psutil.Process]] = {name: [] for name in TARGETS}
    with suppress(psutil.NoSuchProcess):
        for supervisor in psutil.Process(os.getpid()).children():
            if "ml_backend.cli" not in supervisor.cmdline():
                continue
            for child in supervisor.children():
                if "ml_backend.worker.loop" in child.cmdline():
                    found["worker"].append(child)
                elif "gunicorn" in child.cmdline():
                    found["web master"].append(child)
                    found["web worker"] += child.children()
    return found


def settle(stack: Stack) -> None:
    """Wait until all that people did has been read, and nothing is under way or waiting."""
    now = stack.client.clock()

    def settled() -> bool:
        status, seen = stack.services.jobs.status(stack.project), stack.project.reconciled_at
        assert status.stopped is None, status.stopped
        return status.due is None and status.running is None and seen is not None and seen > now

    wait_until(settled, "quiet")


def consensus_of_export(stack: Stack) -> dict[int, tuple[str, ...]]:
    """One label a task from Label Studio's own JSON export, by the rule as the README tells it, written once more."""
    path = f"/api/projects/{stack.project_id}/export"
    tasks = stack.client.transport.call("GET", path, params={"exportType": "JSON", "download_all_tasks": "true"})
    decided = {task["id"]: decide(task["annotations"]) for task in tasks}
    return {task_id: (label,) for task_id, label in decided.items() if label is not None}


def decide(annotations: list[dict[str, Any]]) -> str | None:
    """One vote an annotator, their latest; majority; a tie goes to the latest vote."""
    votes: dict[int, tuple[str, str]] = {}
    for answer in sorted(annotations, key=lambda a: (a["created_at"], a["id"])):
        if not answer["was_cancelled"] and answer["result"]:
            (label,) = answer["result"][0]["value"]["choices"]
            votes.pop(answer["completed_by"], None)
            votes[answer["completed_by"]] = (answer["created_at"], label)
    counts = Counter(label for _, label in votes.values())
    return max(votes.values(), key=lambda vote: (counts[vote[1]], vote[0]))[1] if votes else None


def assert_versions_load_or_are_gone(stack: Stack) -> None:
    versions = stack.services.versions
    listed = versions.list(stack.project)
    assert any(version.state == "promoted" for version in listed)
    for version in listed:
        if version.state == "pruned":
            assert not version.folder.exists()
        else:
            stack.services.predictor.load(stack.project, version.number)
    entered = {version.name for version in listed if version.state != "pruned"}
    on_disk = {path.name for path in (versions.root / str(stack.project.id)).iterdir() if path.name != ".lock"}
    assert on_disk == entered


def assert_the_newest_good_version_serves(stack: Stack) -> None:
    """Nothing is pinned or rolled back at the end, so that it is the last one that the gate let through."""
    let_through = [v.number for v in stack.services.versions.list(stack.project) if v.state == "promoted"]
    current = stack.services.versions.current(stack.project)
    assert current is not None
    assert current.number == max(let_through)
    waiting = [v.name for v in stack.services.versions.list(stack.project) if v.state == "candidate"]
    assert not waiting, f"never judged: {waiting}"


def assert_the_last_round_is_served(stack: Stack) -> None:
    last = stack.services.ledger.last_round(stack.project)
    assert last is not None
    assert last.state == "verified"
    assert stack.client.get_project(stack.project_id)["model_version"] == last.served_name
    answered = {
        task.id
        for task, given in stack.client.annotated(stack.project_id, schema=stack.schema)
        if not all(answer.was_cancelled for answer in given)  # Label Studio asks the others for what one has skipped
    }
    assert read_back(stack.client, stack.project_id, last.served_name) == [
        task_id for task_id in stack.ranking(last) if task_id not in answered
    ]
