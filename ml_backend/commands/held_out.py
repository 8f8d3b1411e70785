"""What is told of the labels that measure the accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from ml_backend.settings import Settings
from ml_backend.split import LARGEST
from ml_backend.wording import amount


def first_answers(settings: Settings, tasks: int) -> str:
    """How many answers of a project with so many tasks go to measuring, for whoever begins to label."""
    if not settings.holdout_share:
        return "No labels are held out (ML_BACKEND_HOLDOUT_SHARE is 0), so the accuracy is not measured."
    first = min(settings.holdout_first, int(LARGEST * tasks)) if tasks else settings.holdout_first
    later = f"later about {settings.holdout_share:.0%} of them"
    return (
        f"Of the first labels, {first} are held out to measure the accuracy, {later}: these tasks are drawn at "
        "random and show no guess (ML_BACKEND_HOLDOUT_FIRST, ML_BACKEND_HOLDOUT_SHARE)."
    )


def imported(settings: Settings, host: str, project_id: int, count: int) -> str:
    """What becomes of imported labels."""
    labels = amount(count, "label")
    if not settings.holdout_share:
        return f"{labels}, all used for training: none are held out (ML_BACKEND_HOLDOUT_SHARE is 0)."
    return (
        f"{labels}; those on the tasks drawn at random to be held out measure the accuracy, "
        f"{measured_so_far(settings, host, project_id)} so far."
    )


def described(counts: Mapping[str, int]) -> str | None:
    """Which held-out labels measure, and what the others wait for; None where it is enough to say how many there are."""
    measured, found = counts["holdout_measured"], counts["holdout_found"]
    undecided, unreadable = counts["holdout_undecided"], counts["holdout_unreadable"]
    waiting = counts["holdout_labelled"] - measured - unreadable
    if not found and not undecided and not unreadable and not waiting:
        return None
    text = f"{amount(measured, 'label')} measured" + (f", {found} of them given before asked for" if found else "")
    text += f"; {amount(undecided, 'image')} among them without a label" if undecided else ""
    them = "its image" if unreadable == 1 else "their images"
    text += f"; {unreadable} not, as {them} cannot be read" if unreadable else ""
    return text + (
        f"; {waiting} not yet: {_awaited(counts['holdout_open'], counts['holdout_accepted'])}" if waiting else ""
    )


def _awaited(open_: int, accepted: int) -> str:
    if not open_:
        return "their turn is still to come"
    come, them = ("comes", "it") if open_ == 1 else ("come", "them")
    text = f"{amount(open_, 'open image')} {come} before or with them, so label or skip {them}"
    fix = "`ml-backend accept undo CERTIFICATE --held-out` has people asked instead"
    return text + (f" ({accepted} with an accepted label, which measures nothing: {fix})" if accepted else "")


def measured_so_far(settings: Settings, host: str, project_id: int) -> int:
    """Held-out labels of a project that measure its accuracy, by the store; makes none where there is none."""
    database = sa.make_url(settings.database)
    if database.get_backend_name() == "sqlite" and not Path(str(database.database)).is_file():
        return 0
    from ml_backend.services import Services  # noqa: PLC0415 - the store takes a while to import

    ledger = Services.open(settings).ledger
    known = [p for p in ledger.projects() if (p.key.host, p.key.project_id) == (host, project_id)]
    return ledger.counts(known[0]).holdout_measured if known else 0
