"""The audit of a project: what its model would label of the rest is frozen, and a random part of it goes before people."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from ml_backend.acceptance.audit import UNSEEN
from ml_backend.acceptance.planning import Forecast
from ml_backend.acceptance.project_rest import Offer, ProjectRest
from ml_backend.acceptance.proposal import Ids, Proposal
from ml_backend.acceptance.standing import Sample, Standing
from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.records import BLIND, AuditQueue
from ml_backend.store.acceptances import Acceptance, Acceptances, Frozen
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import PoolRows


@dataclass(frozen=True)
class Begun:
    """An audit that was begun: what is asked for first, and what was to be expected of it."""

    acceptance: Acceptance
    offer: Offer

    @property
    def forecast(self) -> Forecast:
        return self.offer.plan.forecasts[0]


@dataclass(frozen=True)
class Auditing:
    """Audits of all projects. A turn calls `advance`; all else is asked for by a person, while no turn runs."""

    ledger: Ledger
    acceptances: Acceptances
    rest: Callable[[], ProjectRest]

    def begin(
        self,
        project: Project,
        error: float,
        confidence: float,
        *,
        by: str,
        end_guessed: Callable[[], None] = lambda: None,
    ) -> Begun:
        """Freeze what the model would label, and ask for the first part of a random order of it.

        Tasks that people have the model's guess of before them just now are left to them, and so are those that they answered
        until no guess was shown any more. end_guessed: ends what is still being written with a guess in sight. Raises ConflictError where an audit is
        on, or fields of the tasks tell what the model thinks, InvalidInputError where nothing would be accepted, and what `ProjectRest.offer` raises.
        """
        if self.acceptances.auditing(project) is not None:
            raise ConflictError(
                f"An audit of {project.title!r} is on already: `ml-backend accept status` says how far it is, and `ml-backend "
                "accept stop` gives it up."
            )
        if self.ledger.project(project.key).state.fields is not None:
            raise ConflictError(
                f"What the model thinks stands in the tasks of {project.title!r}, for everybody to see: take it away with "
                "`ml-backend fields --remove`, and write it again once the audit is over."
            )
        offer = self.rest().offer(project, (error,), confidence, apart=self._in_sight(project))
        (forecast,) = offer.plan.forecasts
        if not forecast.accepted:
            raise InvalidInputError(_nothing(project, offer))
        parts, doubt = offer.proposal.parts(error), np.asarray(offer.proposal.doubt, np.float64)
        frozen = Frozen(offer.proposal.ids, offer.proposal.labels, doubt, offer.hashes, parts)
        seed = drawn_seed()
        acceptance = self.acceptances.begin(
            project,
            frozen,
            classes=offer.classes,
            version=offer.plan.version,
            error=error,
            confidence=confidence,
            risk=offer.risk,
            drawn=_first(offer.proposal, offer.risk, forecast, parts, seed),
            seed=seed,
            by=by,
        )
        end_guessed()
        return Begun(self._without_answered(project, acceptance, offer), offer)

    def advance(self, project: Project, rows: PoolRows) -> AuditQueue | None:
        """What the audit asks people for next; None where none is on, or nothing is left to look at.

        Draws more where that is worth it, ends the sample of all where it is not, and only then turns to rare classes.
        Run again after a kill at any line, it comes to the same. rows: of the project now.
        """
        for vouched in self.acceptances.vouched(project):
            self.acceptances.note(vouched, self.standing(project, vouched, rows).progress())
        acceptance = self.acceptances.auditing(project)
        if acceptance is None:
            return None
        standing = self.standing(project, acceptance, rows)
        while not standing.fault and not len(standing.to_ask) and standing.acceptance.sample is None:
            standing = self._further(project, standing, rows)
        asked = standing.to_ask
        self.acceptances.note(standing.acceptance, standing.progress(), complete=not len(asked) and not standing.fault)
        return AuditQueue(acceptance.number, tuple(standing.frozen.ids[asked].tolist())) if len(asked) else None

    def standing(self, project: Project, acceptance: Acceptance, rows: PoolRows | None = None) -> Standing:
        """How far it is, by what people say now; changes nothing."""
        rows = self.ledger.pool(project) if rows is None else rows
        return Standing.at(acceptance, self.acceptances.frozen(acceptance), rows, project.schema)

    def stop(self, project: Project) -> Acceptance:
        """Give the audit up. What it took of the risk stays spent; its answers are labels as any others."""
        acceptance = self.acceptances.auditing(project)
        if acceptance is None:
            raise ConflictError(f"No audit of {project.title!r} is on: there is nothing to stop.")
        return self.acceptances.mark(acceptance, "ended")

    def _without_answered(self, project: Project, acceptance: Acceptance, offer: Offer) -> Acceptance:
        """Leave to people what they have answered while it began, with a guess in sight: nobody was asked blindly yet."""
        project, _ = self.rest().label_sync.sync(project, full=False, lazily=True)
        rows = self.ledger.pool(project)
        left = np.isin(offer.proposal.ids, rows.ids[rows.waiting])
        if left.all():
            return acceptance
        if not left.any():
            self.acceptances.mark(acceptance, "ended")
            raise ConflictError(
                f"All that was left in {project.title!r} was answered meanwhile: there is nothing to audit."
            )
        whole, (forecast,) = offer.proposal, offer.plan.forecasts
        rest = replace(whole, ids=whole.ids[left], labels=whole.labels[left], doubt=whole.doubt[left])
        parts, doubt = rest.parts(acceptance.error), np.asarray(rest.doubt, np.float64)
        frozen = Frozen(rest.ids, rest.labels, doubt, offer.hashes[left], parts)
        drawn = _first(rest, offer.risk, forecast, parts, acceptance.seed)
        return self.acceptances.freeze_again(acceptance, frozen, drawn)

    def _further(self, project: Project, standing: Standing, rows: PoolRows) -> Standing:
        """All that was asked for is answered: draw more, or end the sample of all."""
        audit, verdicts = standing.audit, standing.verdicts
        looked, more = audit.drawn(verdicts), audit.worthwhile(verdicts)
        if more:
            acceptance = self.acceptances.draw(standing.acceptance, looked + more)
        else:
            acceptance = self.acceptances.end_sample(standing.acceptance, looked)
        return Standing.at(acceptance, standing.frozen, rows, project.schema)

    def _in_sight(self, project: Project) -> list[int]:
        """Tasks of the queue in service that carry a guess."""
        served = self.ledger.current_round(project)
        queries = self.ledger.queries(served) if served else []
        return [query.task_id for query in queries if query.prediction and query.arm not in BLIND]


def drawn_seed() -> int:
    """Of the order in which labels are looked at: nobody who labels, imports or trains has a say in it."""
    return secrets.randbits(63)


def _first(proposal: Proposal, risk: float, forecast: Forecast, parts: Ids, seed: int) -> int:
    """How many to ask for at first: what is worth it before anybody has looked, and at least what was planned with."""
    n = len(proposal)
    unseen = np.full(n, UNSEEN, np.int8)
    order = np.random.default_rng(seed).permutation(n)
    audit = Sample(proposal, forecast.error, risk, risk, order, parts, None)
    worth = audit.worthwhile(unseen)
    planned = ceil(forecast.sample * n / (forecast.sample + forecast.accepted))
    return min(worth or planned, n)


def _nothing(project: Project, offer: Offer) -> str:
    if not len(offer.proposal):
        return (
            f"There is nothing to accept in {project.title!r}: every task has a label, or its image was not read yet, or it is in "
            "the queue just now, with a guess: answer the queue, or run `ml-backend sync run`, and try again."
        )
    return (
        f"With at most {100 * offer.plan.forecasts[0].error:.10g}% of wrong labels, nothing would be accepted: the model is not "
        "good enough yet for a sample to be worth it. Label on, choose a better encoder, or allow more wrong labels; "
        "`ml-backend accept plan` compares."
    )
