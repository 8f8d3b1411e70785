"""The bookkeeping of a project: its tasks, its labels, what is held out, and the rounds asked for.

Labels come from `reconcile` alone, that is from Label Studio's API; nothing else writes them. What reads here only reads:
between a change of the label config and the next reconcile, labels are those of the former config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ml_backend.records import AcceptedLabel, Annotation, Label, LabelSchema, Task
from ml_backend.store.answers import blank
from ml_backend.store.heldout import count_of, is_held_out
from ml_backend.store.pictures import Pictures, resting
from ml_backend.store.projects import Project
from ml_backend.store.reconcile import ReconcileReport, reconcile
from ml_backend.store.rounds import still_waiting, unanswered
from ml_backend.store.rows import (
    ACCEPTED_COLUMNS,
    SAME_TASK,
    SAME_TASK_ACCEPTED,
    STREAM,
    Counts,
    LedgerRow,
    PoolRows,
    Split,
    accepted_of,
    label_of,
    pieces,
    task_of,
)
from ml_backend.store.schema import accepted, answers, labels, queries, rounds, tasks
from ml_backend.store.set_aside import SetAside


class Ledger(Pictures, SetAside):
    """The ledger of all projects of one store."""

    def reconcile(
        self,
        project: Project,
        changed: Iterable[tuple[Task, list[Annotation] | None]],
        *,
        full: bool,
        gone: Iterable[int] = (),
        now: datetime | None = None,
    ) -> ReconcileReport:
        """Make the ledger agree with what Label Studio's API says; the only way labels get in.

        changed: tasks with all their annotations, which replace what was known of them; None in place of the
            annotations means that they are as they were. Consumed once, a chunk at a time.
        full: `changed` is every task of the project, so what is missing there is gone.
        gone: tasks known to be gone (an incremental listing cannot show them).
        now: when the listing began, by Label Studio's clock if that is known; kept as `Project.reconciled_at`.

        Should `changed` raise, what it gave before is kept, nothing is taken for gone, and `reconciled_at` stays.
        One reconcile at a time a project: the running job's.
        """
        return reconcile(self.database, project, changed, gone=gone, full=full, now=now or self.clock())

    def labels(self, project: Project, *, split: Split | None = None) -> list[Label]:
        """Every label that counts, by task id; of one split if asked."""
        statement = (
            sa.select(labels, tasks.c.conflict)
            .join_from(labels, tasks, SAME_TASK)
            .where(labels.c.project_id == project.id)
            .order_by(labels.c.task_id)
        )
        if split is not None:
            held_out = is_held_out(project)
            statement = statement.where(held_out if split == "holdout" else sa.not_(held_out))
        with self.database.read() as connection:
            return [label_of(row) for row in connection.execute(statement)]

    def accepted(self, project: Project, *, certificate: str | None = None) -> Iterator[AcceptedLabel]:
        """The labels that stand as a model's, by task id, streamed; those of one certificate if asked."""
        statement = sa.select(*ACCEPTED_COLUMNS).where(accepted.c.project_id == project.id)
        if certificate is not None:
            statement = statement.where(accepted.c.certificate == certificate)
        with self.database.read() as connection:
            rows = connection.execute(statement.order_by(accepted.c.task_id).execution_options(yield_per=STREAM))
            yield from filter(None, map(accepted_of, rows))

    def label_digest(self, project: Project) -> str:
        """SHA-256 over (task id, split, labels) of every label, by task id: the same digest, the same training set."""
        digest = hashlib.sha256()
        statement = (
            sa.select(labels.c.task_id, _split(project), sa.type_coerce(labels.c.labels, sa.Text))
            .join_from(labels, tasks, SAME_TASK)
            .where(labels.c.project_id == project.id)
            .order_by(labels.c.task_id)
        )
        with self.database.read() as connection:
            for task_id, split, names in connection.execute(statement.execution_options(yield_per=STREAM)):
                digest.update(f"{task_id} {split} {names}\n".encode())
        return digest.hexdigest()

    def unanswered_between(self, project: Project, start: datetime, end: datetime) -> int:
        """How many tasks without answer or skip Label Studio last changed in [start, end), as far as is known."""
        statement = (
            sa.select(sa.func.count())
            .select_from(tasks)
            .where(
                tasks.c.project_id == project.id,
                sa.not_(tasks.c.gone),
                tasks.c.answers == 0,
                tasks.c.skips == 0,
                tasks.c.updated_at >= start,
                tasks.c.updated_at < end,
            )
        )
        with self.database.read() as connection:
            return int(connection.scalar(statement) or 0)

    def counts(self, project: Project) -> Counts:
        by_task = (
            sa.select(
                sa.func.count().label("tasks"),
                count_of("conflicts", tasks.c.conflict),
                count_of("failed_images", tasks.c.image_error.is_not(None)),
                count_of("waiting", still_waiting()),
                count_of("aside", unanswered(), tasks.c.aside),
            )
            .select_from(tasks)
            .where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone))
        )
        # What is gone has no label: a join with all tasks would take as long as all else together.
        of_people = sa.select(sa.func.count().label("labelled")).where(labels.c.project_id == project.id)
        of_model = sa.select(sa.func.count().label("accepted")).where(accepted.c.project_id == project.id)
        by_annotation = sa.select(
            count_of("quarantined", answers.c.quarantine.is_not(None)),
            count_of("skips", answers.c.was_cancelled),
            count_of("blanks", blank(project.schema)),
        ).where(answers.c.project_id == project.id)
        with self.database.read() as connection:
            counted = (by_task, of_people, of_model, by_annotation)
            found = [connection.execute(statement).mappings().one() for statement in counted]
            held_out = self.holdout_counts(connection, project)
        return Counts(**found[0], **found[1], **found[2], **found[3], **held_out)

    def tasks(self, project: Project, task_ids: Iterable[int] | None = None) -> Iterator[Task]:
        """The tasks as last seen, by id, streamed. Tasks that are gone are left out.

        All of them as of one moment; of those in `task_ids` a piece at a time, so that work of hours holds no snapshot.
        """
        if task_ids is None:
            yield from self._stream(project)
            return
        for piece in pieces(task_ids):
            yield from list(self._stream(project, tasks.c.task_id.in_(piece)))

    def pool(self, project: Project, task_ids: Iterable[int] | None = None, *, hashes: bool = True) -> PoolRows:
        """Read the whole project, or those tasks, into arrays; a million take a few seconds and about 100 bytes each, 200 at times.

        Classes are those of the given `project`. A label that its config does not allow (any more) is none. hashes: False leaves
        out two thirds of the bytes.
        """
        zero: sa.ColumnElement[int] = sa.literal_column("0", sa.Integer)
        conditions = _FLAGS | {_HELD: is_held_out(project), _RESTING: resting(self.clock())}
        flags = sum((sa.case((condition, bit), else_=0) for bit, condition in conditions.items()), start=zero)
        names = sa.type_coerce(labels.c.labels, sa.Text)
        digest = tasks.c.content_hash if hashes else sa.null()
        statement = (
            sa.select(tasks.c.task_id, digest, names, flags, tasks.c.place, tasks.c.reached)
            .select_from(tasks.outerjoin(labels, SAME_TASK))
            .where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone))
            .order_by(tasks.c.task_id)
        )
        some = (
            [statement] if task_ids is None else [statement.where(tasks.c.task_id.in_(few)) for few in pieces(task_ids)]
        )
        with self.database.read() as connection:
            results = (connection.execute(each.execution_options(yield_per=STREAM)) for each in some)
            columns = [_arrays(part, "S64" if hashes else "S1") for result in results for part in result.partitions()]
        return _pool_rows(columns, project.schema)

    def rows(self, project: Project) -> Iterator[LedgerRow]:
        """Everything known of each task, by task id; one snapshot, streamed, in memory that does not grow."""
        statement = (
            sa.select(
                tasks,
                _split(project).label("split"),
                labels.c.labels,
                labels.c.annotation_id,
                labels.c.annotators,
                labels.c.agreement,
                labels.c.ground_truth,
                labels.c.labelled_at,
                *ACCEPTED_COLUMNS,
                *(queries.c[name] for name in _QUERY_FIELDS),
                *(rounds.c[name] for name in _ROUND_FIELDS),
                rounds.c.created_at.label("queried_at"),
            )
            .select_from(
                tasks.outerjoin(labels, SAME_TASK)
                .outerjoin(accepted, SAME_TASK_ACCEPTED)
                .outerjoin(
                    queries,
                    sa.and_(
                        queries.c.project_id == tasks.c.project_id,
                        queries.c.round == tasks.c.last_round,
                        queries.c.task_id == tasks.c.task_id,
                    ),
                )
                .outerjoin(
                    rounds,
                    sa.and_(rounds.c.project_id == tasks.c.project_id, rounds.c.number == tasks.c.last_round),
                )
            )
            .where(tasks.c.project_id == project.id, sa.not_(tasks.c.gone))
            .order_by(tasks.c.task_id)
        )
        with self.database.read() as connection:
            for row in connection.execute(statement.execution_options(yield_per=STREAM)):
                yield _ledger_row(row)


_ANSWERED, _SKIPPED, _HELD, _FOUND, _FAILED, _RESTING, _ACCEPTED, _ASIDE = 1, 2, 4, 8, 16, 32, 64, 128
_FLAGS = {
    _ANSWERED: tasks.c.answers > 0,
    _SKIPPED: tasks.c.skips > 0,
    _FOUND: tasks.c.found,
    _FAILED: tasks.c.image_error.is_not(None),
    _ACCEPTED: sa.and_(tasks.c.accepted > 0, tasks.c.answers == tasks.c.accepted),
    _ASIDE: tasks.c.aside,
}
_QUERY_FIELDS = ("arm", "rank", "acquisition", "reason", "confidence", "prediction")
_ROUND_FIELDS = ("strategy", "seed", "version")


def _ledger_row(row: Any) -> LedgerRow:
    asked = {} if row.rank is None else {name: getattr(row, name) for name in (*_QUERY_FIELDS, *_ROUND_FIELDS)}
    return LedgerRow(
        task=task_of(row),
        split=row.split,
        content_hash=row.content_hash,
        image_error=row.image_error,
        conflict=row.conflict,
        label=None if row.labels is None else label_of(row),
        skipped=row.labels is None and row.skips > 0,
        accepted=accepted_of(row),
        round=row.last_round,
        queried_at=row.queried_at,
        **asked,
    )


def _arrays(part: Sequence[Any], digest: str) -> tuple[NDArray[Any], ...]:
    """Turn rows into arrays chunk by chunk, so that the strings of a million rows never live at once."""
    ids, hashes, names, flags, places, reached = zip(*part, strict=True)
    return (
        np.array(ids, dtype=np.int64),
        np.array([h or "" for h in hashes], dtype=digest),
        np.array([n or "" for n in names], dtype=object),
        np.array(flags, dtype=np.uint8),
        np.array(places, dtype=np.float64),  # None becomes NaN
        np.array([r or 0 for r in reached], dtype=np.int64),
    )


def _pool_rows(columns: Sequence[tuple[NDArray[Any], ...]], schema: LabelSchema) -> PoolRows:
    kinds = (np.int64, "S64", object, np.uint8, np.float64, np.int64)
    parts = zip(*columns, strict=True) if columns else ([np.empty(0, dtype=kind)] for kind in kinds)
    ids, hashes, names, flags, places, reached = (np.concatenate(part) for part in parts)
    classes = {text: found for text in set(names) if text and (found := _classes(text, schema)) is not None}
    labelled = np.array([text in classes for text in names], dtype=np.bool_)
    rows = np.flatnonzero(labelled)
    label = np.full(len(ids), -1, dtype=np.int64)
    label[rows] = [next(iter(classes[names[row]]), -1) for row in rows]
    return PoolRows(
        ids=ids,
        hashes=hashes,
        labelled=labelled,
        labels=label,
        pairs=np.array([(row, c) for row in rows for c in classes[names[row]]], dtype=np.int64).reshape(-1, 2),
        answered=flags & _ANSWERED > 0,
        accepted=flags & _ACCEPTED > 0,
        skipped=(flags & _SKIPPED > 0) & ~labelled,
        failed=flags & _FAILED > 0,
        resting=flags & _RESTING > 0,
        holdout=flags & _HELD > 0,
        aside=flags & _ASIDE > 0,
        places=places,
        reached=reached,
        found=flags & _FOUND > 0,
    )


def _split(project: Project) -> sa.ColumnElement[str]:
    return sa.case((is_held_out(project), "holdout"), else_="train")


def _classes(text: str, schema: LabelSchema) -> list[int] | None:
    """Class indices of a stored label, [] for none of them.

    None where it was decided by another config, and would be quarantined or blank by this one.
    """
    names = json.loads(text)
    fits = set(names) <= set(schema.labels) and (schema.multiple or len(names) == 1)
    return [schema.labels.index(name) for name in names] if fits else None
