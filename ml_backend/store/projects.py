"""The projects a store knows: one row per Label Studio host and project, with the label config it is judged by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import NotFoundError
from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.store.consensus import ConsensusRule
from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.project_state import ProjectState, Replaced
from ml_backend.store.schema import jobs, projects

_MULTIPLE = "an answer that says nothing at all is one"
"""Stores that were judged before that was so are judged again."""


@dataclass(frozen=True)
class Project:
    """A known project. `id` is the store's own key; `key` says which project of which Label Studio it is.

    `reconciled_at`: when the listing of the last reconcile began; None before any. The next incremental listing asks
    for what changed since then, less an overlap for clocks that differ.
    `full_at`: the same of the last full reconcile; None as well after the label config changed, so that the answers
    are read again under the new one.
    `several_of`: the `Choices` of which several could be ticked at that time, "" where one could; None before it. Only
    empty answers read from then on are known to be about it.
    """

    id: int
    key: ProjectKey
    title: str
    label_config: str
    schema: LabelSchema
    rule: ConsensusRule
    state: ProjectState
    created_at: datetime
    reconciled_at: datetime | None
    full_at: datetime | None
    several_of: str | None

    @property
    def reserved_share(self) -> float:
        """Images at a place below this are held out; none before the first turn."""
        return self.state.reserved_share or 0.0

    @property
    def judged_by(self) -> str:
        """Digest of everything that decides a label, so that a change is noticed."""
        how = [asdict(self.schema), asdict(self.rule), *([_MULTIPLE] if self.schema.multiple else [])]
        decisive = json.dumps(how, sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()


class Projects:
    """Known projects; the base of the ledger, which adds what belongs to them."""

    def __init__(self, database: Database, *, clock: Clock = utc_now, seed: int = 0) -> None:
        self.database = database
        self.clock = clock
        self.seed = seed  # of the split of projects seen for the first time

    def project(self, key: ProjectKey) -> Project:
        """Return the project, or raise NotFoundError."""
        with self.database.read() as connection:
            found = find(connection, key)
        if found is None:
            raise NotFoundError(f"The project {key} is not connected to this service: run `ml-backend setup-project`.")
        return found

    def projects(self) -> list[Project]:
        """Every project that Label Studio has, as far as is known; those that were replaced are left out."""
        return self._listed(projects.c.external_id >= 0)

    def former(self, project: Project) -> list[Project]:
        """The projects that had its number before it. Their labels are kept; nothing else is done with them."""
        return [
            known
            for known in self._listed(projects.c.host == project.key.host, projects.c.external_id < 0)
            if known.state.replaced and known.state.replaced.number == project.key.project_id
        ]

    def replace(self, project: Project, *, title: str, label_config: str, schema: LabelSchema, created: int) -> Project:
        """Begin anew under the project's key, which is another project's in Label Studio by now; returns the new one.

        The former one keeps its labels, rounds and versions, under a number that Label Studio gives to no project.
        """
        now = self.clock()
        with self.database.write() as connection:
            old = lock(connection, project.id)
            if old.key != project.key:
                return _record(connection.execute(_by_key(project.key)).one())  # somebody else was faster
            aside = old.state.changed(replaced=Replaced(number=old.key.project_id, at=now.isoformat()))
            connection.execute(
                projects.update().where(projects.c.id == old.id).values(external_id=-old.id, settings=aside.as_json())
            )
            connection.execute(jobs.delete().where(jobs.c.project_id == old.id, jobs.c.state == "due"))
            new = projects.insert().values(
                host=old.key.host,
                external_id=old.key.project_id,
                title=title,
                label_config=label_config,
                label_schema=asdict(schema),
                rule=asdict(old.rule),
                settings=old.state.successor(created).as_json(),
                created_at=now,
            )
            return lock(connection, connection.execute(new.returning(projects.c.id)).scalar_one())

    def encoder_ids(self) -> set[str]:
        """Of the encoders that serve a project, former ones too, or that are to."""
        with self.database.read() as connection:
            states = [ProjectState.model_validate(each) for each in connection.scalars(sa.select(projects.c.settings))]
        return {known.id for state in states for known in (state.encoder, state.next_encoder) if known}

    def _listed(self, *conditions: sa.ColumnElement[bool]) -> list[Project]:
        statement = sa.select(projects).where(*conditions).order_by(projects.c.id)
        with self.database.read() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def configure(self, project: Project, **changes: Any) -> Project:
        """Change fields of the project's state, by name; None takes one away. Raises TypeError for an unknown name."""
        with self.database.write() as connection:
            state = lock(connection, project.id).state.changed(**changes)
            connection.execute(projects.update().where(projects.c.id == project.id).values(settings=state.as_json()))
            return lock(connection, project.id)

    def upsert_project(
        self,
        key: ProjectKey,
        *,
        title: str,
        label_config: str,
        schema: LabelSchema,
        rule: ConsensusRule | None = None,
        state: dict[str, Any] | None = None,
    ) -> Project:
        """Make a project known, or bring it up to date. `state`: as `configure` takes it.

        A changed schema makes the next reconcile a full one (`full_at` is None), which decides every label again.
        """
        new = {
            "host": key.host,
            "external_id": key.project_id,
            "title": title,
            "label_config": label_config,
            "label_schema": asdict(schema),
            "rule": asdict(rule or ConsensusRule()),
            "settings": ProjectState().changed(**{"split_seed": self.seed} | (state or {})).as_json(),
            "created_at": self.clock(),
        }
        with self.database.write() as connection:
            connection.execute(
                self.database.insert(projects)
                .values(new)
                .on_conflict_do_nothing(index_elements=["host", "external_id"])
            )
            row = connection.execute(_by_key(key).with_for_update()).one()
            changes: dict[str, Any] = {
                name: new[name] for name in ("title", "label_config", "label_schema") if getattr(row, name) != new[name]
            }
            if "label_schema" in changes:
                # As stored JSON a tuple comes back as a list; only a real difference asks for a full reconcile.
                if _schema(row.label_schema) == schema:
                    del changes["label_schema"]
                else:
                    changes |= {"full_at": None, "judged": None}
            if rule is not None and row.rule != asdict(rule):
                changes |= {"rule": asdict(rule), "judged": None}
            stored = ProjectState.model_validate(row.settings).changed(**state or {}).as_json()
            if stored != row.settings:
                changes["settings"] = stored
            if changes:
                connection.execute(projects.update().where(projects.c.id == row.id).values(changes))
            return lock(connection, row.id)


def find(connection: Connection, key: ProjectKey) -> Project | None:
    """Return the project, or None."""
    row = connection.execute(_by_key(key)).one_or_none()
    return None if row is None else _record(row)


def lock(connection: Connection, project_id: int) -> Project:
    """Make this transaction the only one that changes the project's state, until it ends; returns the project as it is.

    SQLite's writers are alone anyhow; PostgreSQL locks the project's row. Raises NotFoundError for a forgotten project.
    """
    row = connection.execute(sa.select(projects).where(projects.c.id == project_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError("The project was removed here: run `ml-backend setup-project` again.")
    return _record(row)


def _by_key(key: ProjectKey) -> sa.Select[Any]:
    return sa.select(projects).where(projects.c.host == key.host, projects.c.external_id == key.project_id)


def _schema(stored: dict[str, Any]) -> LabelSchema:
    return LabelSchema(**{**stored, "labels": tuple(stored["labels"])})


def _record(row: Any) -> Project:
    return Project(
        id=row.id,
        key=ProjectKey(row.host, row.external_id),
        title=row.title,
        label_config=row.label_config,
        schema=_schema(row.label_schema),
        rule=ConsensusRule(**row.rule),
        state=ProjectState.model_validate(row.settings),
        created_at=row.created_at,
        reconciled_at=row.reconciled_at,
        full_at=row.full_at,
        several_of=row.several_of,
    )
