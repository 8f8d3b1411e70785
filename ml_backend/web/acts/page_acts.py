"""The acts of a project's page: who may ask for them, what they would come to, and the log of what was done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.task_names import printable
from ml_backend.web.acts import chosen_acts, settings_acts, turn_acts, version_acts
from ml_backend.web.acts.page_act import Given, PageAct
from ml_backend.web.visitors import Caller, Visitors
from ml_backend.wording import encodable, shortened

logger = logging.getLogger(__name__)

ACTS: Mapping[str, PageAct] = {
    act.name: act for act in (*turn_acts.ACTS, *version_acts.ACTS, *settings_acts.ACTS, *chosen_acts.ACTS)
}
"""All of them, by name."""


def waits(name: str) -> bool:
    """Whether the act of this name may last for minutes: it is to keep none of the others waiting."""
    return name in ACTS and ACTS[name].waits


class PageActs:
    """The acts of all projects."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._services, self._visitors = services, visitors

    def would(self, project: Project, caller: Caller, name: str, given: Given) -> dict[str, str]:
        """The question to ask once. Raises ForbiddenError for who may not change the project, and what is wrong with the act."""
        self._visitors.acts(project, caller)
        act = _named(name)
        act.check(project, self._services, given)
        says = act.would(project, self._services, given)
        return {"title": act.title, "yes": act.yes, "says": encodable(says)}

    def do(self, project: Project, caller: Caller, name: str, given: Given) -> dict[str, str]:
        """Do it, and keep who did it. Raises what `would` does."""
        visitor, act = self._visitors.acts(project, caller), _named(name)
        act.check(project, self._services, given)
        done = act.do(project, self._services, given, visitor)
        said = encodable(done.said)
        undo: dict[str, Any] | None = asdict(done.undo) if done.undo else None
        detail = {"said": shortened(said, 2_000), "undo": undo}
        self._services.acts.record(project, name, account=visitor.account, person=visitor.name, detail=detail)
        logger.info("%s on %s: done for %s: %s", name, project.key, printable(visitor.account), printable(said))
        return {"said": said}


def _named(name: str) -> PageAct:
    if name not in ACTS:
        raise NotFoundError("There is no such act: reload the page.")
    return ACTS[name]
