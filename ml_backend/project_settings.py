"""The settings of one project: those of the service, but for what was chosen for it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.settings import Settings
from ml_backend.store.job import MOST_QUIET
from ml_backend.store.project_state import ChosenSettings
from ml_backend.store.projects import Project

CHOOSABLE = tuple(ChosenSettings.model_fields)
"""Names of the settings that a project may have for itself, as they are called in `Settings`."""
WORDS = {
    "strategy": "strategy",
    "batch_size": "batch size",
    "train_after_labels": "labels until a turn",
    "train_after_seconds": "seconds until a turn",
}
MOST_LABELS = 1_000_000
RESUME = "`ml-backend settings resume`"


def settings_of(project: Project, settings: Settings) -> Settings:
    """The service's settings with the project's own."""
    return settings.model_copy(update=_chosen(project))


def as_json(project: Project, settings: Settings) -> dict[str, Any]:
    """Each of them as it is, the service's own, which of them were chosen for the project, and since when it is paused."""
    mine = settings_of(project, settings)
    return {
        **{name: getattr(mine, name) for name in CHOOSABLE},
        "service": {name: getattr(settings, name) for name in CHOOSABLE},
        "chosen": sorted(_chosen(project)),
        "paused": project.state.paused,
    }


def shown(value: Any) -> str:
    """A value in a sentence."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(told: Mapping[str, Any]) -> str | None:
    """What `as_json` tells of the project's own settings, in a line; None where it has none."""
    own = [
        f"{WORDS[name]} {shown(told[name])} (the service's: {shown(told['service'][name])})" for name in told["chosen"]
    ]
    return ", ".join(own) or None


def would_be(project: Project, **changed: Any) -> Project:
    """The project as it would be with these settings, as `checked` returns them."""
    chosen = project.state.chosen.changed(**changed).as_json() or None
    return replace(project, state=project.state.changed(chosen=chosen))


def changes(before: Project, after: Project, settings: Settings) -> list[str]:
    """What a change of these came to, or would: a sentence each; none where nothing changed."""
    old, new = settings_of(before, settings), settings_of(after, settings)
    told = [
        f"{WORDS[name].capitalize()}: {shown(getattr(new, name))} instead of {shown(getattr(old, name))}."
        for name in CHOOSABLE
        if getattr(new, name) != getattr(old, name)
    ]
    renews = (old.strategy, old.batch_size) != (new.strategy, new.batch_size)
    if renews and after.state.paused:
        told.append(f"The project is paused: the queue is made anew once {RESUME} goes on.")
    elif renews:
        told.append(
            "The queue is made anew at once, unless it was made by hand or an audit is on: these come to their end before."
        )
    if _chosen(before) != _chosen(after) and not told:
        told.append("Nothing is different: these are the settings that were in force, whatever the service's become.")
    if after.state.paused and not before.state.paused:
        told.append(
            "Paused: nothing is trained and the queue stays as it is. A turn that is under way ends. People go on labelling, and their "
            f"answers are kept. {RESUME} goes on."
        )
    if before.state.paused and not after.state.paused:
        told.append("Resumed: a turn begins at once, with the answers given meanwhile.")
    return told


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given for settings, as `Tuning.choose` takes it; None: as the service is set.

    Raises InvalidInputError that lists all mistakes.
    """
    values = {name: value for name, value in given.items() if value is not None}
    mistakes = [f"{name!r} is no setting of a project" for name in given if name not in CHOOSABLE]
    try:
        read = Settings(**{name: value for name, value in values.items() if name in CHOOSABLE})
    except ValidationError as found:
        mistakes += [f"{error['loc'][0]} {_sentence(error['msg'])}" for error in found.errors()]
    else:
        for name, most in (("train_after_labels", MOST_LABELS), ("train_after_seconds", MOST_QUIET.total_seconds())):
            if getattr(read, name) > most:
                mistakes.append(f"{name} must be {most:,.0f} at most")
    if mistakes:
        raise InvalidInputError(f"Nothing was changed: {'; '.join(mistakes)}.")
    return {name: None if given[name] is None else getattr(read, name) for name in given}


def pause_sentence(project: Project) -> str | None:
    """That it is paused, since when, and what to do; None where it is not."""
    if not (since := project.state.paused):
        return None
    return (
        f"Paused since {since[:16].replace('T', ' ')} UTC: nothing is trained and the queue stays as it is, while answers are kept "
        f"for later. {RESUME} goes on."
    )


def refuse_paused(project: Project) -> None:
    """Raise ConflictError where the project is paused: nobody is to wait for a turn that does not come."""
    if sentence := pause_sentence(project):
        raise ConflictError(f"{project.title!r}: {sentence}")


def _chosen(project: Project) -> dict[str, Any]:
    chosen = project.state.chosen
    return {name: value for name in CHOOSABLE if (value := getattr(chosen, name)) is not None}


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should", "must").partition(", unable to parse")[0]
