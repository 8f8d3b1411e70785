"""Whether somebody may change a project, asked of a real Label Studio with their own token: asking changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.rights import account, may_change
from tests.e2e.helpers import FakeBackend


def test_asking_whether_somebody_may_change_a_project_changes_nothing_and_tells_no_webhook(
    client: LabelStudio, new_project: Callable[..., int], backend: FakeBackend, three_users: list[LabelStudio]
) -> None:
    project = new_project(3)
    hook = {"send_payload": True, "send_for_all_actions": True}
    client.create_webhook(project, url=f"{backend.url}/webhook?project={project}", **hook)

    def now() -> dict[str, Any]:
        return dict(client.transport.call("GET", f"/api/projects/{project}/"))

    before = now()
    assert may_change(project, three_users[0])
    assert now() == before
    client.update_project(project)
    backend.wait_for("PROJECT_UPDATED")
    assert [event["action"] for event in backend.events] == ["PROJECT_UPDATED"], "of the PATCH without fields alone"
    assert account(three_users[0].whoami()) == "annotator-0@example.com"
