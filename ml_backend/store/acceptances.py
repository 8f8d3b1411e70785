"""Attempts to have the rest of a project labelled by its model: what was proposed, how far its audit is, the certificate.

What people said of the labels proposed is not here: that is the ledger's, and asked for anew each time.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from io import BytesIO
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from ml_backend.errors import ConflictError, NotFoundError
from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.projects import Project, lock
from ml_backend.store.schema import acceptances

State = Literal["auditing", "certified", "written", "ended"]
OPEN_ONCE = ("auditing",)
VOUCHED = ("certified", "written")
"""Something was certified, and may have been written."""
ROUNDING = 1e-12


@dataclass(frozen=True)
class Frozen:
    """n labels as they were proposed, the most trusted first.

    ids: (n,) int64, tasks. labels: (n,) int64, places in the acceptance's classes. doubt: (n,) float64. hashes: (n,) S64, of
    the images. parts: (m,) int64, sizes of the parts from the front that are asked about. accepted: (n,) bool, certified to be written without a look; None before.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    doubt: NDArray[np.float64]
    hashes: NDArray[np.bytes_]
    parts: NDArray[np.int64]
    accepted: NDArray[np.bool_] | None = None

    def packed(self) -> bytes:
        arrays: dict[str, NDArray[Any]] = {field.name: getattr(self, field.name) for field in fields(self)}
        digests = bytes.fromhex(np.ascontiguousarray(self.hashes, "S64").tobytes().decode("ascii"))
        arrays["hashes"] = np.frombuffer(digests, np.uint8)  # half of what it is in hexadecimal
        out = BytesIO()
        given: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
        np.savez_compressed(out, **given)
        return out.getvalue()

    @classmethod
    def unpacked(cls, blob: bytes) -> Frozen:
        with np.load(BytesIO(blob), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        arrays["hashes"] = np.frombuffer(arrays["hashes"].tobytes().hex().encode("ascii"), "S64")
        return cls(**arrays)


@dataclass(frozen=True)
class Acceptance:
    """One attempt. auditing -> certified (a certificate was given) -> written, and back where that is undone; or ended, without one.

    error: share of wrong labels allowed. risk: probability, of 1 - confidence, that this attempt takes; it stays spent.
    class_risk: the same of each rare class. seed: of the order in which the labels are looked at.
    drawn: labels asked for, from the front of that order. sample: how many of them decide; None until the sample of all is
    ended. complete: nothing is left to look at. size: labels proposed. progress: what the last turn knew. classes: by name.
    """

    project_id: int
    number: int
    certificate_id: str
    state: State
    version: int
    error: float
    confidence: float
    risk: float
    class_risk: float
    seed: int
    created_at: datetime
    created_by: str
    drawn: int
    sample: int | None
    complete: bool
    classes: tuple[str, ...]
    size: int
    progress: dict[str, Any] | None
    certificate: dict[str, Any] | None

    @property
    def order(self) -> NDArray[np.int64]:
        """(n,) places of the labels, in the order in which they are looked at."""
        return np.random.default_rng(self.seed).permutation(self.size)


_COLUMNS = tuple(acceptances.c[field.name] for field in fields(Acceptance))


class Acceptances:
    """The acceptances of all projects of one store."""

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self.database = database
        self.clock = clock

    def begin(
        self,
        project: Project,
        frozen: Frozen,
        *,
        classes: Sequence[str],
        version: int,
        error: float,
        confidence: float,
        risk: float,
        drawn: int,
        seed: int,
        by: str,
    ) -> Acceptance:
        """Record an attempt and what it spends, at once. Raises ConflictError where another one is on or was made meanwhile."""
        mine = acceptances.c.project_id == project.id
        with self.database.write() as connection:
            lock(connection, project.id)
            if connection.scalar(sa.select(acceptances.c.number).where(mine, acceptances.c.state == "auditing")):
                raise ConflictError(
                    f"An audit of {project.title!r} is on: `ml-backend accept status` says how far it is."
                )
            spent = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(acceptances.c.risk), 0.0)).where(mine))
            if risk > 1 - confidence - float(spent or 0.0) + ROUNDING:
                raise ConflictError("Somebody else has made an attempt meanwhile: run the command again.")
            last = connection.scalar(sa.select(sa.func.max(acceptances.c.number)).where(mine))
            new = acceptances.insert().values(
                project_id=project.id,
                number=(last or 0) + 1,
                certificate_id=secrets.token_hex(6),
                state="auditing",
                version=version,
                error=error,
                confidence=confidence,
                risk=risk,
                class_risk=risk,
                seed=seed,
                created_at=self.clock(),
                created_by=by,
                drawn=drawn,
                classes=tuple(classes),
                size=len(frozen.ids),
                frozen=frozen.packed(),
            )
            return _acceptance(connection.execute(new.returning(*_COLUMNS)).one())

    def all(self, project: Project) -> list[Acceptance]:
        """Every attempt, newest first."""
        return self._listed(project)

    def last(self, project: Project) -> Acceptance | None:
        return next(iter(self._listed(project, limit=1)), None)

    def auditing(self, project: Project) -> Acceptance | None:
        """The attempt whose labels are being looked at, if there is one."""
        return next(iter(self._listed(project, acceptances.c.state == "auditing")), None)

    def vouched(self, project: Project) -> list[Acceptance]:
        """Those with a certificate, newest first."""
        return self._listed(project, acceptances.c.state.in_(VOUCHED))

    def is_blind(self, project: Project) -> bool:
        """Whether an audit is on, so that no guess is to be shown: until it is certified, each answer may still be changed."""
        asking = acceptances.c.state == "auditing"
        statement = sa.select(acceptances.c.number).where(acceptances.c.project_id == project.id, asking)
        with self.database.read() as connection:
            return connection.scalar(statement) is not None

    def spent(self, project: Project) -> float:
        """The risk that all attempts have taken together: being ended gives none of it back."""
        return float(sum(acceptance.risk for acceptance in self.all(project)))

    def risk_left(self, project: Project, confidence: float) -> float:
        """What further attempts may take, at this confidence."""
        return max(1 - confidence - self.spent(project), 0.0)

    def frozen(self, acceptance: Acceptance) -> Frozen:
        statement = sa.select(acceptances.c.frozen).where(*_this(acceptance))
        with self.database.read() as connection:
            blob = connection.scalar(statement)
        if blob is None:
            raise _gone(acceptance)
        return Frozen.unpacked(blob)

    def freeze_again(self, acceptance: Acceptance, frozen: Frozen, drawn: int) -> Acceptance:
        """Go on with fewer labels than it began with. Only before anybody was asked for one: the order is another one."""
        return self._change(acceptance, frozen=frozen.packed(), size=len(frozen.ids), drawn=drawn)

    def draw(self, acceptance: Acceptance, drawn: int) -> Acceptance:
        """Ask for so many from the front of the order."""
        return self._change(acceptance, drawn=max(drawn, acceptance.drawn))

    def end_sample(self, acceptance: Acceptance, sample: int) -> Acceptance:
        """The sample of all ends with so many looks, for good: only now may a rare class get looks of its own."""
        return self._change(acceptance, sample=sample)

    def note(self, acceptance: Acceptance, progress: dict[str, Any], *, complete: bool | None = None) -> Acceptance:
        """What is told until the next turn. complete: None leaves that as it is."""
        values = {"progress": progress} | ({} if complete is None else {"complete": complete})
        if all(getattr(acceptance, name) == value for name, value in values.items()):
            return acceptance
        return self._change(acceptance, only=(*OPEN_ONCE, *VOUCHED), **values)

    def certify(
        self,
        acceptance: Acceptance,
        frozen: Frozen,
        accepted: NDArray[np.bool_],
        sample: int,
        certificate: dict[str, Any],
    ) -> Acceptance:
        """Keep the certificate and what it is about, at once; the audit is over."""
        kept = replace(frozen, accepted=accepted).packed()
        return self._change(
            acceptance,
            state="certified",
            sample=sample,
            complete=True,
            frozen=kept,
            certificate=certificate,
            progress=None,
        )

    def mark(self, acceptance: Acceptance, state: State) -> Acceptance:
        """Go on to another state. Raises ConflictError where it is not any more what `acceptance` says."""
        return self._change(acceptance, only=(acceptance.state,), state=state)

    def _change(self, acceptance: Acceptance, *, only: Sequence[str] = OPEN_ONCE, **values: Any) -> Acceptance:
        statement = acceptances.update().where(*_this(acceptance), acceptances.c.state.in_(only)).values(**values)
        with self.database.write() as connection:
            row = connection.execute(statement.returning(*_COLUMNS)).one_or_none()
            if row is None:
                raise _over(connection, acceptance)
        return _acceptance(row)

    def _listed(
        self, project: Project, *conditions: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[Acceptance]:
        statement = (
            sa.select(*_COLUMNS)
            .where(acceptances.c.project_id == project.id, *conditions)
            .order_by(acceptances.c.number.desc())
            .limit(limit)
        )
        with self.database.read() as connection:
            return [_acceptance(row) for row in connection.execute(statement)]


def _this(acceptance: Acceptance) -> tuple[sa.ColumnElement[bool], ...]:
    return acceptances.c.project_id == acceptance.project_id, acceptances.c.number == acceptance.number


def _over(connection: Connection, acceptance: Acceptance) -> ConflictError | NotFoundError:
    state = connection.scalar(sa.select(acceptances.c.state).where(*_this(acceptance)))
    if state is None:
        return _gone(acceptance)
    return ConflictError(
        f"Audit {acceptance.number} is {state} by now: `ml-backend accept status` says what there is to do."
    )


def _gone(acceptance: Acceptance) -> NotFoundError:
    return NotFoundError(f"Audit {acceptance.number} is gone: its project was removed here.")


def _acceptance(row: Any) -> Acceptance:
    return Acceptance(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
