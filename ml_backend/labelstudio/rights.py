"""Who somebody is in Label Studio, and what Label Studio lets them do, asked with their own token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.errors import LabelStudioUnavailableError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.transport import detail_of, parsed
from ml_backend.wording import encodable

SOON_S = 5.0
"""Names are to be had soon, or not at all: a page waits."""
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


def names(client: LabelStudio) -> dict[int, str]:
    """What the users are called that Label Studio shows to the client's user; nobody where it shows nobody.

    Raises LabelStudioError where it cannot be reached.
    """
    answer = client.transport.send("GET", "/api/users/", timeout=SOON_S)
    listed = parsed(answer) if answer.ok else []
    users = listed.get("results") if isinstance(listed, dict) else listed
    return {user["id"]: called(user) for user in users or () if isinstance(user.get("id"), int)}


def called(user: Mapping[str, Any]) -> str:
    """As it goes into pages and stores, whatever stands in it."""
    full = " ".join(str(user.get(part) or "").strip() for part in ("first_name", "last_name")).strip()
    return _kept(full) or account(user)


def account(user: Mapping[str, Any]) -> str:
    """A name of the user that nobody else has."""
    return _kept(str(user.get("email") or user.get("username") or user.get("id")))


def _kept(name: str) -> str:
    """PostgreSQL keeps no NUL, and nothing half a character."""
    return encodable(name).replace("\0", "\\0")
