"""The images on which annotators differ, with who said what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.insight.conflicts import PAGE, Conflict, conflicts, count
from ml_backend.insight.votes import in_order
from ml_backend.records import LabelSchema
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.task_names import printable, task_filename
from ml_backend.wording import encodable, shortened

Shown = dict[str, Any]
LONGEST = 60
"""Characters of a file's name."""


def look(project: Project, services: Services) -> Shown:
    return part(project, services, {})


def part(project: Project, services: Services, query: Mapping[str, str]) -> Shown:
    """p: which page, from 1."""
    total = count(project, services.database)
    last = max(1, -(-total // PAGE))
    asked = query.get("p", "")
    page = min(max(int(asked), 1), last) if asked.isascii() and asked.isdigit() and len(asked) < 9 else 1
    found = conflicts(project, services.database, page=page)
    tasks = {task.id: task for task in services.ledger.tasks(project, [each.task for each in found])}
    names = {number: encodable(printable(task_filename(task))) for number, task in tasks.items()}
    return {
        "total": total,
        "page": page,
        "last": last,
        "rows": [_row(each, names.get(each.task, ""), project.schema) for each in found],
    }


def _row(each: Conflict, name: str, schema: LabelSchema) -> Shown:
    return {
        "task": each.task,
        "name": shortened(name, LONGEST) or f"task {each.task}",
        "label": None if each.label is None else _said(each.label, schema),
        "votes": [
            {"who": vote.who, "says": _said(vote.labels, schema), "truth": vote.ground_truth} for vote in each.votes
        ],
        "at": f"{max(vote.at for vote in each.votes):%Y-%m-%d %H:%M}" if each.votes else "",
    }


def _said(labels: tuple[str, ...], schema: LabelSchema) -> str:
    return ", ".join(in_order(labels, schema)) or "none of them"
