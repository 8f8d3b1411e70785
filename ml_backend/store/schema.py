"""Every table, in one place. Times are aware UTC; lists of names are JSON text; each row belongs to one project."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    type_coerce,
)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC. SQLite has no time zones, so they are put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; the store keeps aware times only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JSONTuple(TypeDecorator[tuple[Any, ...]]):
    """A tuple of names or ids as JSON text. ASCII only, so that any name survives any database encoding."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else json.dumps(list(value), separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[Any, ...] | None:  # noqa: ARG002
        if value is None:
            return None
        return _short(value) if len(value) < 100 else tuple(json.loads(value))


@lru_cache(maxsize=4096)
def _short(value: str) -> tuple[Any, ...]:
    """Parse a short list once: a project's labels are the same few names a million times over."""
    return tuple(json.loads(value))


metadata = MetaData()

AutoId = BigInteger().with_variant(Integer, "sqlite")


def _project() -> Column[int]:
    return Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _project_key() -> Column[int]:
    return Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)


def _partial_index(
    name: str, *columns: str | Column[Any], where: ColumnElement[bool] | TextClause, unique: bool = False
) -> Index:
    """An index over the rows of which `where` is so, which SQLAlchemy is told once per database."""
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


store = Table(  # one row: which schema this is, and which store (model folders name it)
    "store",
    metadata,
    Column("schema_version", Integer, nullable=False),
    Column("store_id", String(32), nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", AutoId, primary_key=True),
    Column("host", Text, nullable=False),
    Column("external_id", BigInteger, nullable=False),  # Label Studio's own project id: unique within a host only
    Column("title", Text, nullable=False),
    Column("label_config", Text, nullable=False),
    Column("label_schema", JSON, nullable=False),
    Column("rule", JSON, nullable=False),
    Column("judged", Text),  # digest of the schema and rule by which `labels` was decided
    Column("settings", JSON, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("reconciled_at", UTCDateTime),
    Column("full_at", UTCDateTime),
    Column("several_of", Text),  # the `Choices` that asked for several when all was last listed, ""; NULL before
    UniqueConstraint("host", "external_id"),
    sqlite_autoincrement=True,  # an id is never given twice: folders and logs name it
)

tasks = Table(
    "tasks",
    metadata,
    _project_key(),
    Column("task_id", BigInteger, primary_key=True),
    Column("gone", Boolean, nullable=False, default=False),  # deleted or moved away; its place is remembered
    Column("answers", Integer, nullable=False, default=0),
    Column("accepted", Integer, nullable=False, default=0, server_default="0"),  # of the answers: accepted of a model
    Column("skips", Integer, nullable=False, default=0),
    Column("aside", Boolean, nullable=False, default=False, server_default=false()),  # not asked for until taken back
    Column("conflict", Boolean, nullable=False, default=False),
    Column("last_round", Integer),
    Column("content_hash", String(64)),
    Column("image_error", Text),
    Column("image_attempts", Integer),  # failures in a row that may pass
    Column("image_retry_at", UTCDateTime),  # when it is tried again; never by itself where there is an error alone
    Column("updated_at", UTCDateTime),
    Column("image", Text),
    Column("data", Text, nullable=False),
    Column("place", Float),  # in the split (split.py); unknown until the image was read
    Column("reached", Integer),  # the round from which on a held-out task is asked for
    Column("found", Boolean),  # answered before that by somebody's choice
    _partial_index("tasks_without_hash", "project_id", "task_id", where=text("content_hash IS NULL")),
    _partial_index("reached_tasks", "project_id", "reached", where=text("reached IS NOT NULL")),
)

answers = Table(
    "annotations",
    metadata,
    _project_key(),
    Column("annotation_id", BigInteger, primary_key=True),
    Column("task_id", BigInteger, nullable=False),
    Column("labels", JSONTuple, nullable=False),
    Column("was_cancelled", Boolean, nullable=False),
    Column("ground_truth", Boolean, nullable=False),
    Column("annotator", BigInteger),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("answered_by", BigInteger),  # who made it say what it says: the annotator, or whoever changed that
    Column("none_of", Text),  # the `Choices` of which it says: none of them
    Column("accepted", Text),  # the certificate under which it was accepted of a model; it is no person's answer
    Column("seconds", Float),  # that it took, as Label Studio's page measured it
    Column("quarantine", Text),  # why this answer cannot count under the present label config
    Index("annotations_by_task", "project_id", "task_id"),
)

# Small partial indexes, so that what is counted after every reconcile costs what is found, not what is there.
for _name, _table, _where in (
    ("conflicting_tasks", tasks, tasks.c.conflict),
    ("skipped_annotations", answers, answers.c.was_cancelled),
    ("quarantined_annotations", answers, answers.c.quarantine.is_not(None)),
    ("blank_annotations", answers, type_coerce(answers.c.labels, Text) == "[]"),
):
    _partial_index(_name, _table.c.project_id, where=_where)

labels = Table(  # decided by consensus from `answers`, one row per labelled task
    "labels",
    metadata,
    _project_key(),
    Column("task_id", BigInteger, primary_key=True),
    Column("labels", JSONTuple, nullable=False),
    Column("annotation_id", BigInteger, nullable=False),
    Column("annotators", JSONTuple, nullable=False),
    Column("agreement", Float, nullable=False),
    Column("ground_truth", Boolean, nullable=False),
    Column("labelled_at", UTCDateTime, nullable=False),
)

accepted = Table(  # one row per task whose label is a model's: nobody has labelled it
    "accepted",
    metadata,
    _project_key(),
    Column("task_id", BigInteger, primary_key=True),
    Column("labels", JSONTuple, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("annotation_id", BigInteger, nullable=False),
    Column("annotator", BigInteger),
    Column("accepted_at", UTCDateTime, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    _project_key(),
    Column("number", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("params", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("error", Text),
    Column("created_at", UTCDateTime, nullable=False),
    Column("pushed_at", UTCDateTime),
    Column("verified_at", UTCDateTime),
)

queries = Table(
    "queries",
    metadata,
    _project_key(),
    Column("round", Integer, primary_key=True),
    Column("task_id", BigInteger, primary_key=True),
    Column("rank", Integer, nullable=False),
    Column("arm", String(16), nullable=False),
    Column("acquisition", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("confidence", Float),
    Column("prediction", JSONTuple, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", AutoId, primary_key=True),
    _project(),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("labels", Integer, nullable=False),
    Column("immediate", Boolean, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("due_at", UTCDateTime, nullable=False),
    Column("started_at", UTCDateTime),
    Column("heartbeat_at", UTCDateTime),
    Column("finished_at", UTCDateTime),
    Column("worker", Text),
    Column("claims", Integer, nullable=False, default=0),  # fences off a worker that was taken for dead
    Column("failures", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("delays", Integer, nullable=False, default=0),
    Column("progress", Float, nullable=False, default=0.0),
    Column("message", Text, nullable=False, default=""),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("summary", JSON),
    Column("error", Text),
    _partial_index("one_due_job", "project_id", unique=True, where=text("state = 'due'")),
    _partial_index("one_running_job", "project_id", unique=True, where=text("state = 'running'")),
    Index("jobs_by_project", "project_id", "id"),
    Index("jobs_by_state", "state", "due_at"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("id", AutoId, primary_key=True),
    _project(),
    Column("fingerprint", String(64), nullable=False),  # the same delivery twice has the same one
    Column("action", String(64), nullable=False),
    Column("task_ids", JSONTuple, nullable=False),
    Column("annotation_ids", JSONTuple, nullable=False),
    Column("labels", Integer, nullable=False),
    Column("received_at", UTCDateTime, nullable=False),
    Column("settled_at", UTCDateTime),
    UniqueConstraint("project_id", "fingerprint"),
    _partial_index("unsettled_events", "project_id", "id", where=text("settled_at IS NULL")),
    sqlite_autoincrement=True,
)

ignored_events = Table(
    "ignored_events",
    metadata,
    _project_key(),
    Column("action", String(64), primary_key=True),
    Column("count", Integer, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    _project_key(),
    Column("number", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("meta", JSON, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("promoted_at", UTCDateTime),
    Column("turn", Integer),  # the how-manieth to be served, as good enough; times would go by a clock
)

serving = Table(  # the pointer: which version answers for a project
    "serving",
    metadata,
    _project_key(),
    Column("number", Integer, nullable=False),
    Column("pinned", Boolean, nullable=False, default=False),
)

acceptances = Table(  # attempts to have the rest labelled by the model
    "acceptances",
    metadata,
    _project_key(),
    Column("number", Integer, primary_key=True),
    Column("certificate_id", String(12), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("error", Float, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("risk", Float, nullable=False),
    Column("class_risk", Float, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("drawn", Integer, nullable=False),  # how many, from the front of the order, are asked for
    Column("sample", Integer),  # of them, those by which it is decided; NULL until that is known
    Column("complete", Boolean, nullable=False, default=False),  # nothing is left to look at
    Column("classes", JSONTuple, nullable=False),
    Column("size", Integer, nullable=False),
    Column("frozen", LargeBinary, nullable=False),  # the labels proposed, see `acceptances.Frozen`
    Column("progress", JSON(none_as_null=True)),
    Column("certificate", JSON(none_as_null=True)),
    _partial_index("one_audit", "project_id", unique=True, where=text("state = 'auditing'")),
)

acts = Table(  # what people did on our own pages
    "acts",
    metadata,
    Column("id", AutoId, primary_key=True),
    _project(),
    Column("at", UTCDateTime, nullable=False),
    Column("account", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Index("acts_by_project", "project_id", "id"),
    sqlite_autoincrement=True,
)
