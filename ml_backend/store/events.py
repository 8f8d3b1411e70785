"""Webhook events, kept as hints: which tasks to look at, and that a project is due.

An event never writes a label. It is durable before `record` returns, together with the job it asks for, in one short
transaction. Lost, doubled, late and reordered events change nothing in the end, because labels come from the API.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.errors import InvalidInputError, NotFoundError, TooLargeError
from ml_backend.records import ProjectKey
from ml_backend.store.database import Clock, Database, utc_now
from ml_backend.store.group_commit import GroupCommit
from ml_backend.store.jobs import Jobs
from ml_backend.store.project_state import ChosenSettings
from ml_backend.store.projects import Project
from ml_backend.store.schema import answers, events, ignored_events, projects, rounds

REMEMBER = timedelta(days=1)
"""How long settled events are kept, to know a doubled delivery by. Label Studio does not retry at all."""

MOST_WAITING = 50_000
"""Events of a project that wait for its next turn; further ones make it due, and nothing is kept of them."""
MOST_NAMED = 10_000
"""Tasks or annotations that one event may name. Label Studio sends them in pieces of 5,000."""
OF_MODEL = "accepted-"
"""What the id of the region of an accepted label begins with."""
OTHERS = frozenset({"PROJECT_CREATED", "LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED"})
"""Events of Label Studio that mean nothing here. They are counted by name, all others together: anybody can invent names."""

_QUEUED = sa.exists().where(rounds.c.project_id == projects.c.id, rounds.c.number > 0, rounds.c.pushed_at.is_not(None))
_CHOSEN = projects.c.settings["chosen"]
_PROJECT = (
    sa.select(projects.c.id, projects.c.label_config, _QUEUED.label("queued"), _CHOSEN.label("chosen"))
    .where(projects.c.host == sa.bindparam("host"), projects.c.external_id == sa.bindparam("external_id"))
    .with_for_update()  # on PostgreSQL, too, event numbers then follow commits
)


@dataclass(frozen=True)
class Event:
    """What an event says, as far as it matters here.

    labels: how many answers it adds, changes or takes away. immediately: a person asked, do not wait.
    fingerprint: the same for the same event delivered twice.
    """

    action: str
    task_ids: tuple[int, ...] = ()
    annotation_ids: tuple[int, ...] = ()
    labels: int = 0
    immediately: bool = False
    fingerprint: str = ""


@dataclass(frozen=True)
class Receipt:
    """What became of an event: ignored (an action unknown here), duplicate (delivered before), or counted."""

    known: bool
    duplicate: bool
    labels: int


@dataclass(frozen=True)
class PendingEvents:
    """What to look at first: everything the events up to number `up_to` name, not settled yet.

    task_ids: tasks whose answers changed, those of deleted annotations included where they are known.
    events: how many events that is.
    """

    up_to: int
    events: int
    task_ids: frozenset[int]


class Inbox:
    """The events of all projects of one store."""

    def __init__(self, database: Database, jobs: Jobs, *, clock: Clock = utc_now) -> None:
        self.database = database
        self.jobs = jobs
        self.clock = clock
        self._group_commit = GroupCommit(database)
        # This statement and _PROJECT are built once: each event would pay as long for building as for running them.
        self._keep_event = (
            database.insert(events)
            .on_conflict_do_nothing(index_elements=["project_id", "fingerprint"])
            .returning(events.c.id)
        )

    def record(self, key: ProjectKey, action: str, payload: Mapping[str, Any]) -> Receipt:
        """Keep an event and mark its project due. It is on disk when this returns.

        Raises NotFoundError for a project not set up here, InvalidInputError for a payload that is not Label Studio's.
        """
        reader = READERS.get(action)
        event = None if reader is None else reader(action, payload)
        return self._group_commit.write(lambda connection: self._record(connection, key, action, event, payload))

    def _record(
        self, connection: Connection, key: ProjectKey, action: str, event: Event | None, payload: Mapping[str, Any]
    ) -> Receipt:
        now = self.clock()
        where = {"host": key.host, "external_id": key.project_id}
        project = connection.execute(_PROJECT, where).one_or_none()
        if project is None:
            raise NotFoundError(f"The project {key} is not connected to this service: run `ml-backend setup-project`.")
        if event is None:
            self._ignore(connection, project.id, action if action in OTHERS else "other")
            return Receipt(known=False, duplicate=False, labels=0)
        if action == "PROJECT_UPDATED" and not _config_changed(project.label_config, payload):
            return Receipt(known=True, duplicate=False, labels=0)
        if not (self._is_full(connection, project.id) or self._keep(connection, project.id, event, now)):
            return Receipt(known=True, duplicate=True, labels=0)
        self.jobs.mark_due_in(
            connection,
            project.id,
            labels=event.labels,
            immediately=event.immediately,
            fresh=not project.queued,
            reason=action,
            now=now,
            debounce=self.jobs.debounce.of(ChosenSettings(**project.chosen)) if project.chosen else None,
        )
        return Receipt(known=True, duplicate=False, labels=event.labels)

    def pending(self, project: Project) -> PendingEvents:
        """What the events since the last `settle` name. Take it before listing, and settle it after reconciling."""
        unsettled = (events.c.project_id == project.id, events.c.settled_at.is_(None))
        statement = sa.select(events.c.id, events.c.task_ids, events.c.annotation_ids).where(*unsettled)
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
            named = {task_id for row in rows for task_id in row.task_ids}
            deleted = [annotation_id for row in rows for annotation_id in row.annotation_ids]
            for start in range(0, len(deleted), 1000):
                of = sa.select(answers.c.task_id).where(
                    answers.c.project_id == project.id, answers.c.annotation_id.in_(deleted[start : start + 1000])
                )
                named.update(connection.scalars(of))
        return PendingEvents(
            up_to=max((row.id for row in rows), default=0), events=len(rows), task_ids=frozenset(named)
        )

    def acknowledge(self, project: Project, touched: PendingEvents) -> None:
        """The tasks named up to there have been read from the API. Settled events are forgotten after a day."""
        now = self.clock()
        mine = events.c.project_id == project.id
        with self.database.write() as connection:
            connection.execute(
                events.update()
                .where(mine, events.c.id <= touched.up_to, events.c.settled_at.is_(None))
                .values(settled_at=now)
            )
            connection.execute(events.delete().where(mine, events.c.settled_at < now - REMEMBER))

    def ignored(self, project: Project) -> dict[str, int]:
        """How many events of each unknown action came in."""
        statement = sa.select(ignored_events.c.action, ignored_events.c["count"]).where(
            ignored_events.c.project_id == project.id
        )
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(statement.order_by(ignored_events.c.action))}

    def _keep(self, connection: Connection, project_id: int, event: Event, now: datetime) -> bool:
        """Insert the event; False if it is there already."""
        values = {
            "project_id": project_id,
            "fingerprint": event.fingerprint,
            "action": event.action,
            "task_ids": event.task_ids,
            "annotation_ids": event.annotation_ids,
            "labels": event.labels,
            "received_at": now,
        }
        return connection.execute(self._keep_event, values).one_or_none() is not None

    def _is_full(self, connection: Connection, project_id: int) -> bool:
        """Whether so many hints wait that one more is not kept: the next comparison with the whole project finds it."""
        statement = (
            sa.select(events.c.id)
            .where(events.c.project_id == project_id, events.c.settled_at.is_(None))
            .order_by(events.c.id)
            .limit(1)
            .offset(MOST_WAITING - 1)
        )
        return connection.scalar(statement) is not None

    def _ignore(self, connection: Connection, project_id: int, action: str) -> None:
        new = self.database.insert(ignored_events).values(project_id=project_id, action=action, count=1)
        connection.execute(
            new.on_conflict_do_update(
                index_elements=["project_id", "action"], set_={"count": ignored_events.c["count"] + 1}
            )
        )


def _annotations(action: str, payload: Mapping[str, Any]) -> Event:
    """Read ANNOTATION_CREATED, ANNOTATIONS_CREATED (the same key, a list) and ANNOTATION_UPDATED."""
    if _is_bare(payload):
        return _bare(action)
    given = _objects(payload, "annotation")
    created = action != "ANNOTATION_UPDATED"
    # A skip is no label, nor is what was accepted of a model; what turns into one takes a label away: an update counts.
    labels = sum(not (created and (item.get("was_cancelled") or _of_model(item))) for item in given)
    stamps = sorted((_id(item), str(item.get("updated_at") or uuid.uuid4())) for item in given)
    return Event(
        action,
        task_ids=tuple(sorted({_id(item, "task") for item in given if item.get("task") is not None})),
        labels=labels,
        fingerprint=_fingerprint(action, stamps),
    )


def _of_model(item: Mapping[str, Any]) -> bool:
    """Whether an annotation says of itself that it was accepted of a model. Only haste hangs on it."""
    result = item.get("result")
    first = result[0] if isinstance(result, list) and result else None
    return isinstance(first, Mapping) and str(first.get("id")).startswith(OF_MODEL)


def _annotations_deleted(action: str, payload: Mapping[str, Any]) -> Event:
    if _is_bare(payload):
        return _bare(action)
    ids = tuple(sorted(_id(item) for item in _objects(payload, "annotations")))
    return Event(action, annotation_ids=ids, labels=len(ids), fingerprint=_fingerprint(action, ids))


def _is_bare(payload: Mapping[str, Any]) -> bool:
    """Whether an event came without payload: it costs Label Studio less, and the API has all of it."""
    return payload.keys() <= {"action"}


def _bare(action: str) -> Event:
    """Count one label: a skip cannot be told from an answer, nor a doubled event from another. Only haste hangs on it.

    None for many at once: they are a program's, for which nobody waits, and more of them are on their way.
    """
    labels = 0 if action == "ANNOTATIONS_CREATED" else 1
    return Event(action, labels=labels, fingerprint=uuid.uuid4().hex)


def _tasks(action: str, payload: Mapping[str, Any]) -> Event:
    ids = tuple(sorted(_id(item) for item in _objects(payload, "tasks")))
    return Event(action, task_ids=ids, fingerprint=_fingerprint(action, ids))


def _each_time(action: str, _payload: Mapping[str, Any]) -> Event:
    """Read an event that means something every time it comes: no two are the same."""
    immediately = action in {"START_TRAINING", "PROJECT_DELETED"}
    return Event(action, immediately=immediately, fingerprint=uuid.uuid4().hex)


READERS: dict[str, Callable[[str, Mapping[str, Any]], Event]] = {
    "ANNOTATION_CREATED": _annotations,
    "ANNOTATIONS_CREATED": _annotations,
    "ANNOTATION_UPDATED": _annotations,
    "ANNOTATIONS_DELETED": _annotations_deleted,
    "TASKS_CREATED": _tasks,
    "TASKS_DELETED": _tasks,
    "PROJECT_UPDATED": _each_time,
    "PROJECT_DELETED": _each_time,
    "START_TRAINING": _each_time,
}
"""Every event of Label Studio that matters here; any other is accepted, counted and ignored."""


def _config_changed(known: str, payload: Mapping[str, Any]) -> bool:
    """Tell a changed label config from everything else that updates a project.

    Setting the version and the sampling after each push updates the project, too: were that a reason for a job, every
    queue would call for the next one.
    """
    given = payload.get("project")
    config = given.get("label_config") if isinstance(given, Mapping) else None
    return isinstance(config, str) and config.strip() != known.strip()


def _objects(payload: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return what `key` holds, one object or a list of them, as a list."""
    given = payload.get(key)
    items = [item for item in (given if isinstance(given, list) else [given]) if isinstance(item, Mapping)]
    if len(items) != (len(given) if isinstance(given, list) else 1):
        raise InvalidInputError(
            f"The event has no {key!r}. Turn on the webhook's payload (send_payload) in Label Studio."
        )
    if len(items) > MOST_NAMED:
        raise TooLargeError(
            f"The event names {len(items):,} {key}, and at most {MOST_NAMED:,} are taken: send it in several pieces."
        )
    return items


def _id(item: Mapping[str, Any], key: str = "id") -> int:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidInputError(
            f"The event names {str(value)[:100]!r} instead of a number ({key}): check that Label Studio sent it."
        )
    return value


def _fingerprint(action: str, what: object) -> str:
    return hashlib.sha256(json.dumps([action, what]).encode()).hexdigest()
