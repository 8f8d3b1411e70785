"""Accepting the rest of a project, done: what the commands and the page both call, while no turn runs.

On a copy of the store (`services.is_copy`) it is found out what each would come to: Label Studio is read, and nothing is written,
waited for or put before people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from ml_backend.acceptance import writing
from ml_backend.acceptance.auditing import Begun
from ml_backend.cycle import Progress
from ml_backend.labelstudio import bulk_annotations
from ml_backend.labelstudio.bulk_annotations import BY_HAND, MARK, Written
from ml_backend.labelstudio.withdrawing import Withdrawn
from ml_backend.project_settings import refuse_paused
from ml_backend.services import Services
from ml_backend.store.acceptances import Acceptance
from ml_backend.store.projects import Project
from ml_backend.worker import foreground

Advance = Callable[[int], None]
"""Told how many more are done with."""


@contextmanager
def _uncounted(_what: str, _total: int | None = None) -> Iterator[Advance]:
    yield lambda _more: None


@dataclass(frozen=True)
class Watch:
    """Who looks on. waiting: told what is waited for, "" once it begins; None: that is told on standard error. counting: a bar, or the like, for so many of these; None: not known.

    turn: what has the turn done that follows: here, or by the service.
    """

    waiting: Progress | None = None
    counting: Callable[[str, int | None], AbstractContextManager[Advance]] = _uncounted
    turn: Callable[[Project, Services, str], Any] = foreground.run_turn


UNWATCHED = Watch()


@contextmanager
def _alone(project: Project, services: Services, reason: str, watch: Watch) -> Iterator[Callable[[], object]]:
    with foreground.alone(project, services, reason, watch.waiting) as still_alone:
        if watch.waiting:
            watch.waiting(1.0, "")
        yield still_alone


@dataclass(frozen=True)
class Stopped:
    """risk_left: for further audits, at this one's confidence."""

    acceptance: Acceptance
    risk_left: float


@dataclass(frozen=True)
class WrittenBy:
    """to_write: labels of the certificate that had no answer before. done: None on a copy."""

    acceptance: Acceptance
    to_write: int
    done: Written | None


@dataclass(frozen=True)
class TakenBack:
    """known: labels of the certificate that were known to be there before. done: None on a copy."""

    certificate: str
    known: int
    done: Withdrawn | None


def begin(
    project: Project, services: Services, error: float, confidence: float, *, by: str, watch: Watch = UNWATCHED
) -> Begun:
    """Begin an audit. by: whose doing it is. Raises what `Auditing.begin` does, and ConflictError where the project is paused."""
    refuse_paused(services.ledger.project(project.key))

    def end(*marks: str) -> None:
        if not services.is_copy:
            for mark in marks:
                bulk_annotations.settle(project.key.project_id, services.hosts.client(project.key.host), mark=mark)

    with _alone(project, services, "accept audit", watch):
        end(MARK, BY_HAND)  # of a writing that was killed, Label Studio has the model's labels, and may still be at it
        begun = services.auditing.begin(project, error, confidence, by=by, end_guessed=lambda: end(BY_HAND))
    _turn(project, services, "accept audit", watch)
    return begun


def certify(
    project: Project,
    services: Services,
    *,
    by: str,
    watch: Watch = UNWATCHED,
    keep: Callable[[Acceptance], None] = lambda _: None,
) -> Acceptance:
    """End the audit with a certificate. keep: given it before the turn that follows. Raises what `Certifying.certify` does."""
    with _alone(project, services, "accept certify", watch):
        was_on = services.acceptances.auditing(project) is not None
        acceptance = services.certifying.certify(project, by=by)
    keep(acceptance)
    if was_on:
        _turn(project, services, "accept certify", watch)  # the queue is the strategy's again
    return acceptance


def stop(project: Project, services: Services, *, watch: Watch = UNWATCHED) -> Stopped:
    """Give the audit up. Raises ConflictError where none is on."""
    with _alone(project, services, "accept stop", watch):
        acceptance = services.auditing.stop(project)
    _turn(project, services, "accept stop", watch)
    return Stopped(acceptance, services.acceptances.risk_left(project, acceptance.confidence))


def write(
    project: Project, services: Services, certificate: str | None = None, *, watch: Watch = UNWATCHED
) -> WrittenBy:
    """Write what the certificate, or the last one, vouches for. Ended at any line, the same call goes on.

    Raises what `Certifying.vouched`, `Certifying.labels_to_write` and `writing.write` do.
    """
    with _alone(project, services, "accept write", watch) as still_alone:
        project, _ = services.label_sync.sync(project, full=False, lazily=True)
        acceptance = services.certifying.vouched(project, certificate)
        labels = services.certifying.labels_to_write(project, acceptance)
        if services.is_copy:
            return WrittenBy(acceptance, len(labels), None)
        client = services.hosts.client(project.key.host)
        with watch.counting("labels", len(labels)) as advance, watch.counting("tidying up", None) as tidied:
            known = project, acceptance.certificate_id, labels, client, services.jobs
            done = writing.write(*known, advance, tidied, until=still_alone)
        services.acceptances.mark(acceptance, "written")
    _turn(project, services, "accept write", watch)
    return WrittenBy(acceptance, len(labels), done)


def undo(
    project: Project,
    services: Services,
    certificate: str,
    *,
    held_out: bool = False,
    watch: Watch = UNWATCHED,
) -> TakenBack:
    """Take back what was written by the certificate. held_out: only from held-out tasks that are asked for.

    Ended at any line, the same call goes on. Raises what `writing.undo` does.
    """
    with _alone(project, services, "accept undo", watch):
        project, _ = services.label_sync.sync(project, full=False, lazily=True)
        ids = [each.task_id for each in services.ledger.accepted(project, certificate=certificate)]
        if held_out:
            ids = sorted(set(ids) & set(services.ledger.not_measured(project)))
        if services.is_copy:
            return TakenBack(certificate, len(ids), None)
        client, only = services.hosts.client(project.key.host), ids if held_out else None
        with watch.counting("labels", len(ids)) as advance:
            done = writing.undo(project, certificate, client, services.jobs, advance, task_ids=only)
        if not held_out:
            services.certifying.taken_back(project, certificate)
    _turn(project, services, "accept undo", watch)
    return TakenBack(certificate, len(ids), done)


def _turn(project: Project, services: Services, reason: str, watch: Watch) -> None:
    if services.is_copy:
        return
    if services.ledger.project(project.key).state.paused:
        services.jobs.mark_due(project, immediately=True, reason=reason)  # it comes once the project goes on
    else:
        watch.turn(project, services, reason)
