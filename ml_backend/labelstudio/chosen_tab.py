"""A Data Manager tab of the images that somebody chose on a page of ours.

Its filters are such as Label Studio's page makes itself, an id or a range of ids each: one that it does not know, as `in_list`, which its
API takes, leaves its page loading for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.client import Json, LabelStudio
from ml_backend.labelstudio.queue import list_of_tasks
from ml_backend.labelstudio.task_filters import column_filter

TAB = "Chosen images"
CONDITIONS = 300
"""Conditions of the tab: each costs Label Studio two questions to its database, and SQLite takes fewer than 1,000 of them."""


def filters_of(task_ids: Iterable[int]) -> list[Json]:
    """Conditions of which a task meets one. Raises InvalidInputError where these would be too many."""
    runs: list[list[int]] = []
    for task in sorted(set(task_ids)):
        if runs and task == runs[-1][-1] + 1:
            runs[-1][1:] = [task]
        else:
            runs.append([task])
    if len(runs) > CONDITIONS:
        raise InvalidInputError(
            f"Label Studio's page cannot list these: it takes {CONDITIONS} images, or rows of images with ids one after the other, and "
            f"here are {len(runs):,}. Choose fewer."
        )
    return [
        column_filter("id", "equal", run[0])
        if len(run) == 1
        else column_filter("id", "in", {"min": run[0], "max": run[-1]})
        for run in runs
    ]


def show_chosen(client: LabelStudio, project_id: int, task_ids: Sequence[int]) -> int:
    """Have the tab show these tasks in place of those before. Returns its id. Raises what `filters_of` does."""
    data = {"filters": {"conjunction": "or", "items": filters_of(task_ids)}, "ordering": []}
    for tab in client.tabs(project_id):
        if tab["data"].get("title") == TAB:
            client.update_tab(tab["id"], tab["data"] | data)
            return int(tab["id"])
    return int(client.create_tab(project_id, list_of_tasks(TAB) | data)["id"])
