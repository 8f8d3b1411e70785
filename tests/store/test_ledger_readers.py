"""Readers only read, and no answer is lost between one who judges anew and one who reconciles at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.records import LabelSchema
from ml_backend.store.database import Database
from ml_backend.store.ledger import Ledger
from tests.conftest import full, known, names
from tests.fakes import FakeLabelStudio, quick_database

LARGER = LabelSchema("choice", "image", "image", ("cat", "dog", "owl"))
SMALLER = LabelSchema("choice", "image", "image", ("dog",))


def test_no_reader_of_a_project_writes(ledger: Ledger, studio: FakeLabelStudio, database: Database) -> None:
    project = known(ledger)
    for name in ("cat", "dog"):
        studio.annotate(studio.create_task(1).id, name)
    full(ledger, project, studio)
    changed = known(ledger, schema=SMALLER)
    with forbidden(database):
        ledger.counts(changed)
        ledger.labels(changed)
        ledger.label_digest(changed)
        list(ledger.rows(changed))
        rows = ledger.pool(changed)
    assert rows.labelled.tolist() == [False, True], "a label that left the config is none, judged anew or not"
    assert rows.labels.tolist() == [-1, 0]


@pytest.mark.slow
def test_an_answer_reconciled_at_any_moment_of_judging_anew_is_kept(tmp_path: Path) -> None:
    """The other one steps in before each statement in turn, and runs as far as the database lets it."""
    database, other = quick_database(tmp_path), quick_database(tmp_path)
    ledger, studio = Ledger(database), FakeLabelStudio()
    project = known(ledger)
    tasks = [studio.create_task(1) for _ in range(3)]
    given = [studio.annotate(task.id, "cat") for task in tasks]
    full(ledger, project, studio)
    moment, met = 0, True
    while met:
        moment += 1
        project = known(ledger, schema=LARGER if moment % 2 else LabelSchema(**{**vars(LARGER), "guess": "guess"}))
        for annotation in given:
            studio.update(annotation.id, "dog" if moment % 2 else "cat")
        extra = studio.annotate(studio.create_task(1).id, "owl")
        work = threading.Thread(target=full, args=(Ledger(other), project, studio), daemon=True)
        with stepping_in(database, other, work, moment) as meeting:
            ledger.reconcile(project, [], full=False)
        met = meeting()
        assert names(ledger, project) == {a.task_id: a.labels for a in studio.annotations.values()}, f"moment {moment}"
        studio.delete_task(extra.task_id)
    assert moment > 10
    database.close()
    other.close()


@contextmanager
def forbidden(database: Database) -> Iterator[None]:
    def refuse(*arguments: Any) -> None:
        assert not arguments[2].startswith(("INSERT", "UPDATE", "DELETE")), arguments[2]

    sa.event.listen(database.engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", refuse)


@contextmanager
def stepping_in(
    database: Database, other: Database, work: threading.Thread, moment: int
) -> Iterator[Callable[[], bool]]:
    """Start `work` before the given statement and let it run until it ends or waits; it has ended when this returns.

    What is yielded tells whether there was such a statement.
    """
    statements = 0

    def step(connection: Connection, *_: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == moment:
            work.start()
            while work.is_alive() and not _waits(connection, other):
                time.sleep(0.001)

    sa.event.listen(database.engine, "before_cursor_execute", step)
    try:
        yield lambda: statements >= moment
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", step)
        if statements < moment:
            work.start()
        work.join(120)
        assert not work.is_alive()


def _waits(connection: Connection, other: Database) -> bool:
    """Whether the other one waits for what this transaction holds."""
    if other.is_sqlite:
        return bool(connection.get_execution_options().get("writes"))
    with other.engine.connect() as looking:
        return bool(looking.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar())


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from ml_backend.store import reconcile

    monkeypatch.setattr(reconcile, "PIECE", 2)
