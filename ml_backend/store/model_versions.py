"""Immutable model versions: a folder that is whole, a row that says what became of it, and the one that is served.

What answers for a project is a row in the database, so entering, promoting and rolling back are one small transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import ConflictError, NotFoundError
from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.folders import Folders
from ml_backend.store.projects import Project, lock
from ml_backend.store.schema import serving, versions
from ml_backend.store.version import PASSED, WHILE_PINNED, Verdict, Version, VersionState
from ml_backend.store.version_meta import VersionMeta

LAST = 10
"""So many versions that were good enough are at hand, to compare with and to roll back to."""


class Versions:
    """The model versions of all projects of one store, in folders below `root`."""

    def __init__(self, root: Path, database: Database, *, clock: Clock = utc_now) -> None:
        self.root = root
        self.folders = Folders(root, database.store_id)
        self.database = database
        self.clock = clock

    def next_number(self, project: Project) -> int:
        """Return a number never used before, for a row or for a folder."""
        with self.database.read() as connection:
            rows = connection.scalars(sa.select(versions.c.number).where(versions.c.project_id == project.id)).all()
        return int(max([0, *rows, *self.folders.numbers(project.id)])) + 1

    def publish(
        self,
        project: Project,
        number: int,
        write: Callable[[Path], None],
        meta: VersionMeta | None = None,
        *,
        verdict: Verdict | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Version:
        """Let `write` fill a folder, then enter it together with its verdict; without one it is a candidate.

        check: called once nobody else can change the project any more; what it raises is raised, and nothing is entered.

        One transaction enters it, judges it and has it served: killed anywhere, the version is as it was judged, or
        there is none of it but a folder that `sweep` takes.

        `meta` becomes meta.json. Raises ConflictError for a number already used, DiskFullError when there is no room; then, as for
        any error of `write`, nothing of it is left.
        """
        meta = (meta or VersionMeta()).signed(number, str(project.key), self.database.store_id)
        with self.folders.writing(project.id):
            if self.folders.path(project.id, number).exists() or self._row(project.id, number) is not None:
                raise ConflictError(f"v{number} of {project.key} already exists: use next_number().")
            self.folders.write(project.id, number, write, meta)
            with self.database.write() as connection:
                lock(connection, project.id)
                try:
                    check()
                except BaseException:
                    self.folders.remove(project.id, number)
                    raise
                connection.execute(
                    versions.insert().values(
                        project_id=project.id,
                        number=number,
                        state="candidate",
                        meta=meta.as_json(),
                        created_at=self.clock(),
                    )
                )
                if verdict is not None:
                    self._judge(connection, project, number, verdict)
        return self.version(project, number)

    def judge(self, project: Project, number: int, verdict: Verdict) -> Version:
        """Serve, or reject, a candidate that nobody judged so far. Raises ConflictError for any other version."""
        with self.database.write() as connection:
            lock(connection, project.id)
            if (state := self._require(connection, project, number)) != "candidate":
                raise ConflictError(f"v{number} was judged before: it is {state}.")
            self._judge(connection, project, number, verdict)
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

    def current(self, project: Project) -> Version | None:
        """The version being served; None before any."""
        with self.database.read() as connection:
            pointer = _pointer(connection, project.id)
        return None if pointer is None else self.version(project, pointer.number)

    def pinned(self, project: Project) -> bool:
        with self.database.read() as connection:
            pointer = _pointer(connection, project.id)
        return pointer is not None and pointer.pinned

    def roll_back(self, project: Project, reason: str = "rolled back by hand", *, served: int | None = None) -> Version:
        """Serve the version that was served before this one; a second time, the one before that. Unpins.

        served: the version that is to be left. Raises ConflictError where there is none before, or another one is served.
        """
        with self.database.write() as connection:
            lock(connection, project.id)
            pointer, before = _before(connection, project)
            _check_served(pointer, served)
            self._require(connection, project, before)
            _set(connection, project.id, pointer.number, state="rolled_back", reason=reason)
            connection.execute(
                serving.update().where(serving.c.project_id == project.id).values(number=before, pinned=False)
            )
        return self.version(project, before)

    def before(self, project: Project, *, served: int | None = None) -> Version:
        """The version that `roll_back` would serve. Raises what it does."""
        with self.database.read() as connection:
            pointer, before = _before(connection, project)
        _check_served(pointer, served)
        return self.version(project, before)

    def pin(self, project: Project, number: int) -> Version:
        """Serve this version and no other until `unpin`, whatever is trained meanwhile."""
        with self.database.write() as connection:
            lock(connection, project.id)
            self._serve(connection, project, number, pinned=True)
        return self.version(project, number)

    def unpin(self, project: Project) -> Version | None:
        """Serve the newest version that was good enough, and each better one from now on; None where nothing is pinned."""
        with self.database.write() as connection:
            lock(connection, project.id)
            pointer = _pointer(connection, project.id)
            if pointer is None or not pointer.pinned:
                return None
            newest = self._newest_passed(connection, project.id, pointer.number)
            if newest == pointer.number:
                connection.execute(serving.update().where(serving.c.project_id == project.id).values(pinned=False))
            else:
                self._serve(connection, project, newest, pinned=False)
        return self.version(project, newest)

    def after_unpin(self, project: Project) -> Version | None:
        """The version that `unpin` would serve; None where nothing is pinned."""
        with self.database.read() as connection:
            pointer = _pointer(connection, project.id)
            if pointer is None or not pointer.pinned:
                return None
            newest = self._newest_passed(connection, project.id, pointer.number)
        return self.version(project, newest)

    def list(
        self, project: Project, *, states: Collection[VersionState] = (), limit: int | None = None
    ) -> Sequence[Version]:
        """All versions, newest first, pruned ones included (their folder is gone, what was measured stays).

        states: those in one of these alone. limit: no more than so many; five hundred take a fifth of a second to read.
        """
        conditions = [versions.c.project_id == project.id, *([versions.c.state.in_(states)] if states else [])]
        statement = sa.select(versions).where(*conditions).order_by(versions.c.number.desc()).limit(limit)
        with self.database.read() as connection:
            return [self._version(row) for row in connection.execute(statement)]

    def newest(self, project: Project) -> Version | None:
        """The one entered last, whatever became of it; None before any."""
        return next(iter(self.list(project, limit=1)), None)

    def count(self, project: Project) -> int:
        """How many there are, pruned ones included."""
        with self.database.read() as connection:
            mine = sa.select(sa.func.count()).where(versions.c.project_id == project.id)
            return int(connection.scalar(mine) or 0)

    def version(self, project: Project, number: int) -> Version:
        row = self._row(project.id, number)
        if row is None:
            raise NotFoundError(f"{project.key} has no version v{number}: see `ml-backend versions list`.")
        return self._version(row)

    def folder(self, version: Version) -> Path:
        """Return the version's folder. Raises NotFoundError where it was pruned or taken away."""
        if not self.folders.there(version.project_id, version.number):
            raise NotFoundError(
                f"The files of {version.name} are not in {version.folder}: they were deleted or "
                "moved. Choose another version."
            )
        return version.folder

    def unused_encoders(self, project: Project) -> Sequence[str]:
        """Ids of the encoders that pruned versions had, and that no version still on disk has; a project may."""
        encoder_id = versions.c.meta[("encoder", "id")].as_string()
        needed = sa.select(encoder_id).where(versions.c.state != "pruned", encoder_id.is_not(None))
        had = sa.select(encoder_id).where(
            versions.c.project_id == project.id, versions.c.state == "pruned", encoder_id.not_in(needed)
        )
        with self.database.read() as connection:
            return [known for known in connection.scalars(had.distinct()) if known]

    def prune(self, project: Project, *, keep: int) -> Sequence[int]:
        """Delete the files of all but the newest `keep` versions.

        Never touched: the served one, the imported one that training goes on from, the one that the next advice is
        compared with, and as many that were good enough, LAST at most: rejected ones push none of them out. Returns the
        numbers pruned. Rows, with their metrics, are kept.
        """
        with self.database.write() as connection:
            state = lock(connection, project.id).state
            pointer = _pointer(connection, project.id)
            needed = {pointer.number if pointer else None, state.imported, state.advice and state.advice.version}
            held = sa.select(versions.c.number).where(versions.c.project_id == project.id, versions.c.state != "pruned")
            newest = held.order_by(versions.c.number.desc())
            needed |= set(connection.scalars(newest.where(versions.c.state.in_(PASSED)).limit(min(keep, LAST))))
            numbers = connection.scalars(newest).all()
            dropped = [n for n in numbers[keep:] if n not in needed]
            for number in dropped:
                _set(connection, project.id, number, state="pruned")
        for number in dropped:
            self.folders.remove(project.id, number)
        return dropped

    def sweep(self) -> Sequence[Path]:
        """Delete what dead writers left: half-written folders, and folders that were never entered or are pruned.

        Returns what was deleted.
        """
        return self.folders.sweep(self._entered)

    def _entered(self, project_id: int) -> Collection[int]:
        statement = sa.select(versions.c.number).where(
            versions.c.project_id == project_id, versions.c.state != "pruned"
        )
        with self.database.read() as connection:
            return set(connection.scalars(statement))

    def _serve(self, connection: Connection, project: Project, number: int, *, pinned: bool | None = None) -> None:
        state = self._require(connection, project, number)
        values = {"number": number} if pinned is None else {"number": number, "pinned": pinned}
        connection.execute(
            self.database.insert(serving)
            .values(project_id=project.id, number=number, pinned=bool(pinned))
            .on_conflict_do_update(index_elements=["project_id"], set_=values)
        )
        if pinned and state not in PASSED:
            return
        mine = versions.c.project_id == project.id
        turn = sa.select(sa.func.coalesce(sa.func.max(versions.c.turn), 0) + 1).where(mine).scalar_subquery()
        now = self.clock()
        _set(connection, project.id, number, state="promoted", reason="", promoted_at=now, turn=turn)

    def _judge(self, connection: Connection, project: Project, number: int, verdict: Verdict) -> None:
        """Act on a verdict; a pinned version stays, whatever is good enough."""
        pointer = _pointer(connection, project.id)
        if verdict.reason is not None:
            _set(connection, project.id, number, state="rejected", reason=verdict.reason)
        elif pointer is not None and pointer.pinned:
            _set(connection, project.id, number, state="passed", reason=WHILE_PINNED % pointer.number)
        else:
            self._serve(connection, project, number)

    def _newest_passed(self, connection: Connection, project_id: int, instead: int) -> int:
        """The newest version that was good enough and has its files; `instead` where there is none."""
        passed = (
            sa.select(versions.c.number)
            .where(versions.c.project_id == project_id, versions.c.state.in_(PASSED))
            .order_by(versions.c.number.desc())
        )
        there = (number for number in connection.scalars(passed) if self.folders.there(project_id, number))
        return next(there, instead)

    def _require(self, connection: Connection, project: Project, number: int) -> str:
        """Return its state. Raises NotFoundError unless it is entered and its files are there: never serve what is not."""
        state = connection.scalar(
            sa.select(versions.c.state).where(versions.c.project_id == project.id, versions.c.number == number)
        )
        if state is None or not self.folders.there(project.id, number):
            raise NotFoundError(
                f"{project.key} has no version v{number} with its files: see `ml-backend versions list`."
            )
        return str(state)

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
            meta=VersionMeta.model_validate(row.meta),
            created_at=row.created_at,
            promoted_at=row.promoted_at,
            folder=self.folders.path(row.project_id, row.number),
        )


def _check_pin(connection: Connection, project: Project, number: int) -> None:
    pointer = _pointer(connection, project.id)
    if pointer is not None and pointer.pinned and pointer.number != number:
        raise ConflictError(f"v{pointer.number} is pinned for {project.key}: run `ml-backend versions unpin` first.")


def _pointer(connection: Connection, project_id: int) -> Any:
    return connection.execute(sa.select(serving).where(serving.c.project_id == project_id)).one_or_none()


def _before(connection: Connection, project: Project) -> tuple[Any, int]:
    """What answers now, and the number of the version that was served before it."""
    pointer = _pointer(connection, project.id)
    before = connection.execute(
        sa.select(versions.c.number)
        .where(
            versions.c.project_id == project.id,
            versions.c.state == "promoted",
            versions.c.number != (pointer.number if pointer else -1),
        )
        .order_by(sa.func.coalesce(versions.c.turn, 0).desc(), versions.c.promoted_at.desc())
        .limit(1)
    ).scalar()
    if pointer is None or before is None:
        raise ConflictError(f"{project.key} has no earlier version to roll back to.")
    return pointer, int(before)


def _check_served(pointer: Any, served: int | None) -> None:
    if served is not None and pointer.number != served:
        raise ConflictError(f"v{pointer.number} is served by now, not v{served}: look again before you roll back.")


def _set(connection: Connection, project_id: int, number: int, **values: Any) -> None:
    connection.execute(
        versions.update().where(versions.c.project_id == project_id, versions.c.number == number).values(**values)
    )
