"""What people do in Label Studio that the service never does."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.labelstudio.client import LabelStudio


def skip(client: LabelStudio, task_id: int) -> None:
    path = f"/api/tasks/{task_id}/annotations/?was_cancelled=1"
    client.transport.call("POST", path, json={"result": [], "was_cancelled": True})


def delete_annotation(client: LabelStudio, annotation_id: int) -> None:
    client.transport.call("DELETE", f"/api/annotations/{annotation_id}/")


def delete_predictions_of(client: LabelStudio, project_id: int, task_ids: Sequence[int]) -> None:
    items = {"selectedItems": {"all": False, "included": list(task_ids)}}
    path = f"/api/dm/actions?id=delete_tasks_predictions&project={project_id}"
    client.transport.call("POST", path, json=items, timeout=120)


def delete_project(client: LabelStudio, project_id: int) -> None:
    client.transport.call("DELETE", f"/api/projects/{project_id}/", timeout=120)


def delete_tab(client: LabelStudio, tab_id: int) -> None:
    client.transport.call("DELETE", f"/api/dm/views/{tab_id}/")


def show_files_below(client: LabelStudio, project_id: int, path: str) -> None:
    """Let tasks of the project show files below `path`, a folder inside Label Studio's document root. Imports none."""
    body = {"project": project_id, "path": path, "use_blob_urls": True}
    client.transport.call("POST", "/api/storages/localfiles/", json=body)
