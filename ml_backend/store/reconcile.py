"""Making the ledger agree with Label Studio's API, in short transactions and without holding a project in memory.

Every chunk of tasks is compared with what is known in a read-only snapshot; only what differs is written, and a task's
annotations, counts and label change in one transaction. Killed at any line, the ledger holds for each task either its
former or its present state, and the next reconcile makes good the rest.
"""

from __future__ import annotations

import json
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ml_backend.chunks import chunks
from ml_backend.records import Annotation, Label, Task
from ml_backend.store.answers import as_given, several_of
from ml_backend.store.consensus import Verdict, consensus
from ml_backend.store.database import Database
from ml_backend.store.projects import Project, lock
from ml_backend.store.rows import ANSWER_FIELDS, SAME_TASK, annotation_of, label_of, pieces
from ml_backend.store.schema import accepted, answers, labels, projects, tasks

CHUNK = 100
"""Tasks compared at a time."""
PIECE = 25
"""Tasks written before looking whether a webhook waits."""

Reported = tuple[Task, list[Annotation] | None]


@dataclass
class ReconcileReport:
    """What a reconcile changed. added, changed, deleted: tasks; one that came back counts as added."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    labels_added: int = 0
    labels_changed: int = 0
    labels_removed: int = 0

    @property
    def labels_touched(self) -> int:
        return self.labels_added + self.labels_changed + self.labels_removed


def reconcile(
    database: Database,
    project: Project,
    reported: Iterable[Reported],
    *,
    gone: Iterable[int],
    full: bool,
    now: datetime,
) -> ReconcileReport:
    """Do what `Ledger.reconcile` promises."""
    report = ReconcileReport()
    project = _reapply_consensus(database, project, report)
    seen = array("q")  # eight bytes a task: all that is remembered of the listing
    for chunk in chunks(reported, CHUNK):
        given = {task.id: (task, known) for task, known in chunk}
        seen.extend(given)
        _take(database, project, given, report)
    missing = [*gone, *(_unseen(database, project, seen) if full else ())]
    for ids in chunks(missing, CHUNK):
        _remove(database, project, ids, report)
    with database.write() as connection:
        reached = {"reconciled_at": now, **({"full_at": now, "several_of": several_of(project)} if full else {})}
        connection.execute(projects.update().where(projects.c.id == project.id).values(reached))
    return report


def _reapply_consensus(database: Database, project: Project, report: ReconcileReport) -> Project:
    """Decide every label anew if the label config or the rule has changed since. Returns the project as it is now."""
    with database.read() as connection:
        row = connection.execute(sa.select(projects.c.judged).where(projects.c.id == project.id)).one_or_none()
        if row is not None and row.judged == project.judged_by:
            return project
    with database.write() as connection:
        project = lock(connection, project.id)
    for ids in _answered(database, project):
        apply = partial(_apply_consensus, project=project, report=report)
        database.write_pieces(partial(apply, task_ids=part) for part in chunks(ids, PIECE))
    with database.write() as connection:
        if lock(connection, project.id).judged_by == project.judged_by:
            connection.execute(projects.update().where(projects.c.id == project.id).values(judged=project.judged_by))
    return project


def _apply_consensus(
    connection: Connection, *, project: Project, task_ids: Sequence[int], report: ReconcileReport
) -> None:
    """Decide these tasks by what is known of them now: what was reconciled a moment ago must not be undone."""
    _lock_tasks(connection, project.id, task_ids)
    known = _known_annotations(connection, project.id, task_ids)
    decisions = [_decide(project, task_id, known[task_id]) for task_id in task_ids]
    _tally(decisions, _known_labels(connection, project.id, task_ids), report)
    _write_decisions(connection, project, decisions)


def _lock_tasks(connection: Connection, project_id: int, task_ids: Sequence[int]) -> None:
    """Let nobody else decide these tasks before this transaction ends. SQLite's writers are alone anyhow."""
    these = (tasks.c.project_id == project_id, tasks.c.task_id.in_(task_ids))
    connection.execute(sa.select(tasks.c.task_id).where(*these).order_by(tasks.c.task_id).with_for_update())


def _answered(database: Database, project: Project) -> Iterator[Sequence[int]]:
    """Ids of the tasks with annotations, chunk by chunk; no transaction is open while one is worked on."""
    last = -1
    while True:
        statement = (
            sa.select(answers.c.task_id)
            .where(answers.c.project_id == project.id, answers.c.task_id > last)
            .distinct()
            .order_by(answers.c.task_id)
            .limit(CHUNK)
        )
        with database.read() as connection:
            ids = connection.scalars(statement).all()
        if not ids:
            return
        yield ids
        last = ids[-1]


def _take(database: Database, project: Project, given: Mapping[int, Reported], report: ReconcileReport) -> None:
    """Compare one chunk with what is known, and write the difference in one transaction."""
    asked = [task_id for task_id, (_, known) in given.items() if known is not None]
    with database.read() as connection:
        rows = connection.execute(
            sa.select(tasks.c.task_id, tasks.c.gone, tasks.c.image, tasks.c.data, tasks.c.updated_at).where(
                tasks.c.project_id == project.id, tasks.c.task_id.in_(list(given))
            )
        )
        before = {row.task_id: row for row in rows}
        known_before = _known_annotations(connection, project.id, asked)
        labels_before = _known_labels(connection, project.id, asked)
    changed_tasks = _changed_tasks(project, given, before, report)
    decisions = [
        _decide(project, task_id, [as_given(project, a, known_before[task_id]) for a in given[task_id][1] or []])
        for task_id in asked
        if set(given[task_id][1] or []) != set(known_before[task_id])
    ]
    _tally(decisions, labels_before, report)
    database.write_pieces(_pieces(database, project, changed_tasks, decisions))


def _pieces(
    database: Database,
    project: Project,
    rows: Sequence[dict[str, Any]],
    decisions: Sequence[_Decision],
) -> Iterator[Callable[[Connection], None]]:
    """The writing of one chunk, a few tasks at a time; everything is worked out, so the write lock is held briefly."""

    def write_tasks(connection: Connection, part: Sequence[dict[str, Any]]) -> None:
        _write_tasks(database, connection, part)

    def write_decisions(connection: Connection, part: Sequence[_Decision]) -> None:
        _write_decisions(connection, project, part)

    yield from (partial(write_tasks, part=part) for part in chunks(rows, PIECE))
    yield from (partial(write_decisions, part=part) for part in chunks(decisions, PIECE))


def _changed_tasks(
    project: Project, given: Mapping[int, Reported], before: Mapping[int, Any], report: ReconcileReport
) -> list[dict[str, Any]]:
    changed = []
    for task, _ in given.values():
        row, old = _task_row(project, task), before.get(task.id)
        if old is None or old.gone:
            report.added += 1
        elif (old.image, old.data) != (row["image"], row["data"]):
            report.changed += 1
        elif old.updated_at == row["updated_at"]:
            continue
        changed.append(row)
    return changed


def _task_row(project: Project, task: Task) -> dict[str, Any]:
    """What this service itself wrote into the task's data is no data of people."""
    ours = set(project.state.fields or ())
    data = {key: value for key, value in task.data.items() if key not in ours} if ours else task.data
    return {
        "project_id": project.id,
        "task_id": task.id,
        "gone": False,
        "image": task.image,
        "data": json.dumps(data, sort_keys=True, separators=(",", ":")),
        "updated_at": task.updated_at,
    }


def _write_tasks(database: Database, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert or replace. Another image means another content hash and place, so the old ones are dropped."""
    new = database.insert(tasks)
    same_image = new.excluded.image.is_not_distinct_from(tasks.c.image)
    statement = new.on_conflict_do_update(
        index_elements=["project_id", "task_id"],
        set_={
            "gone": False,
            "data": new.excluded.data,
            "updated_at": new.excluded.updated_at,
            "content_hash": sa.case((same_image, tasks.c.content_hash)),
            "image_error": sa.case((same_image, tasks.c.image_error)),
            "image_attempts": sa.case((same_image, tasks.c.image_attempts)),
            "image_retry_at": sa.case((same_image, tasks.c.image_retry_at)),
            "place": sa.case((same_image, tasks.c.place)),
            "reached": sa.case((same_image, tasks.c.reached)),
            "found": sa.case((same_image, tasks.c.found)),
            "image": new.excluded.image,
        },
    )
    connection.execute(statement, list(rows))


@dataclass(frozen=True)
class _Decision:
    """A task with all its annotations, and what they come to."""

    task_id: int
    annotations: Sequence[Annotation]
    verdict: Verdict


def _decide(project: Project, task_id: int, known: Sequence[Annotation]) -> _Decision:
    return _Decision(task_id, known, consensus(known, project.schema, project.rule))


def _tally(decisions: Sequence[_Decision], before: Mapping[int, Label], report: ReconcileReport) -> None:
    for decision in decisions:
        old, new = before.get(decision.task_id), decision.verdict.label
        report.labels_added += old is None and new is not None
        report.labels_removed += old is not None and new is None
        report.labels_changed += old is not None and new is not None and old != new


def _write_decisions(connection: Connection, project: Project, decisions: Sequence[_Decision]) -> None:
    """Replace annotations, label and counts of each task."""
    ids = [decision.task_id for decision in decisions]
    _lock_tasks(connection, project.id, ids)
    rows = {a.id: _annotation_row(project.id, a, d.verdict) for d in decisions for a in d.annotations}
    of_project = answers.delete().where(answers.c.project_id == project.id)
    connection.execute(of_project.where(answers.c.task_id.in_(ids)))
    for piece in pieces(rows):  # they may have been another task's
        connection.execute(of_project.where(answers.c.annotation_id.in_(piece)))
    if rows:
        connection.execute(answers.insert(), list(rows.values()))
    connection.execute(labels.delete().where(labels.c.project_id == project.id, labels.c.task_id.in_(ids)))
    decided = [_label_row(project.id, d.verdict.label) for d in decisions if d.verdict.label is not None]
    if decided:
        connection.execute(labels.insert(), decided)
    connection.execute(accepted.delete().where(accepted.c.project_id == project.id, accepted.c.task_id.in_(ids)))
    of_model = [{"project_id": project.id, **vars(found)} for d in decisions if (found := d.verdict.accepted)]
    if of_model:
        connection.execute(accepted.insert(), of_model)
    connection.execute(
        tasks.update()
        .where(tasks.c.project_id == project.id, tasks.c.task_id == sa.bindparam("of"))
        .values({name: sa.bindparam(name) for name in ("answers", "accepted", "skips", "conflict")}),
        [{"of": d.task_id, "accepted": d.verdict.of_model, **_counted(d.verdict)} for d in decisions],
    )


def _counted(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in ("answers", "skips", "conflict")}


def _annotation_row(project_id: int, annotation: Annotation, verdict: Verdict) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "annotation_id": annotation.id,
        "quarantine": verdict.quarantined.get(annotation.id),
        **{name: getattr(annotation, name) for name in ANSWER_FIELDS},
    }


def _label_row(project_id: int, label: Label) -> dict[str, Any]:
    return {"project_id": project_id} | {name: value for name, value in vars(label).items() if name != "conflict"}


def _known_labels(connection: Connection, project_id: int, task_ids: Sequence[int]) -> dict[int, Label]:
    statement = (
        sa.select(labels, tasks.c.conflict)
        .join_from(labels, tasks, SAME_TASK)
        .where(labels.c.project_id == project_id, labels.c.task_id.in_(task_ids))
    )
    return {row.task_id: label_of(row) for row in connection.execute(statement)}


def _known_annotations(connection: Connection, project_id: int, task_ids: Sequence[int]) -> dict[int, list[Annotation]]:
    rows = connection.execute(
        sa.select(answers).where(answers.c.project_id == project_id, answers.c.task_id.in_(task_ids))
    )
    known: dict[int, list[Annotation]] = defaultdict(list)
    for row in rows:
        known[row.task_id].append(annotation_of(row))
    return known


def _unseen(database: Database, project: Project, seen: array[int]) -> list[int]:
    with database.read() as connection:
        known = connection.scalars(
            sa.select(tasks.c.task_id).where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone))
        )
        ids = np.fromiter(known, dtype=np.int64)
    return [int(i) for i in np.setdiff1d(ids, np.frombuffer(seen, dtype=np.int64) if seen else ids[:0])]


def _remove(database: Database, project: Project, task_ids: Sequence[int], report: ReconcileReport) -> None:
    """Unlearn tasks that are gone. Their row stays, so that a task that comes back finds its place and its hash."""
    with database.write(bulk=True) as connection:
        held = connection.execute(
            labels.delete().where(labels.c.project_id == project.id, labels.c.task_id.in_(task_ids))
        )
        for table in (accepted, answers):
            connection.execute(table.delete().where(table.c.project_id == project.id, table.c.task_id.in_(task_ids)))
        left = connection.execute(
            tasks.update()
            .where(tasks.c.project_id == project.id, tasks.c.task_id.in_(task_ids), sa.not_(tasks.c.gone))
            .values(gone=True, answers=0, accepted=0, skips=0, conflict=False)
        )
    report.labels_removed += held.rowcount
    report.deleted += left.rowcount
