"""What Label Studio's users are called, as far as Label Studio shows it to who looks; their number elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ml_backend.errors import BackendError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.visitors import Caller, Visitors

logger = logging.getLogger(__name__)
Who = Callable[[int | None], str]


def user_names(project: Project, caller: Caller, services: Services, visitors: Visitors) -> Who:
    """The name of a user by number. Label Studio is asked with the first, and not at all where none is wanted.

    The operator, who has no token, sees what the service's own token does.
    """
    found: list[Mapping[int, str]] = []

    def who(number: int | None) -> str:
        if number is None:
            return "somebody unknown"
        if not found:
            token = caller.token or services.settings.hosts().get(project.key.host)
            try:
                found.append(visitors.persons.names(project, token))
            except BackendError as error:
                logger.info("%s: no names of users: %s", project.key, error)
                found.append({})
        return found[0].get(number) or f"user {number}"

    return who
