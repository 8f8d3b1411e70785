"""An act on a project's page: what it is called, what it would come to, and how it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import InvalidInputError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.visitors import Visitor

Given = Mapping[str, Any]
"""What an act is asked for with, as plain JSON: names of few words, and whatever stood in the request."""


@dataclass(frozen=True)
class Asked:
    """An act that can be asked for, as by a button: its name, and what with. label: of the button."""

    act: str
    given: Given
    label: str = "Undo"


@dataclass(frozen=True)
class Done:
    """said: what came of an act. undo: the act that takes it back; None where nothing does."""

    said: str
    undo: Asked | None = None


@dataclass(frozen=True)
class PageAct:
    """An act of a project's page.

    name: in requests and in the log. title: the question that is asked once. yes: the button that agrees.
    check: raises what is wrong with it now (a BackendError that names the fix), as far as that is known at once.
    would: a sentence that says what it would come to. It changes nothing.
    do: does it, and says what came of it. Raises BackendError. `check` was called just before.
    waits: for what may last minutes, as a turn of the model.
    """

    name: str
    title: str
    yes: str
    would: Callable[[Project, Services, Given], str]
    do: Callable[[Project, Services, Given, Visitor], Done]
    check: Callable[[Project, Services, Given], None] = lambda *_: None
    waits: bool = False


def word(given: Given, name: str) -> str:
    """A short text that the act was asked for with. Raises InvalidInputError."""
    value = given.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 1_000:
        raise InvalidInputError(f"Say which {name}: a text of up to 1,000 characters.")
    return value
