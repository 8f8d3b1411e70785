"""What people did on our own pages: who, when, and what; the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.projects import Project
from ml_backend.store.schema import acts

KEPT = 10_000
"""Acts of a project that are remembered."""


@dataclass(frozen=True)
class DoneAct:
    """account: a name that is theirs alone. person: what they are called. what: a word. detail: what of it, plain JSON."""

    id: int
    at: datetime
    account: str
    person: str
    what: str
    detail: dict[str, Any]


class Acts:
    """The acts of all projects of one store."""

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self.database = database
        self.clock = clock

    def record(
        self, project: Project, what: str, *, account: str, person: str, detail: dict[str, Any] | None = None
    ) -> DoneAct:
        """Keep that it was done, now. Beyond KEPT the oldest are forgotten."""
        at, told = self.clock(), detail or {}
        values = {"at": at, "account": account, "person": person, "what": what, "detail": told}
        mine = acts.c.project_id == project.id
        with self.database.write() as connection:
            number = connection.execute(
                acts.insert().values(project_id=project.id, **values).returning(acts.c.id)
            ).scalar_one()
            oldest = sa.select(acts.c.id).where(mine).order_by(acts.c.id.desc()).offset(KEPT - 1).limit(1)
            if (last := connection.scalar(oldest)) is not None:
                connection.execute(acts.delete().where(mine, acts.c.id < last))
        return DoneAct(number, at, account, person, what, told)

    def list(self, project: Project, *, limit: int = 50, before: int | None = None) -> Sequence[DoneAct]:
        """The last acts, newest first. before: the id of the last one of the page before."""
        conditions = [acts.c.project_id == project.id, *([] if before is None else [acts.c.id < before])]
        columns = (acts.c.id, acts.c.at, acts.c.account, acts.c.person, acts.c.what, acts.c.detail)
        statement = sa.select(*columns).where(*conditions).order_by(acts.c.id.desc()).limit(limit)
        with self.database.read() as connection:
            return [DoneAct(*row) for row in connection.execute(statement)]
