"""Who calls, by their own Label Studio token: checked by Label Studio, kept by the page alone.

The token comes in a header and lives as long as the request. What is remembered, for a minute, is that a token like it may
see a project: a keyed digest, from which nobody gets the token back.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ml_backend.errors import (
    ConflictError,
    ForbiddenError,
    LabelStudioError,
    LabelStudioUnavailableError,
    NotFoundError,
)
from ml_backend.hosts import created_at, is_another
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.rights import account, called, may_change, names
from ml_backend.store.projects import Project

Found = TypeVar("Found")
TOKEN_HEADER = "X-Label-Studio-Token"  # noqa: S105 - the name of a header
REMEMBERED_S = 60.0
MOST = 10_000
"""People remembered at a time."""
TIMEOUT_S, RETRIES = 20.0, 1
"""Somebody waits at the page."""


@dataclass(frozen=True)
class Person:
    """A user of Label Studio who may see the project that they were looked up for. account: a name that is theirs alone."""

    id: int
    name: str
    account: str


class Persons:
    """Looks people up. Safe to share between threads."""

    def __init__(
        self, connect: Callable[[str, str], LabelStudio] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect or _connect
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._known: dict[tuple[str, int, bytes], tuple[Any, float]] = {}
        self._lock = threading.Lock()

    def client(self, project: Project, token: str | None) -> LabelStudio:
        """Label Studio as this person sees it. Raises ForbiddenError for what is no token."""
        return self._client(project.key.host, token)

    def _client(self, host: str, token: str | None) -> LabelStudio:
        if not token or not re.fullmatch(r"[!-~]{8,8000}", token):
            raise ForbiddenError(
                "Your own Label Studio token is missing: copy it in Label Studio from Account & Settings, Personal Access Token "
                f"(or Legacy Token), and send it in the header {TOKEN_HEADER}."
            )
        return self._connect(host, token)

    def of(self, project: Project, token: str | None) -> Person:
        """The person, who may see the project. Raises what `ask` does."""
        return self._remembered("see", project, token, lambda client: self.ask(project, client))

    def rights(self, project: Project, token: str | None) -> tuple[Person, bool]:
        """The person, who may see the project, and whether they may change it. Raises what `ask` does."""

        def look(client: LabelStudio) -> tuple[Person, bool]:
            return self.ask(project, client), may_change(project.key.project_id, client)

        return self._remembered("change", project, token, look)

    def projects(self, host: str, token: str | None) -> Mapping[int, int | None]:
        """By number, the projects that this Label Studio shows to the person, and when each was made. Raises what `ask` does."""

        def look(client: LabelStudio) -> dict[int, int | None]:
            try:
                return {int(each["id"]): created_at(each) for each in client.projects()}
            except LabelStudioUnavailableError:
                raise
            except LabelStudioError as error:
                raise ForbiddenError(str(error)) from None

        return self._remembered(f"list {host}", None, token, look, host)

    def names(self, project: Project, token: str | None) -> Mapping[int, str]:
        """What the users are called that Label Studio shows to the person. Raises what `labelstudio.rights.names` does."""
        return self._remembered("names", project, token, names)

    def who_may_change(self, project: Project, token: str | None) -> Person:
        """The person, asked now. Raises what `ask` does, and ForbiddenError for who may only look."""
        with self.client(project, token) as client:
            person = self.ask(project, client)
            if may_change(project.key.project_id, client):
                return person
        raise ForbiddenError(
            f"Label Studio lets {person.name} look at {project.title!r}, not change it: ask somebody who manages the project to "
            "do this."
        )

    def _remembered(
        self,
        what: str,
        project: Project | None,
        token: str | None,
        look: Callable[[LabelStudio], Found],
        host: str = "",
    ) -> Found:
        known = (what, project.id if project else 0, hashlib.blake2b((token or "").encode(), key=self._key).digest())
        with self._lock:
            found, until = self._known.get(known, (None, 0.0))
        if found is not None and self._clock() < until:
            return cast("Found", found)
        with self._client(project.key.host if project else host, token) as client:
            found = look(client)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[known] = found, self._clock() + REMEMBERED_S
        return found

    def ask(self, project: Project, client: LabelStudio) -> Person:
        """Have Label Studio say, now, who it is and that they may see the project.

        Raises ForbiddenError where it is not so, ConflictError where the project is another one by now,
        LabelStudioUnavailableError to try again later.
        """
        try:
            user, remote = client.whoami(), client.get_project(project.key.project_id)
        except LabelStudioUnavailableError:
            raise
        except NotFoundError:
            raise ForbiddenError(
                f"Label Studio does not show project {project.key.project_id} to the user of this token: use the token of somebody "
                "who may see the project, or ask for access to it."
            ) from None
        except LabelStudioError as error:
            raise ForbiddenError(str(error)) from None
        if is_another(project, created_at(remote)):
            raise ConflictError(
                f"{project.key} is another project by now: run `ml-backend sync run`, then open its page again."
            )
        number = user.get("id")
        if not isinstance(number, int):  # a page that stands before it, say
            raise LabelStudioUnavailableError("Label Studio does not say whose token this is: try again in a while.")
        return Person(number, called(user), account(user))


def _connect(host: str, token: str) -> LabelStudio:
    return LabelStudio(host, token, timeout=TIMEOUT_S, retries=RETRIES)
