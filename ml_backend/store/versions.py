"""Immutable model versions: written aside, made durable, renamed into place, entered, and only then served.

    <root>/<project>/v7/          weights and meta.json, never changed again
    <root>/<project>/.writing-*   a version on its way; swept if its writer died
    <root>/<project>/.lock        held while one is on its way, so that no sweep takes it for an orphan

What answers for a project is a row in the database, so promoting and rolling back are one small transaction.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import BackendError, ConflictError, InvalidInputError, NotFoundError
from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.projects import Project, lock
from ml_backend.store.tables import serving, versions

VersionState = Literal["candidate", "promoted", "rejected", "rolled_back", "pruned"]
META = "meta.json"
TEMPORARY = ".writing-"


class DiskFullError(BackendError):
    """There is no room for another version; the one that was served is still served."""

    status = 507


@dataclass(frozen=True)
class Version:
    """One trained model. `folder` holds its files and never changes; `meta` is its meta.json."""

    project_id: int
    number: int
    state: VersionState
    reason: str
    meta: dict[str, Any]
    created_at: datetime
    promoted_at: datetime | None
    folder: Path

    @property
    def name(self) -> str:
        return f"v{self.number}"


class Versions:
    """The model versions of all projects of one store, in folders below `root`."""

    def __init__(self, root: Path, database: Database, *, clock: Clock = utc_now) -> None:
        self.root = root
        self.database = database
        self.clock = clock

    def next_number(self, project: Project) -> int:
        """Return a number never used before, for a row or for a folder."""
        with self.database.read() as connection:
            rows = connection.scalars(sa.select(versions.c.number).where(versions.c.project_id == project.id)).all()
        return int(max([0, *rows, *(number for number, _ in self._folders(project.id))])) + 1

    def publish(
        self, project: Project, number: int, write: Callable[[Path], None], meta: dict[str, Any] | None = None
    ) -> Version:
        """Let `write` fill a folder, and enter it as a candidate; nothing is served yet.

        `meta` becomes meta.json (class names in order, encoder, metrics, seed, label digest: whatever a person or a
        loader needs). Raises ConflictError for a number already used, DiskFullError when there is no room; then, as for
        any error of `write`, nothing of it is left.
        """
        meta = {**(meta or {}), "version": number, "project": str(project.key), "store": self.database.store_id}
        parent = self.root / str(project.id)
        with self._publishing(project.id):
            final, temporary = parent / f"v{number}", parent / f"{TEMPORARY}v{number}-{uuid.uuid4().hex[:8]}"
            if final.exists() or self._row(project.id, number) is not None:
                raise ConflictError(f"v{number} of {project.key} already exists: use next_number().")
            try:
                temporary.mkdir()
                write(temporary)
                (temporary / META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n", encoding="utf-8")
                _sync_tree(temporary)
                temporary.rename(final)
                _sync(parent)
            except OSError as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise DiskFullError(
                        f"No space left under {self.root} for v{number}; the previous version is still served. Free "
                        "some space, or lower ML_BACKEND_KEEP_VERSIONS."
                    ) from error
                raise
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            with self.database.write() as connection:
                lock(connection, project.id)
                connection.execute(
                    versions.insert().values(
                        project_id=project.id, number=number, state="candidate", meta=meta, created_at=self.clock()
                    )
                )
        return self.version(project, number)

    def promote(self, project: Project, number: int) -> Version:
        """Serve this version from now on. Raises ConflictError while another one is pinned."""
        with self.database.write() as connection:
            lock(connection, project.id)
            _check_pin(connection, project, number)
            self._serve(connection, project, number)
        return self.version(project, number)

    def check_pin(self, project: Project, number: int) -> None:
        """Raise ConflictError where another version than this one is pinned."""
        with self.database.read() as connection:
            _check_pin(connection, project, number)

    def reject(self, project: Project, number: int, reason: str) -> Version:
        """Keep this candidate, but do not serve it. Raises ConflictError for the version being served."""
        with self.database.write() as connection:
            lock(connection, project.id)
            pointer = _pointer(connection, project.id)
            if pointer is not None and pointer.number == number:
                raise ConflictError(f"v{number} is being served: promote another version first.")
            self._require(connection, project, number)
            _set(connection, project.id, number, state="rejected", reason=reason)
        return self.version(project, number)

    def current(self, project: Project) -> Version | None:
        """The version being served; None before any."""
        with self.database.read() as connection:
            pointer = _pointer(connection, project.id)
        return None if pointer is None else self.version(project, pointer.number)

    def pinned(self, project: Project) -> bool:
        with self.database.read() as connection:
            pointer = _pointer(connection, project.id)
        return pointer is not None and pointer.pinned

    def roll_back(self, project: Project, reason: str = "rolled back by hand") -> Version:
        """Serve the version that was served before this one; a second time, the one before that. Unpins.

        Raises ConflictError where there is none.
        """
        with self.database.write() as connection:
            lock(connection, project.id)
            pointer = _pointer(connection, project.id)
            before = connection.execute(
                sa.select(versions.c.number)
                .where(
                    versions.c.project_id == project.id,
                    versions.c.state == "promoted",
                    versions.c.number != (pointer.number if pointer else -1),
                )
                .order_by(versions.c.promoted_at.desc(), versions.c.number.desc())
                .limit(1)
            ).scalar()
            if pointer is None or before is None:
                raise ConflictError(f"{project.key} has no earlier version to roll back to.")
            self._require(connection, project, before)
            _set(connection, project.id, pointer.number, state="rolled_back", reason=reason)
            connection.execute(
                serving.update().where(serving.c.project_id == project.id).values(number=before, pinned=False)
            )
        return self.version(project, before)

    def pin(self, project: Project, number: int) -> Version:
        """Serve this version and no other until `unpin`, whatever is trained meanwhile."""
        with self.database.write() as connection:
            lock(connection, project.id)
            self._serve(connection, project, number, pinned=True)
        return self.version(project, number)

    def unpin(self, project: Project) -> None:
        with self.database.write() as connection:
            connection.execute(serving.update().where(serving.c.project_id == project.id).values(pinned=False))

    def list(self, project: Project) -> Sequence[Version]:
        """All versions, newest first, pruned ones included (their folder is gone, what was measured stays)."""
        statement = sa.select(versions).where(versions.c.project_id == project.id).order_by(versions.c.number.desc())
        with self.database.read() as connection:
            return [self._version(row) for row in connection.execute(statement)]

    def version(self, project: Project, number: int) -> Version:
        row = self._row(project.id, number)
        if row is None:
            raise NotFoundError(f"{project.key} has no version v{number}: see `ml-backend versions list`.")
        return self._version(row)

    def folder(self, version: Version) -> Path:
        """Return the version's folder. Raises NotFoundError where it was pruned or taken away."""
        if not (version.folder / META).is_file():
            raise NotFoundError(
                f"The files of {version.name} are not in {version.folder}: they were deleted or "
                "moved. Choose another version."
            )
        return version.folder

    def prune(self, project: Project, *, keep: int) -> Sequence[int]:
        """Delete the files of all but the newest `keep` versions; the served one is never touched.

        Returns the numbers pruned. Rows, with their metrics, are kept.
        """
        with self.database.write() as connection:
            lock(connection, project.id)
            pointer = _pointer(connection, project.id)
            held = sa.select(versions.c.number).where(versions.c.project_id == project.id, versions.c.state != "pruned")
            numbers = connection.scalars(held.order_by(versions.c.number.desc())).all()
            dropped = [n for n in numbers[keep:] if pointer is None or n != pointer.number]
            for number in dropped:
                _set(connection, project.id, number, state="pruned")
        for number in dropped:
            shutil.rmtree(self.root / str(project.id) / f"v{number}", ignore_errors=True)
        return dropped

    def sweep(self) -> Sequence[Path]:
        """Delete what dead writers left: half-written folders, and folders that were never entered or are pruned.

        Projects where a version is being written right now are left alone; so is a folder that another store made (a
        database that was lost must not take its models with it). Returns what was deleted.
        """
        swept: Sequence[Path] = ()
        for parent in sorted(p for p in self.root.glob("*") if p.is_dir() and p.name.isdigit()):
            with _locked(parent / ".lock", wait=False) as free:
                if free:
                    swept = [*swept, *self._sweep_project(parent)]
        return swept

    def _sweep_project(self, parent: Path) -> Sequence[Path]:
        statement = sa.select(versions.c.number).where(
            versions.c.project_id == int(parent.name), versions.c.state != "pruned"
        )
        with self.database.read() as connection:
            entered = set(connection.scalars(statement))
        orphans = [
            folder
            for number, folder in self._folders(int(parent.name))
            if number not in entered and _made_by(folder) == self.database.store_id
        ]
        doomed = [*parent.glob(f"{TEMPORARY}*"), *orphans]
        for folder in doomed:
            shutil.rmtree(folder, ignore_errors=True)
        return doomed

    @contextmanager
    def _publishing(self, project_id: int) -> Iterator[None]:
        parent = self.root / str(project_id)
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / ".lock", wait=True):
            yield

    def _folders(self, project_id: int) -> Sequence[tuple[int, Path]]:
        found = (self.root / str(project_id)).glob("v*")
        return [(int(path.name[1:]), path) for path in found if path.name[1:].isdigit()]

    def _serve(self, connection: Connection, project: Project, number: int, *, pinned: bool | None = None) -> None:
        self._require(connection, project, number)
        values = {"number": number} if pinned is None else {"number": number, "pinned": pinned}
        connection.execute(
            self.database.insert(serving)
            .values(project_id=project.id, number=number, pinned=bool(pinned))
            .on_conflict_do_update(index_elements=["project_id"], set_=values)
        )
        _set(connection, project.id, number, state="promoted", reason="", promoted_at=self.clock())

    def _require(self, connection: Connection, project: Project, number: int) -> None:
        """Raise NotFoundError unless the version is entered and its files are there: never serve what does not exist."""
        state = connection.scalar(
            sa.select(versions.c.state).where(versions.c.project_id == project.id, versions.c.number == number)
        )
        if state is None or not (self.root / str(project.id) / f"v{number}" / META).is_file():
            raise NotFoundError(
                f"{project.key} has no version v{number} with its files: see `ml-backend versions list`."
            )

    def _row(self, project_id: int, number: int) -> Any:
        statement = sa.select(versions).where(versions.c.project_id == project_id, versions.c.number == number)
        with self.database.read() as connection:
            return connection.execute(statement).one_or_none()

    def _version(self, row: Any) -> Version:
        return Version(
            project_id=row.project_id,
            number=row.number,
            state=row.state,
            reason=row.reason,
            meta=row.meta,
            created_at=row.created_at,
            promoted_at=row.promoted_at,
            folder=self.root / str(row.project_id) / f"v{row.number}",
        )


def version_number(name: str) -> int:
    """The number of a version as people call it: "v4", or "4". Raises InvalidInputError."""
    found = re.fullmatch(r"[vV]?([0-9]{1,9})", name.strip())
    if found is None:
        raise InvalidInputError(f"{name!r} is not a version: versions are called v1, v2, ...")
    return int(found[1])


def _check_pin(connection: Connection, project: Project, number: int) -> None:
    pointer = _pointer(connection, project.id)
    if pointer is not None and pointer.pinned and pointer.number != number:
        raise ConflictError(f"v{pointer.number} is pinned for {project.key}: run `ml-backend versions unpin` first.")


def _pointer(connection: Connection, project_id: int) -> Any:
    return connection.execute(sa.select(serving).where(serving.c.project_id == project_id)).one_or_none()


def _set(connection: Connection, project_id: int, number: int, **values: Any) -> None:
    connection.execute(
        versions.update().where(versions.c.project_id == project_id, versions.c.number == number).values(**values)
    )


def _made_by(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / META).read_text(encoding="utf-8")).get("store"))
    except (OSError, ValueError, AttributeError):
        return None


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock that the system lets go of when its process dies; yields False if it is taken and `wait` is off."""
    with path.open("w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
