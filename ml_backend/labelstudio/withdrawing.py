"""Accepted labels taken back out of Label Studio: those of one certificate that nobody has touched, and nothing else.

Many at once, by what Label Studio calls "delete annotations". It deletes all annotations of a task, so it gets tasks that
have this one alone, on condition that they were not changed since they were read and that nobody has begun to change
them; Label Studio looks at that itself, when it deletes. What it leaves is read again and deleted one by one.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from ml_backend.chunks import chunks
from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio.bulk_annotations import settle
from ml_backend.labelstudio.client import Json, LabelStudio
from ml_backend.labelstudio.results import annotation_from_json, marked_with, parse_time
from ml_backend.labelstudio.task_filters import column_filter, last_changed
from ml_backend.records import Annotation, LabelSchema

logger = logging.getLogger(__name__)

CHUNK = 200
"""Tasks a request: Label Studio needs about a second for them on SQLite, in which a Submit waits."""
WRITERS = 4

_FIELDS = "id,updated_at,annotations,result,completed_by,updated_by,was_cancelled,ground_truth,lead_time,created_at"
_NO_DRAFT = column_filter("draft_exists", "equal", value=False, kind="Boolean")


@dataclass
class Withdrawn:
    """Tasks whose accepted label was taken back; that keep it because somebody has made it theirs, changed or not."""

    withdrawn: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """A task with labels of the certificate. ours: untouched. alone: it has no other annotation."""

    id: int
    ours: tuple[Annotation, ...]
    touched: bool
    alone: bool
    updated_at: datetime


def withdraw(
    project_id: int,
    schema: LabelSchema,
    certificate: str,
    client: LabelStudio,
    *,
    task_ids: Iterable[int] | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Withdrawn:
    """Delete every annotation that was written under this certificate and that nobody has touched since.

    task_ids: of these tasks alone. on_progress: tasks done with. Safe to repeat, also after a kill at any line: what is
    still to be deleted is found by what it says of itself. Raises LabelStudioUnavailableError where a later call may succeed.
    """
    settle(project_id, client)  # what a writing that was killed has under way must not come in after we looked
    report = Withdrawn()
    for page in _pages(project_id, schema, certificate, client, task_ids):
        report.kept += [task.id for task in page if task.touched and not task.ours]
        mine = [task for task in page if task.ours]
        for part in chunks([task for task in mine if task.alone], CHUNK):
            _at_once(project_id, part, client)
            on_progress(len(part))
        left = _read(project_id, schema, certificate, client, [task.id for task in mine])
        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(lambda task: _one_by_one(task, schema, client), [task for task in left if task.ours]))
        kept = {task.id for task in _read(project_id, schema, certificate, client, [task.id for task in mine])}
        for task in mine:
            (report.kept if task.id in kept else report.withdrawn).append(task.id)
        on_progress(sum(not task.alone for task in mine))
    return report


def _pages(
    project_id: int, schema: LabelSchema, certificate: str, client: LabelStudio, task_ids: Iterable[int] | None
) -> Iterator[list[_Task]]:
    """The tasks that have labels of the certificate, touched or not, some at a time."""
    if task_ids is None:
        pages: Iterable[list[Json]] = client.annotated_pages(project_id, _FIELDS)
    else:
        pages = (client.listed(project_id, ids, _FIELDS, "all") for ids in chunks(sorted(set(task_ids)), 5 * CHUNK))
    for page in pages:
        yield _marked(page, schema, certificate)


def _read(
    project_id: int, schema: LabelSchema, certificate: str, client: LabelStudio, task_ids: Sequence[int]
) -> list[_Task]:
    if not task_ids:
        return []
    return _marked(client.listed(project_id, task_ids, _FIELDS, "all"), schema, certificate)


def _marked(page: Iterable[Json], schema: LabelSchema, certificate: str) -> list[_Task]:
    found = []
    for raw in page:
        marked = [item for item in raw["annotations"] if marked_with(item) == certificate]
        if not marked:
            continue
        read = [annotation_from_json(schema, item, task_id=raw["id"]) for item in marked]
        ours = tuple(annotation for annotation in read if annotation.accepted == certificate)
        alone = len(raw["annotations"]) == len(ours) == 1
        found.append(_Task(raw["id"], ours, len(ours) < len(marked), alone, parse_time(raw["updated_at"])))
    return found


def _at_once(project_id: int, tasks: Sequence[_Task], client: LabelStudio) -> None:
    """Label Studio deletes what nobody else has written, on tasks that are as they were read.

    One that refuses leaves them to be deleted one by one.
    """
    of: dict[int | None, list[_Task]] = defaultdict(list)
    for task in tasks:
        of[task.ours[0].annotator].append(task)
    for annotator, theirs in of.items():
        unchanged = last_changed("less_or_equal", max(task.updated_at for task in theirs))
        filters = {"conjunction": "and", "items": [unchanged, _NO_DRAFT]}
        ids = [task.id for task in theirs]
        try:
            client.act(project_id, "delete_tasks_annotations", ids, annotator=annotator, filters=filters)
        except LabelStudioUnavailableError:
            raise
        except LabelStudioError as error:
            logger.warning(
                "Taking back %d labels at once failed, so they are taken back one by one: %s", len(ids), error
            )


def _one_by_one(task: _Task, schema: LabelSchema, client: LabelStudio) -> None:
    """Delete each as it is at that moment: still ours, and with no draft of somebody who is changing it."""
    for annotation in task.ours:
        now = client.annotation(annotation.id)
        if now is None or annotation_from_json(schema, now, task_id=task.id).accepted is None:
            continue
        if not any(draft.get("annotation") == annotation.id for draft in client.drafts(task.id)):
            client.delete_annotation(annotation.id)
