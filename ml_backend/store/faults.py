"""What the disk or the database says when it refuses, as an error that tells a person what to do, and us whether to wait."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ml_backend.errors import BackendError, DiskFullError, ReadOnlyError, StoreAwayError, StoreError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LONGEST_PAUSE = 15.0
"""Seconds between two tries while the store cannot be used."""
FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM}
SCARCE = 2**20
"""With fewer bytes than this left, an error of the disk is one of space: SQLite says no more than "disk I/O error"."""


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise DiskFullError, StoreAwayError or ReadOnlyError for what the disk or the database refuses in the block.

    place: the folder or the database, for the sentence. What is a bug, and no fault of theirs, is raised as it is.
    """
    try:
        yield
    except OSError as error:
        if (fault := _of_the_disk(error.errno, place)) is None:
            raise
        raise fault from error
    except (OperationalError, InterfaceError) as error:
        if (fault := _of_the_database(error, place)) is None:
            raise
        raise fault from error


def retry_until_available(
    do: Callable[[], Result], wait: Callable[[float], object] = time.sleep, *, pause: float = 0.5
) -> Result:
    """Do it as soon as the store can be used: a database starts when it starts, and space is freed when it is.

    wait: called with growing pauses of LONGEST_PAUSE seconds at most; where it answers True, the StoreError is raised.
    """
    away = False
    while True:
        try:
            result = do()
        except StoreError as error:
            if not away:
                logger.warning("%s Trying again until it can be.", error)
            away, pause = True, min(2 * pause, LONGEST_PAUSE)
            if wait(pause):
                raise
        else:
            if away:
                logger.info("the store can be used again")
            return result


def scarce(folder: Path, least: int = SCARCE) -> bool:
    """Whether next to nothing, or less than so many bytes, is left on the disk of this folder."""
    try:
        return shutil.disk_usage(folder).free < least
    except OSError:
        return False


def disk_full(place: str) -> DiskFullError:
    return DiskFullError(f"No space is left for {place}: free some, and the work goes on by itself.")


def _of_the_disk(code: int | None, place: str) -> BackendError | None:
    if code in FULL:
        return disk_full(place)
    forbidden = code in FORBIDDEN and not os.access(place, os.W_OK)  # else it is another file that is
    return _read_only(place) if code == errno.EROFS or forbidden else None


def _read_only(place: str) -> ReadOnlyError:
    return ReadOnlyError(
        f"{place} cannot be written to: make it writable for the user that the service runs as, or set "
        "ML_BACKEND_DATA_DIR to another folder; then start the service again."
    )


def _of_the_database(error: DBAPIError, place: str) -> BackendError | None:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return of_sqlite(cause, place)
    if getattr(cause, "sqlstate", None) == "53100":
        return disk_full(place)
    why = str(cause).strip().splitlines()
    return StoreAwayError(f"The database {place} cannot be reached ({why[0] if why else 'no reason was given'}).")


def of_sqlite(cause: sqlite3.Error, place: str) -> BackendError | None:
    """The same of an error of SQLite's own; None for what is a bug."""
    code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
    out_of_space = code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} and scarce(Path(place).parent)
    if code == sqlite3.SQLITE_FULL or out_of_space:
        return disk_full(place)
    closed = code == sqlite3.SQLITE_CANTOPEN and not os.access(Path(place).parent, os.W_OK)
    if code == sqlite3.SQLITE_READONLY or closed:
        return _read_only(place)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        return StoreAwayError(f"The database {place} cannot be used just now ({cause}).")
    return None
