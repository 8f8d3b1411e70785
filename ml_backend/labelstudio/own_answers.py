"""Answers that a person has just given to many tasks at once: which tasks are open for one, which became theirs, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ml_backend.labelstudio.bulk_annotations import WRITERS, answers_of
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.task_filters import column_filter
from ml_backend.records import Annotation, LabelSchema

_OPEN = column_filter("annotations_ids", "empty", value=True)


def open_tasks(project_id: int, task_ids: Collection[int], client: LabelStudio) -> set[int]:
    """Those of the tasks that are there and that nobody has answered or skipped, by Label Studio itself; PAGE at most."""
    if not task_ids:
        return set()
    query = {
        "selectedItems": {"all": False, "included": list(task_ids)},
        "filters": {"conjunction": "and", "items": [_OPEN]},
    }
    return {raw["id"] for raw in client.listing(project_id, "id", query, size=len(task_ids))["tasks"]}


def given_by(
    user: int, project_id: int, schema: LabelSchema, labels: Mapping[int, Sequence[str]], client: LabelStudio
) -> dict[int, Annotation]:
    """Task id -> the user's newest answer to it, of those tasks where that says what `labels` does."""
    found = answers_of(project_id, schema, labels, client)
    mine = {task: [a for a in given if a.annotator == user] for task, given in found.items()}
    newest = {task: max(given, key=lambda a: a.id) for task, given in mine.items() if given}
    return {task: answer for task, answer in newest.items() if answer.labels == tuple(labels[task])}


def take_back(
    project_id: int, schema: LabelSchema, given: Mapping[int, Annotation], client: LabelStudio
) -> tuple[list[int], list[int]]:
    """Delete these answers, by task, but for those that somebody has changed since; returns the tasks of both.

    An answer that is gone already counts as taken back. Safe to repeat.
    """
    now = answers_of(project_id, schema, given, client)
    same = {
        task: answer
        for task, answer in given.items()
        if all(_untouched(answer, other) for other in now.get(task, []) if other.id == answer.id)
    }
    with ThreadPoolExecutor(WRITERS) as deleters:
        list(deleters.map(lambda answer: client.delete_annotation(answer.id), same.values()))
    return list(same), [task for task in given if task not in same]


def _untouched(before: Annotation, now: Annotation) -> bool:
    return (before.labels, before.updated_at) == (now.labels, now.updated_at)
