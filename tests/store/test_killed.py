"""The store's writers, killed at any line: what is left is either the state before or the state after.

A child process counts the lines it runs inside the store and dies at a given one, without any clean-up. So the moments
are spread over the whole work, and a failure can be repeated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.store import reconcile as reconcile_module
from ml_backend.store.consensus import consensus
from ml_backend.store.database import Database
from ml_backend.store.events import Inbox
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.schema import jobs as jobs_table
from ml_backend.store.version import Verdict
from ml_backend.store.version_meta import VersionMeta
from tests.fakes import FakeClock, FakeLabelStudio, quick_database
from tests.readings import answers_to

pytestmark = pytest.mark.slow

STORE = str(Path(reconcile_module.__file__).parent)
KEY = ProjectKey("http://label-studio", 1)
SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog"))
KILLED, SURVIVED, BROKEN = 9, 0, 1


@pytest.fixture(params=[4, pytest.param(16, marks=pytest.mark.slow)], ids=str)
def moments(request: pytest.FixtureRequest) -> int:
    """At how many moments a work is killed."""
    return int(request.param)


def run_until(work: Callable[[], Any], line: int | None) -> tuple[int, int]:
    """Run `work` in a child that dies at its `line`-th line in the store. Returns its exit code, and lines run if it lived."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lines = 0

        def count(frame: Any, event: str, _argument: Any) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.startswith(STORE):
                return None
            if event == "line":
                lines += 1
                if lines == line:
                    os._exit(KILLED)
            return count

        try:
            sys.settrace(count)
            work()
            sys.settrace(None)
            os.write(writer, str(lines).encode())
        except BaseException as error:  # noqa: BLE001 - a child must not come back into pytest
            os.write(2, repr(error).encode())
            os._exit(BROKEN)
        os._exit(SURVIVED)
    os.close(writer)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:  # the time of the test is over: a child that waits for ever is not left behind
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    with os.fdopen(reader, "rb") as pipe:
        lines_run = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(status), lines_run


def killed_everywhere(
    moments: int, work: Callable[[], Any], check: Callable[[], None], reset: Callable[[], None] = lambda: None
) -> None:
    """Let `work` live once to learn its length, then kill it at moments spread over it; `check` after each."""
    code, length = run_until(work, None)
    assert code == SURVIVED
    check()
    step = max(1, length // moments)
    for line in range(1 + step // 2, length, step):
        reset()
        assert run_until(work, line)[0] == KILLED
        check()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    quick_database(tmp_path).close()
    return tmp_path


def opened(folder: Path) -> Database:
    """A connection of one's own: none may be carried into a child."""
    return quick_database(folder)


def known(database: Database) -> Project:
    return Ledger(database).upsert_project(KEY, title="Pets", label_config="<View/>", schema=SCHEMA)


def test_a_reconcile_killed_anywhere_leaves_each_task_whole_and_the_next_one_mends_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    monkeypatch.setattr(reconcile_module, "CHUNK", 7)
    studio = FakeLabelStudio()
    tasks = [studio.create_task(1, f"/{n}.png") for n in range(30)]
    for n, task in enumerate(tasks):
        studio.annotate(task.id, "cat" if n % 3 else "dog", annotator=1)
    turn = 0

    def reset() -> None:
        """Change every label, skip some and delete some, so that each reconcile has everything to do."""
        nonlocal turn
        turn += 1
        for n, annotation in enumerate(list(studio.annotations.values())):
            studio.update(annotation.id, ("cat", "dog")[(n + turn) % 2], skip=(n + turn) % 5 == 0)
        extra = studio.create_task(1)
        studio.annotate(extra.id, "cat", annotator=2)
        studio.delete_task(min(studio.tasks))

    def work() -> None:
        database = opened(folder)
        Ledger(database).reconcile(known(database), studio.listing(1), full=True, now=studio.clock.now)

    def check() -> None:
        database = opened(folder)
        ledger, project = Ledger(database), known(database)
        held = {label.task_id: label for label in ledger.labels(project)}
        for task in ledger.tasks(project):
            verdict = consensus(answers_to(ledger, project, task.id), SCHEMA, project.rule)
            assert held.get(task.id) == verdict.label
        ledger.reconcile(project, studio.listing(1), full=True, now=studio.clock.now)
        truth = {t.id: consensus(a, SCHEMA, project.rule).label for t, a in studio.listing(1)}
        assert {x.task_id: x for x in ledger.labels(project)} == {i: x for i, x in truth.items() if x is not None}
        database.close()

    killed_everywhere(moments, work, check, reset)


def test_a_publish_killed_anywhere_leaves_a_whole_version_or_none(folder: Path, moments: int) -> None:
    root = folder / "models"

    def weights(path: Path) -> None:
        (path / "head.safetensors").write_bytes(b"weights")

    def work() -> None:
        database = opened(folder)
        versions, project = Versions(root, database), known(database)
        number = versions.next_number(project)
        versions.publish(project, number, weights, VersionMeta(classes=["cat", "dog"]), verdict=Verdict())

    def check() -> None:
        database = opened(folder)
        versions, project = Versions(root, database), known(database)
        versions.sweep()
        on_disk = {p.name for p in (root / str(project.id)).glob("*") if p.name != ".lock"}
        assert on_disk == {version.name for version in versions.list(project)}
        for version in versions.list(project):
            assert (versions.folder(version) / "head.safetensors").read_bytes() == b"weights"
        current = versions.current(project)
        assert current is not None
        assert (current.state, current.number) == ("promoted", versions.list(project)[0].number), "it is served at once"
        database.close()

    killed_everywhere(moments, work, check)


def test_pins_and_verdicts_killed_anywhere_serve_the_newest_version_that_was_good_enough(
    folder: Path, moments: int
) -> None:
    root = folder / "models"

    def work() -> None:
        database = opened(folder)
        versions, project = Versions(root, database), known(database)
        for reason in (None, None, "worse"):
            versions.publish(project, versions.next_number(project), lambda _: None, verdict=Verdict(reason))
            versions.pin(project, 1)
        versions.unpin(project)

    def check() -> None:
        database = opened(folder)
        versions, project = Versions(root, database), known(database)
        versions.sweep()
        versions.unpin(project)
        current = versions.current(project)
        assert current is not None
        passed = [v.number for v in versions.list(project) if v.state in {"passed", "promoted"}]
        assert (current.number, versions.pinned(project)) == (max(passed), False)
        assert all(version.state != "candidate" for version in versions.list(project))
        database.close()

    killed_everywhere(moments, work, check)


def test_a_job_killed_anywhere_is_never_stuck_and_never_doubled(folder: Path, moments: int) -> None:
    clock = FakeClock()

    def work() -> None:
        database = opened(folder)
        jobs, project = Jobs(database, clock=clock), known(database)
        inbox = Inbox(database, jobs, clock=clock)
        inbox.record(KEY, "START_TRAINING", {})
        job = jobs.claim("worker")
        assert job is not None
        jobs.heartbeat(job, 0.5, "training")
        inbox.record(KEY, "START_TRAINING", {})
        jobs.fail(job, "boom")
        jobs.mark_due(project, immediately=True, reason="test")
        again = jobs.claim("worker")
        assert again is not None
        jobs.finish(again)

    def check() -> None:
        database = opened(folder)
        jobs, project = Jobs(database, clock=clock), known(database)
        assert count(database, "running") <= 1
        assert count(database, "due") <= 1
        asked = Inbox(database, jobs, clock=clock).pending(project).events
        assert asked == 0 or jobs.history(project)  # no event without its job
        for _ in range(5):  # whatever was left is taken up by the next worker, and comes to its end
            clock.advance(3600)
            if (job := jobs.claim("next")) is not None:
                jobs.finish(job)
        assert (count(database, "running"), count(database, "due")) == (0, 0)
        database.close()

    def count(database: Database, state: str) -> int:
        with database.read() as connection:
            statement = sa.select(sa.func.count()).select_from(jobs_table).where(jobs_table.c.state == state)
            return int(connection.scalar(statement) or 0)

    killed_everywhere(moments, work, check)


def test_opening_a_store_killed_anywhere_can_be_done_again(tmp_path: Path, moments: int) -> None:
    turn = 0

    def fresh() -> None:
        nonlocal turn
        turn += 1

    def url() -> str:
        return f"sqlite:///{tmp_path / f'{turn}.db'}"

    def check() -> None:
        database = Database(url())
        assert known(database).key == KEY
        database.close()

    killed_everywhere(moments, lambda: Database(url()), check, fresh)
