from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from ml_backend.errors import ConfigError
from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.store import database as store
from ml_backend.store.database import Database
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from tests.conftest import SQLITE_ENGINE

SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog"))


def add_one(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE numbers SET n = n + 1")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


def test_a_new_store_is_made_on_opening_with_an_id_that_stays(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'folder' / 'store.db'}"
    assert Database(url).store_id == Database(url).store_id


def test_sqlite_runs_as_it_must(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_sqlite_engine", SQLITE_ENGINE)
    with Database(url).read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_write_that_raises_leaves_nothing(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")

    def insert_and_raise() -> None:
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert_and_raise()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM numbers").scalar() == 0


def test_a_read_sees_one_moment_while_others_write(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
    with database.read() as reader:
        before = reader.exec_driver_sql("SELECT n FROM numbers").scalar()
        with database.write() as connection:
            add_one(connection)
        assert reader.exec_driver_sql("SELECT n FROM numbers").scalar() == before
    with database.read() as reader:
        assert reader.exec_driver_sql("SELECT n FROM numbers").scalar() == 2


def test_threads_that_read_then_write_lose_no_update(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO numbers VALUES (0)")

    def count() -> None:
        for _ in range(20):
            with database.write(bulk=True) as connection:
                n = connection.exec_driver_sql("SELECT n FROM numbers").scalar_one()
                connection.exec_driver_sql("UPDATE numbers SET n = ?", (n + 1,))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT n FROM numbers").scalar() == 80


def test_migrations_run_once_in_order_and_a_new_store_needs_none(url: str) -> None:
    def make(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO numbers VALUES (0)")

    Database(url, migrations=())
    Database(url, migrations=(make,))
    Database(url, migrations=(make, add_one))
    Database(url, migrations=(make, add_one))
    with Database(url, migrations=(make, add_one)).read() as connection:
        assert connection.exec_driver_sql("SELECT n FROM numbers").scalar() == 1
        assert connection.exec_driver_sql("SELECT schema_version FROM store").scalar() == 3


def test_a_migration_that_fails_leaves_the_store_as_it_was(url: str) -> None:
    def breaks(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")
        raise ZeroDivisionError

    Database(url, migrations=())
    with pytest.raises(ZeroDivisionError):
        Database(url, migrations=(breaks,))
    with Database(url, migrations=()).read() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM store").scalar() == 1
        assert not connection.exec_driver_sql("SELECT * FROM sqlite_master WHERE name = 'numbers'").all()


def test_a_store_of_a_newer_release_is_not_touched(url: str) -> None:
    Database(url, migrations=(lambda _connection: None,))
    with pytest.raises(ConfigError, match="newer release"):
        Database(url, migrations=())


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("mysql://me@localhost/store", "not a supported database"),
        ("store.db", "cannot be read"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
    ],
)
def test_a_wrong_url_says_what_to_write_instead(bad: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Database(bad)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("this is a shopping list, and long enough to be read as a header " * 20)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database(f"sqlite:///{path}")


def open_and_work(url: str, number: int, barrier: Barrier) -> None:
    barrier.wait(300)
    database = Database(url)
    ledger, jobs = Ledger(database), Jobs(database)
    for n in range(5):
        project = ledger.upsert_project(
            ProjectKey("http://label-studio", n), title="Pets", label_config="<View/>", schema=SCHEMA
        )
        jobs.mark_due(project, labels=1, reason=f"process {number}")


@pytest.mark.slow
def test_processes_started_together_make_one_sound_store_and_lose_no_mark(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=open_and_work, args=(url, n, barrier), daemon=True) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    database = Database(url)
    found = Ledger(database).projects()
    assert sorted(p.key.project_id for p in found) == [0, 1, 2, 3, 4]
    due = [Jobs(database).status(p).due for p in found]
    assert [job and job.labels for job in due] == [3] * 5
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
