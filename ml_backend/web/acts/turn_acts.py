"""Acts about the turn of a project: have one begin, or stop."""

from __future__ import annotations

from ml_backend.errors import ConflictError
from ml_backend.project_settings import refuse_paused
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.acts.page_act import Done, Given, PageAct
from ml_backend.web.visitors import Visitor
from ml_backend.wording import amount


def _check_train(project: Project, _services: Services, _given: Given) -> None:
    refuse_paused(project)


def _would_train(project: Project, services: Services, _given: Given) -> str:
    status = services.jobs.status(project)
    new = status.due.labels if status.due else 0
    told = f"{amount(new, 'new label')} would be learned from" if new else "No new label is known of"
    if status.running is not None:
        return f"A turn is running: another one would follow it at once. {told}."
    return f"A turn would begin at once: it reads the labels, trains a model and renews the queue. {told}."


def _train(project: Project, services: Services, _given: Given, _by: Visitor) -> Done:
    services.jobs.mark_due(project, immediately=True, reason="asked for")
    return Done("A turn is due now: the service begins it in a moment.")


def _check_cancel(project: Project, services: Services, _given: Given) -> None:
    status = services.jobs.status(project)
    if status.running is None and status.due is None:
        raise ConflictError("Nothing runs and nothing waits: there is nothing to cancel.")


def _would_cancel(project: Project, services: Services, _given: Given) -> str:
    running = services.jobs.status(project).running
    if running is None:
        return "The turn that waits would be dropped. The next label, or a regular check, makes another one due."
    return (
        f"The running turn ({running.progress:.0%}) would stop at its next step. The model and the queue stay as they are, no label is "
        "lost, and the next label makes another one due."
    )


def _cancel(project: Project, services: Services, _given: Given, _by: Visitor) -> Done:
    services.jobs.cancel(project)
    return Done("Cancelled: the turn stops at its next step.")


ACTS = (
    PageAct("train", "Train now?", "Train now", _would_train, _train, _check_train),
    PageAct("cancel", "Cancel the turn?", "Cancel it", _would_cancel, _cancel, _check_cancel),
)
