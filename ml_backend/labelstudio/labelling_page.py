"""What Label Studio's labelling page does for the annotator in front of it, in the same requests: the next task, an answer."""

from __future__ import annotations

from datetime import UTC, datetime

from ml_backend.errors import LabelStudioError, NotFoundError
from ml_backend.labelstudio.client import Json, LabelStudio


def next_task(client: LabelStudio, project_id: int) -> Json | None:
    """The task Label Studio serves this client's user now, or None when there is none left. Locks it for the user."""
    try:
        return dict(client.transport.call("GET", f"/api/projects/{project_id}/next"))
    except NotFoundError:
        return None


def submit(client: LabelStudio, task: Json, result: list[Json], *, lead_time: float = 1.0) -> Json:
    """Answer a task of `next_task` as the labelling page does: a draft first, then what the page was shown by name.

    Returns the annotation. `lead_time` is in seconds. Raises LabelStudioError where a prediction that the page shows is
    gone, which is what an annotator would see.
    """
    shown = task["predictions"][0]["id"] if task["predictions"] else None
    now = datetime.now(UTC).isoformat()
    body: Json = {"lead_time": lead_time, "result": result, "parent_prediction": shown, "parent_annotation": None}
    body |= {"started_at": now, "project": str(task["project"])}
    of_task, project = f"/api/tasks/{task['id']}", f"?project={task['project']}"
    draft = client.transport.call("POST", f"{of_task}/drafts{project}", json=body | {"draft_id": 0})
    body |= {"draft_id": draft["id"], "unique_id": task["unique_lock_id"]}
    try:
        return dict(client.transport.call("POST", f"{of_task}/annotations/{project}", json=body))
    except LabelStudioError as error:
        if "unique id already exists" not in str(error):
            raise
        # On SQLite, Label Studio can store an answer and then fail on the draft (500, locked): sent again, it is there.
        return dict(client.task(task["id"])["annotations"][-1])
