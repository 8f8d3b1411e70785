"""Acts about a project's own settings: change them, pause it, have it go on."""

from __future__ import annotations

from typing import Any

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.project_settings import CHOOSABLE, changes, checked, would_be
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.acts.page_act import Asked, Done, Given, PageAct
from ml_backend.web.visitors import Visitor
from ml_backend.wording import amount

AS_THE_SERVICE = ("", None)
"""What a field says that was left empty."""


def _asked(given: Given) -> dict[str, Any]:
    """What is to be changed: of a form that says what it was made of (`was`), only what somebody changed in it.

    Raises InvalidInputError for what no setting can be, and where nothing is asked for.
    """
    was = given.get("was")
    was = was if isinstance(was, dict) else None
    fields = {name: None if value in AS_THE_SERVICE else value for name, value in _fields(given).items()}
    wanted = checked({name: value for name, value in fields.items() if was is None or value != was.get(name)})
    if not wanted:
        raise InvalidInputError("Nothing was changed: choose another strategy or number first.")
    return wanted


def _fields(given: Given) -> dict[str, Any]:
    fields = {name: value for name, value in given.items() if name != "was"}
    for name, value in fields.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise InvalidInputError(f"Nothing was changed: {name[:40]!r} must be a name or a number.")
    return fields


def _check(project: Project, _services: Services, given: Given) -> None:
    if would_be(project, **_asked(given)) == project:
        raise InvalidInputError("It is so already: somebody else may have changed it just now.")


def _would(project: Project, services: Services, given: Given) -> str:
    return "\n".join(changes(project, would_be(project, **_asked(given)), services.settings))


def _choose(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    wanted = _asked(given)
    before, after = services.tuning.choose(project, **wanted)
    former = {name: getattr(before.state.chosen, name) for name in CHOOSABLE if name in wanted}
    return Done(" ".join(changes(before, after, services.settings)) or "It was so already.", Asked("settings", former))


def _check_pause(project: Project, _services: Services, _given: Given) -> None:
    if project.state.paused:
        raise ConflictError("The project is paused already.")


def _would_pause(project: Project, services: Services, _given: Given) -> str:
    running = services.jobs.status(project).running is not None
    audit = " The audit that is on goes on afterwards." if services.acceptances.is_blind(project) else ""
    return (
        f"Nothing would be trained, and the queue would stay as it is, until somebody has it go on.{' The turn that runs ends first.' if running else ''} "
        "People go on labelling: their answers are kept, and once the queue is used up Label Studio serves other tasks at "
        f"random.{audit}"
    )


def _pause(project: Project, services: Services, _given: Given, _by: Visitor) -> Done:
    return Done(" ".join(changes(*services.tuning.pause(project), services.settings)), Asked("resume", {}))


def _check_resume(project: Project, _services: Services, _given: Given) -> None:
    if not project.state.paused:
        raise ConflictError("The project is not paused.")


def _would_resume(project: Project, services: Services, _given: Given) -> str:
    due = services.jobs.status(project).due
    new = f", with {amount(due.labels, 'answer')} that came meanwhile" if due and due.labels else ""
    return f"A turn would begin at once{new}."


def _resume(project: Project, services: Services, _given: Given, _by: Visitor) -> Done:
    return Done(" ".join(changes(*services.tuning.resume(project), services.settings)), Asked("pause", {}))


ACTS = (
    PageAct("settings", "Change the settings of this project?", "Change them", _would, _choose, _check),
    PageAct("pause", "Pause this project?", "Pause it", _would_pause, _pause, _check_pause),
    PageAct("resume", "Have this project go on?", "Go on", _would_resume, _resume, _check_resume),
)
