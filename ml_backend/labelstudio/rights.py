"""Who somebody is in Label Studio, and what Label Studio lets them do, asked with their own token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.errors import LabelStudioUnavailableError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.transport import detail_of

ALLOWED, REFUSED = (200, 400), (403, 404)
"""A config that does not pass is told, with 400, to those alone who may change it."""


def may_change(project_id: int, client: LabelStudio) -> bool:
    """Whether Label Studio lets the client's user change the project: by its own rights, whatever the edition.

    Asks to have the label config looked over that the project has: for that one needs the right to change the project, and
    unlike a PATCH without fields, which tells every webhook of a change, it changes and tells nothing. Raises
    LabelStudioUnavailableError where that is not answered.
    """
    config = client.get_project(project_id)["label_config"]
    answer = client.transport.send("POST", f"/api/projects/{project_id}/validate/", json={"label_config": config})
    if answer.status_code in (*ALLOWED, *REFUSED):
        return answer.status_code in ALLOWED
    raise LabelStudioUnavailableError(
        f"Label Studio does not say whether you may change the project ({answer.status_code}: {detail_of(answer)}): try again."
    )


def account(user: Mapping[str, Any]) -> str:
    """A name of the user that nobody else has."""
    return str(user.get("email") or user.get("username") or user.get("id"))
