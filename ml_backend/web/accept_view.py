"""What the page for accepting the rest shows of a project, as its templates take it.

While an audit is on, nothing of it says how many labels were found wrong: who looks at the page may be among those who are asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ml_backend.services import Services
from ml_backend.store.acceptances import Acceptance
from ml_backend.store.projects import Project
from ml_backend.store.rows import Counts
from ml_backend.web.accept_acts import AT_WORK
from ml_backend.web.accept_work import CONFIDENCE, AcceptWork, Planning
from ml_backend.wording import amount, job_reason, per_cent

if TYPE_CHECKING:
    from ml_backend.acceptance.standing import Standing

Shown = dict[str, Any]
SHOWN = 20
"""Certificates that are listed."""


@dataclass(frozen=True)
class Facts:
    """What takes a look at every label, and stands until labels are read again, a turn ends or an audit goes on.

    of: what it was found out of. labels: digest of them.
    """

    of: tuple[object, ...]
    counts: Counts
    labels: str
    audit: Shown | None
    certificates: tuple[Shown, ...]


class AcceptView:
    """The pages of all projects of this process."""

    def __init__(self, services: Services, work: AcceptWork) -> None:
        self._services, self._work = services, work
        self._facts: dict[int, Facts] = {}
        self._lock = threading.Lock()

    def basis(self, project: Project) -> tuple[object, ...]:
        """What a plan is of: the version served, the labels, what waits for one, and the risk that is left."""
        facts = self._of(project)
        version = self._services.versions.current(project)
        name = version.name if version else None
        return name, facts.labels, facts.counts.waiting, self._services.acceptances.spent(project)

    def of(self, project: Project, *, may_act: bool) -> Shown:
        """Everything. may_act: acts are offered."""
        facts = self._of(project)
        running, turn = self._act(project), self._turn(project)
        planning = self._work.planned(project, self.basis(project)) if facts.audit is None else None
        busy = bool(running and running["on"]) or turn["on"] or bool(planning and planning.is_on)
        return {
            "may_act": may_act,
            "busy": busy,
            "locked": bool(running and running["on"]),
            "where": self._where(project, facts),
            "turn": turn,
            "act": running,
            "audit": facts.audit,
            "plan": _plan(planning) if planning else None,
            "certificates": [self._just_now(project, one) for one in facts.certificates],
            "risk": self._risk(project),
            "in_label_studio": f"{project.key.host}/projects/{project.key.project_id}/data",
        }

    def _of(self, project: Project) -> Facts:
        """One look for all who have the page open."""
        with self._lock:
            every = self._services.acceptances.all(project)
            states = tuple((one.number, one.state, one.drawn, one.sample) for one in every)
            last = self._services.jobs.status(project).last
            of = project.reconciled_at, project.label_config, states, last and last.id
            known = self._facts.get(project.id)
            if known is None or known.of != of:
                known = self._facts[project.id] = self._look(project, every, of)
            return known

    def _look(self, project: Project, every: Sequence[Acceptance], of: tuple[object, ...]) -> Facts:
        services = self._services
        audit = next((one for one in every if one.state == "auditing"), None)
        given = [one for one in every if one.certificate is not None][:SHOWN]
        rows = services.ledger.pool(project) if audit or given else None
        standings = [services.auditing.standing(project, one, rows) for one in given]
        return Facts(
            of=of,
            counts=services.ledger.counts(project),
            labels=services.ledger.label_digest(project),
            audit=_audit(services.auditing.standing(project, audit, rows)) if audit else None,
            certificates=tuple(
                _certificate(one, self._written(project, one), blind=audit is not None) for one in standings
            ),
        )

    def _written(self, project: Project, standing: Standing) -> int:
        """Labels that stand by the certificate."""
        name = standing.acceptance.certificate_id
        return sum(1 for _ in self._services.ledger.accepted(project, certificate=name))

    def _just_now(self, project: Project, shown: Shown) -> Shown:
        """A certificate whose labels were written or taken back since labels were read."""
        act = self._work.unread(project)
        if act is None or act.certificate != shown["id"]:
            return shown
        written = act.what == "write"
        return shown | {
            "state": "written just now" if written else "taken back just now",
            "writes": 0,
            "undoes": int(written),
        }

    def _where(self, project: Project, facts: Facts) -> Shown:
        version = self._services.versions.current(project)
        counts = facts.counts
        return {
            "labelled": counts.labelled,
            "accepted": counts.accepted,
            "left": counts.waiting,
            "tasks": counts.tasks,
            "version": version.name if version else None,
        }

    def _turn(self, project: Project) -> Shown:
        """What the worker is at. on: it changes by itself soon."""
        status = self._services.jobs.status(project)
        if (running := status.running) is not None:
            if running.reason.startswith("accept ") and running.message in {"", "started"}:
                return {"on": True, "said": "Labels are being accepted: no turn runs meanwhile.", "share": None}
            why = running.message or job_reason(running.reason)
            return {"on": True, "said": f"A turn runs: {why}", "share": running.progress}
        if status.due is not None and status.due.error:
            return {
                "on": True,
                "said": f"The last turn was put off, and is tried again by itself: {status.due.error}",
                "share": None,
            }
        if status.due is not None and status.due.immediate:
            return {"on": True, "said": "A turn is due: the service begins it in a moment.", "share": None}
        if status.stopped:
            return {"on": False, "said": f"Training stopped: {status.stopped}", "share": None}
        return {"on": False, "said": "No turn runs.", "share": None}

    def _act(self, project: Project) -> Shown | None:
        """What was last asked for: under way, ended or interrupted."""
        if mine := self._work.running(project):
            seconds = int(time.monotonic() - mine.began)
            told = {"title": AT_WORK[mine.act.what], "person": mine.person, "phase": mine.phase, "seconds": seconds}
            return told | {"on": True, "done": mine.done, "total": mine.total}
        if job := self._work.elsewhere(project):
            what = AT_WORK[job.reason.removeprefix("accept ")]
            told = {
                "title": what,
                "person": "a command, or another process of the service",
                "phase": "",
                "seconds": None,
            }
            return told | {"on": True, "done": 0, "total": None}
        if (found := self._work.ended(project)) is None:
            return None
        asked, said = found
        state = "interrupted" if asked.process else "failed" if asked.failed else "done"
        return {"on": False, "state": state, "said": said, "person": asked.person, "at": _time(asked.at)}

    def _risk(self, project: Project) -> Shown:
        every = self._services.acceptances.all(project)
        confidence = every[0].confidence if every else CONFIDENCE
        spent = self._services.acceptances.spent(project)
        left = self._services.acceptances.risk_left(project, confidence)
        return {
            "confidence": per_cent(confidence),
            "whole": f"{100 * (1 - confidence):.4g}",
            "spent": f"{100 * spent:.4g}",
            "left": f"{100 * left:.4g}",
            "audits": amount(len(every), "audit") if every else "",
        }


def _certificate(standing: Standing, written: int, *, blind: bool) -> Shown:
    """written: labels that stand by it. blind: not how many of them are wrong."""
    mine = standing.acceptance
    document = mine.certificate or {}
    allowed, found, broken = document["wrong_in_part_at_most"], standing.found, standing.broken
    told = "not counted: labels have other names now" if found is None else f"{found:,} of at most {allowed:,}"
    if broken and blind:
        broken = "More wrong labels were found than it says there are: take back what was accepted by it."
    return {
        "id": mine.certificate_id,
        "promise": document["promise"],
        "at": _time(document["certified_at"]),
        "by": document["certified_by"],
        "version": document["model_version"],
        "accepted": document["accepted_unseen"],
        "found": "told again once the audit is over" if blind else told,
        "broken": broken,
        "fault": standing.fault,
        "rare": [each["label"] for each in document["rare_classes"] if not each["vouched_for"]],
        "state": _state(mine, written),
        "writes": 0 if blind or standing.fault or broken else len(standing.unwritten),
        "undoes": written,
    }


def _audit(standing: Standing) -> Shown:
    """Looks, and never what was found by them."""
    mine, to_ask = standing.acceptance, len(standing.to_ask)
    accepted = 0 if standing.fault else int(standing.accepted.sum())
    return {
        "number": mine.number,
        "size": mine.size,
        "version": f"v{mine.version}",
        "by": mine.created_by,
        "at": f"{mine.created_at:%Y-%m-%d %H:%M} UTC",
        "aim": f"at most {per_cent(mine.error)} wrong at {per_cent(mine.confidence)} confidence",
        "looked": standing.looked,
        "asked": standing.looked + to_ask,
        "accepted": accepted,
        "fault": standing.fault,
        "next": _next(standing, to_ask, accepted),
        "answers": bool(to_ask),
        "certifies": bool(accepted),
    }


def _next(standing: Standing, to_ask: int, accepted: int) -> str:
    if standing.fault:
        return standing.fault
    if to_ask:
        return f"{amount(to_ask, 'image')} to answer, in the grid or in Label Studio's queue."
    if standing.acceptance.sample is None:
        return "All that was asked for is answered: the next turn says whether more is to be looked at."
    if accepted:
        return "All is answered: certify it. No guess is shown before."
    return "All is answered, and nothing is vouched for: give the audit up, label on, and begin another."


def _plan(planning: Planning) -> Shown:
    plan = planning.plan
    if plan is None:
        return {
            "on": planning.is_on,
            "error": planning.error,
            "rows": [],
            "seconds": int(time.monotonic() - planning.began),
        }
    return {
        "on": False,
        "error": "",
        "tasks": plan.tasks - plan.unread,
        "unread": plan.unread,
        "measured": plan.measured,
        "version": f"v{plan.version}",
        "confidence": per_cent(plan.confidence),
        "rows": [
            {"error": per_cent(each.error), "value": f"{100 * each.error:.10g}", "accepted": each.accepted, "sample": each.sample, "left": each.left, "looks": each.looks}
            for each in plan.forecasts
        ],
    }  # fmt: skip


def _state(mine: Acceptance, written: int) -> str:
    if mine.state == "written":
        return f"written: {amount(written, 'label')} stand"
    return f"written in part: {amount(written, 'label')} stand" if written else "not written"


def _time(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"
