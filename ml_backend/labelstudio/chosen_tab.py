"""A Data Manager tab of the images that somebody chose on a page of ours."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.queue import list_of_tasks
from ml_backend.labelstudio.task_filters import column_filter

TAB = "Chosen images"


def show_chosen(client: LabelStudio, project_id: int, task_ids: Sequence[int]) -> int:
    """Have the tab show these tasks, some thousands at most, in place of those before. Returns its id."""
    of_these = column_filter("id", "in_list", sorted(task_ids))
    data = {"filters": {"conjunction": "and", "items": [of_these]}, "ordering": []}
    for tab in client.tabs(project_id):
        if tab["data"].get("title") == TAB:
            client.update_tab(tab["id"], tab["data"] | data)
            return int(tab["id"])
    return int(client.create_tab(project_id, list_of_tasks(TAB) | data)["id"])
