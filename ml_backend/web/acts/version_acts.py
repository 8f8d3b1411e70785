"""Acts about the version that answers: promote one, pin one, unpin, roll back. The queue follows each, where it may."""

from __future__ import annotations

from ml_backend.errors import ConflictError
from ml_backend.manual_promotion import follow
from ml_backend.manual_promotion import unpin as unpin_version
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.version import Version, version_number
from ml_backend.web.acts.page_act import Asked, Done, Given, PageAct, word
from ml_backend.web.visitors import Visitor
from ml_backend.wording import measured


def _follows(project: Project, services: Services) -> str:
    if services.acceptances.is_blind(project):
        return "The queue follows once the audit that is on has ended."
    if project.state.paused:
        return "The project is paused: the queue follows once it goes on."
    return "The queue follows at once."


def _version(project: Project, services: Services, given: Given) -> Version:
    return services.versions.version(project, version_number(word(given, "version")))


def _told(version: Version) -> str:
    return f"{version.name} ({measured(version.meta.metrics.holdout)})"


def _now(project: Project, services: Services, version: Version) -> str:
    current = services.versions.current(project)
    return f", in place of {_told(current)}" if current and current.number != version.number else ""


def _back(project: Project, services: Services) -> Asked | None:
    """The act that has what is served now served again."""
    current = services.versions.current(project)
    if current is None:
        return None
    if services.versions.pinned(project):
        return Asked("pin", {"version": current.name}, f"Pin {current.name} again")
    return Asked("promote", {"version": current.name}, f"Serve {current.name} again")


def _check_choice(project: Project, services: Services, given: Given) -> None:
    version = _version(project, services, given)
    services.versions.folder(version)
    current = services.versions.current(project)
    if current is not None and current.number == version.number and services.versions.pinned(project):
        raise ConflictError(f"{version.name} is pinned already.")


def _check_promote(project: Project, services: Services, given: Given) -> None:
    _check_choice(project, services, given)
    version = _version(project, services, given)
    services.versions.check_pin(project, version.number)
    current = services.versions.current(project)
    if current is not None and current.number == version.number:
        raise ConflictError(f"{version.name} is served already.")


def _would_promote(project: Project, services: Services, given: Given) -> str:
    version = _version(project, services, given)
    beside = ""
    if services.jobs.status(project).running is not None:
        beside = " A turn is running, and its model takes over where it is good enough: pin the version to keep it."
    return f"{_told(version)} would be served until a better version is trained{_now(project, services, version)}. {_follows(project, services)}{beside}"


def _promote(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    undo, version = _back(project, services), _version(project, services, given)
    follow(project, services.versions.promote(project, version.number), services.jobs)
    return Done(f"{version.name} is served until a better version is trained.", undo)


def _would_pin(project: Project, services: Services, given: Given) -> str:
    version = _version(project, services, given)
    return f"{_told(version)} would be served until it is unpinned, whatever is trained meanwhile{_now(project, services, version)}. {_follows(project, services)}"


def _pin(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    undo, version = _back(project, services), _version(project, services, given)
    if undo is None or undo.act == "promote":
        undo = Asked("unpin", {}, "Unpin")
    follow(project, services.versions.pin(project, version.number), services.jobs)
    return Done(f"{version.name} is pinned: it is served until it is unpinned.", undo)


def _check_unpin(project: Project, services: Services, _given: Given) -> None:
    if not services.versions.pinned(project):
        raise ConflictError("No version is pinned.")


def _would_unpin(project: Project, services: Services, _given: Given) -> str:
    after = services.versions.after_unpin(project)
    serves = f"{_told(after)}, the newest that was good enough, would be served" if after else "Nothing would change"
    return f"{serves}, and each better one from now on. {_follows(project, services)}"


def _unpin(project: Project, services: Services, _given: Given, _by: Visitor) -> Done:
    undo = _back(project, services)
    unpin_version(project, services.versions, services.jobs)
    current = services.versions.current(project)
    return Done(f"Unpinned: {current.name if current else 'no version'} is served until a better one is trained.", undo)


def _left(given: Given) -> int | None:
    """The version that was served when somebody chose to roll back, where the page says so: two who do it at once mean one step."""
    return version_number(word(given, "version")) if "version" in given else None


def _check_roll_back(project: Project, services: Services, given: Given) -> None:
    services.versions.before(project, served=_left(given))


def _would_roll_back(project: Project, services: Services, given: Given) -> str:
    before = services.versions.before(project, served=_left(given))
    unpins = " It is unpinned." if services.versions.pinned(project) else ""
    return f"{_told(before)}, which was served before, would be served again{_now(project, services, before)}.{unpins} {_follows(project, services)}"


def _roll_back(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    undo = _back(project, services)
    version = follow(project, services.versions.roll_back(project, served=_left(given)), services.jobs)
    return Done(f"Rolled back: {version.name} is served.", undo)


ACTS = (
    PageAct("promote", "Serve this version?", "Serve it", _would_promote, _promote, _check_promote),
    PageAct("pin", "Pin this version?", "Pin it", _would_pin, _pin, _check_choice),
    PageAct("unpin", "Unpin?", "Unpin", _would_unpin, _unpin, _check_unpin),
    PageAct("roll-back", "Roll back?", "Roll back", _would_roll_back, _roll_back, _check_roll_back),
)
