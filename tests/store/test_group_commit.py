from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from ml_backend.store.database import Database
from ml_backend.store.group_commit import GroupCommit
from tests.fakes import POSTGRESQL, quick_database


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.delenv(POSTGRESQL, raising=False)
    opened = quick_database(tmp_path)
    with opened.write() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER)")
    yield opened
    opened.close()


def keep(number: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
        if number % 5 == 0:
            raise ValueError(f"{number} is refused")
        return number

    return work


def kept(database: Database) -> set[int]:
    with database.read() as connection:
        return {row[0] for row in connection.exec_driver_sql("SELECT n FROM numbers")}


def behind_a_busy_writer(database: Database, together: GroupCommit, numbers: range) -> list[int | str]:
    """Let all of `numbers` queue up while somebody else writes; returns what each was told."""

    def tell(number: int) -> int | str:
        try:
            return together.write(keep(number))
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(len(numbers)) as pool:
        with database.write():
            told = [pool.submit(tell, number) for number in numbers]
            while len(together._waiting) < len(numbers):
                threading.Event().wait(0.001)
        return [future.result() for future in told]


def test_what_queues_up_is_committed_once_and_each_is_told_its_own_result(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, commits = GroupCommit(database), []
    write = database.write

    @contextmanager
    def counted(*, bulk: bool = False) -> Iterator[Connection]:
        with write(bulk=bulk) as connection:
            yield connection
        commits.append(1)

    monkeypatch.setattr(database, "write", counted)
    told = behind_a_busy_writer(database, together, range(1, 13))
    assert told == [1, 2, 3, 4, "5 is refused", 6, 7, 8, 9, "10 is refused", 11, 12]
    assert kept(database) == {1, 2, 3, 4, 6, 7, 8, 9, 11, 12}
    assert len(commits) == 2  # the busy writer's, and one for all of them


def test_nobody_is_told_that_it_was_kept_if_the_commit_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, write, calls = GroupCommit(database), database.write, []

    @contextmanager
    def fails_after_the_first(*, bulk: bool = False) -> Iterator[Connection]:
        calls.append(1)
        later = len(calls) > 1
        with write(bulk=bulk) as connection:
            yield connection
            if later:
                raise OSError("disk full")

    monkeypatch.setattr(database, "write", fails_after_the_first)
    assert behind_a_busy_writer(database, together, range(1, 5)) == ["disk full"] * 4
    assert kept(database) == set()


def test_a_single_piece_of_work_waits_for_nobody(database: Database) -> None:
    together = GroupCommit(database)
    assert together.write(keep(1)) == 1
    with pytest.raises(ValueError, match="5 is refused"):
        together.write(keep(5))
    assert kept(database) == {1}
