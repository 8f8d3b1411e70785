"""Who looks at a page and who acts on it: a person by their own Label Studio token, or the operator by the service's password."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from ml_backend.hosts import is_another
from ml_backend.store.projects import Project
from ml_backend.web.access import BY_PASSWORD
from ml_backend.web.own_pages import Token
from ml_backend.web.persons import Person, Persons

OPERATOR = "the operator"
"""What one is called who came with the service's own password and no token."""


@dataclass(frozen=True)
class Caller:
    """What a request brought. operator: the service's own password, which was asked for and right."""

    token: str | None
    operator: bool


def _caller(request: Request, token: Token = None) -> Caller:
    return Caller(token, bool(request.scope.get(BY_PASSWORD)))


Called = Annotated[Caller, Depends(_caller)]


@dataclass(frozen=True)
class Visitor:
    """Somebody who may see a project. account: a name that is theirs alone. person: None for the operator."""

    name: str
    account: str
    may_act: bool
    person: Person | None = None


class Visitors:
    """Looks visitors up. Safe to share between threads."""

    def __init__(self, persons: Persons) -> None:
        self.persons = persons

    def looks(self, project: Project, caller: Caller) -> Visitor:
        """Who looks, with what they may. Raises what `Persons.ask` does, and ForbiddenError for nobody."""
        if self._is_operator(caller):
            return Visitor(OPERATOR, OPERATOR, may_act=True)
        person, may_act = self.persons.rights(project, caller.token)
        return Visitor(person.name, person.account, may_act, person)

    def acts(self, project: Project, caller: Caller) -> Visitor:
        """Who acts, asked of Label Studio now. Raises what `looks` does, and ForbiddenError for who may only look."""
        if self._is_operator(caller):
            return Visitor(OPERATOR, OPERATOR, may_act=True)
        person = self.persons.who_may_change(project, caller.token)
        return Visitor(person.name, person.account, may_act=True, person=person)

    def visible(self, host: str, caller: Caller) -> Callable[[Project], bool]:
        """Which projects of a Label Studio the caller may see: none that is another one by now. Raises ForbiddenError for nobody."""
        if self._is_operator(caller):
            return lambda project: project.key.host == host
        seen = self.persons.projects(host, caller.token)

        def may_see(project: Project) -> bool:
            number = project.key.project_id
            return project.key.host == host and number in seen and not is_another(project, seen[number])

        return may_see

    def _is_operator(self, caller: Caller) -> bool:
        """A token goes before the password: who sends both is who the token says."""
        return caller.operator and not caller.token
