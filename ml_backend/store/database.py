"""The database behind the store: SQLite by default, PostgreSQL by URL; opened, created and migrated in one step."""

from __future__ import annotations

import fcntl
import random
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ml_backend.errors import ConfigError, DiskFullError, ReadOnlyError
from ml_backend.store import schema
from ml_backend.store.faults import of_sqlite, translated
from ml_backend.store.migrations import MIGRATIONS, Migration

Clock = Callable[[], datetime]

BUSY_TIMEOUT_MS = 30_000
SILENT = {"connect_timeout": "10", "keepalives_idle": "30", "tcp_user_timeout": "30000"}
"""Of libpq: a PostgreSQL whose machine is gone says nothing, and would be waited for for hours."""
CHECKPOINT_EVERY = 100  # bulk writes
MIGRATION_LOCK = 0x6C736D6C  # any number that is always the same: PostgreSQL's advisory lock while migrating


def utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """One store, shared by all processes of a service.

    `read()` is a snapshot: every statement in it sees the same moment. `write()` is one transaction, committed when the
    block ends and rolled back when it raises. On SQLite writers queue for the one write lock from their first statement
    (BEGIN IMMEDIATE), so that none fails half-way through; keep them short, because the web process waits behind them.
    Both raise StoreAwayError or DiskFullError for what passes, and ReadOnlyError for what does not.
    """

    def __init__(self, url: str, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.place = str(self.engine.url.database) if self.is_sqlite else f"at {self.engine.url.host or 'localhost'}"
        self._turn = _Turn(str(self.engine.url.database)) if self.is_sqlite else nullcontext()
        if self.is_sqlite:
            _switch_to_wal(str(self.engine.url.database))
        self._bulk_writes = 0
        self.store_id = self._migrate(migrations)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        options: dict[str, Any] = (
            {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        with (
            translated(self.place),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def write(self, *, bulk: bool = False) -> Iterator[Connection]:
        """One transaction. `bulk`: one of many in a row; afterwards all who wait may go first."""
        with translated(self.place), self._turn:
            begin = time.monotonic()
            with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                yield connection
            held = time.monotonic() - begin
        if bulk and isinstance(self._turn, _Turn):
            self._turn.let_pass(patience=min(10 * held, 0.5))
            self._checkpoint()

    def write_pieces(self, pieces: Iterable[Callable[[Connection], None]]) -> None:
        """Run many small writes in as few transactions as may be: whenever somebody waits, commit and let them pass.

        Each piece must leave the store whole, since any of them may be the last of its transaction.
        """
        rest = deque(pieces)
        while rest:
            with self.write(bulk=True) as connection:
                rest.popleft()(connection)
                while rest and not (isinstance(self._turn, _Turn) and self._turn.wanted()):
                    rest.popleft()(connection)

    def _checkpoint(self) -> None:
        """Now and then move the log into the file, outside of anybody's turn: a commit that has to do it takes long."""
        self._bulk_writes += 1
        if self._bulk_writes % CHECKPOINT_EVERY == 0:
            with closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, which SQLAlchemy has once per dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self, migrations: Sequence[Migration]) -> str:
        """Create what is missing, run the steps not run yet, all in one transaction. Returns the store's id."""
        newest = len(migrations) + 1
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            if not sa.inspect(connection).has_table(schema.store.name):
                schema.metadata.create_all(connection)
                connection.execute(schema.store.insert().values(schema_version=newest, store_id=uuid.uuid4().hex))
            found, store_id = connection.execute(
                sa.select(schema.store.c.schema_version, schema.store.c.store_id)
            ).one()
            if found > newest:
                raise ConfigError(
                    f"The database has schema {found}, this release only knows {newest}: a newer release has used "
                    "it. Install that release, or use another database."
                )
            for step in migrations[found - 1 :]:
                step(connection)
            if found < newest:
                connection.execute(schema.store.update().values(schema_version=newest))
            return str(store_id)


def existing_store_id(url: str) -> str | None:
    """The id of the store at this address; None where none has been made yet. Makes nothing."""
    if url.startswith("sqlite") and not Path(url.partition("?")[0].partition(":///")[2]).is_file():
        return None
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(schema.store.name):
                return None
            return connection.execute(sa.select(schema.store.c.store_id)).scalar_one_or_none()
    except DBAPIError as error:
        raise ConfigError(f"The database {engine.url} cannot be read: {error.orig}") from error
    finally:
        engine.dispose()


class _Turn:
    """Whose turn it is to write. SQLite's own waiting polls with pauses of up to 100 ms; this wakes the next at once.

    A lock between threads, then a lock on a file between processes, which the system lets go of when its holder dies.
    Whoever waits shares a second lock, so that one can see whether anybody does. Only a courtesy: without it SQLite
    still lets one writer in at a time.
    """

    def __init__(self, database: str) -> None:
        self._queue, self._turn = Path(f"{database}-queue"), Path(f"{database}-turn")
        self._threads = threading.Lock()
        self._held: IO[str] | None = None

    def __enter__(self) -> None:
        with self._queue.open("w", encoding="ascii") as queue:
            fcntl.flock(queue, fcntl.LOCK_SH)
            self._threads.acquire()
            try:
                self._held = self._turn.open("w", encoding="ascii")
                fcntl.flock(self._held, fcntl.LOCK_EX)
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
        self._threads.release()

    def let_pass(self, *, patience: float) -> None:
        """Return when nobody waits any more, or after `patience` seconds."""
        deadline = time.monotonic() + patience
        while self.wanted() and time.monotonic() < deadline:
            time.sleep(0.001)

    def wanted(self) -> bool:
        """Whether anybody waits."""
        with self._queue.open("w", encoding="ascii") as queue:
            try:
                fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(parsed)
        if parsed.get_backend_name() != "postgresql":
            raise ConfigError(
                f"{parsed.drivername!r} is not a supported database: use sqlite:///path or postgresql://..."
            )
        return sa.create_engine(parsed, pool_pre_ping=True, connect_args={**SILENT, **parsed.query})
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(
            f"The database URL cannot be read ({error}). Use sqlite:///path or postgresql://..."
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError("PostgreSQL needs the extra `postgresql` (psycopg): install it.") from error


def _sqlite_engine(url: sa.URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            "Several processes share the store, so it cannot be in memory: name a file, as in "
            "sqlite:///path/to/store.db"
        )
    with translated(url.database):
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not open transactions of its own; `begin` below does
        connection.execute("PRAGMA foreign_keys = ON")
        # FULL: a committed event survives a power cut, at one fsync a commit. NORMAL would survive a crash only.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 20000")  # pages; bulk writers do it more often by themselves
        connection.execute("PRAGMA cache_size = -65536")  # KiB; the default of 2 MB thrashes on a million tasks

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _switch_to_wal(path: str) -> None:
    """Turn on write-ahead logging, once for the file. SQLite does not wait for others here, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            if isinstance(fault := of_sqlite(error, path), (DiskFullError, ReadOnlyError)):
                raise fault from error
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise ConfigError(f"The database {path} cannot be opened: {error}.") from error
            time.sleep(random.uniform(0.01, 0.05))
        else:
            return
