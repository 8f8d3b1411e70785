"""Conditions on Label Studio's list of tasks (the filters of its Data Manager), each as the JSON it takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


def column_filter(column: str, operator: str, value: Any, kind: str = "Number") -> Json:
    """A condition on a column of Label Studio's list of tasks."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def last_changed(operator: str, moment: datetime) -> Json:
    """A condition on when a task was last changed; changing, skipping or deleting its annotations changes it."""
    if moment.tzinfo is None:
        raise ValueError("updated_since must be an aware time.")
    return column_filter("updated_at", operator, moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "Datetime")


def last_changed_between(start: datetime, end: datetime) -> list[Json]:
    """The conditions of a task last changed in [start, end)."""
    return [last_changed("greater_or_equal", start), last_changed("less", end)]


ANNOTATED = column_filter("annotations_ids", "empty", value=False)
UNLABELLED = [column_filter(count, "equal", 0) for count in ("total_annotations", "cancelled_annotations")]
