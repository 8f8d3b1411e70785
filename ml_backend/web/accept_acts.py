"""What can be asked for on the page for accepting the rest: how it is done, and what is said before and after."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ml_backend.errors import ConflictError, InvalidInputError, NotFoundError
from ml_backend.services import Services
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.projects import Project
from ml_backend.wording import amount, per_cent
from ml_backend.worker import accepting
from ml_backend.worker.accepting import Watch

Name = Literal["audit", "certify", "stop", "write", "undo"]
AT_WORK: Mapping[str, str] = {
    "audit": "Beginning an audit",
    "certify": "Certifying",
    "stop": "Giving the audit up",
    "write": "Writing accepted labels",
    "undo": "Taking accepted labels back",
}
GOES_ON: Mapping[str, str] = {
    "audit": "If no audit is on, begin it again.",
    "certify": "If the audit is still on, certify again.",
    "stop": "If the audit is still on, give it up again.",
    "write": "What was written is written: write again, and it goes on where it stopped.",
    "undo": "What was taken back is taken back: do it again, and it goes on where it stopped.",
}
"""After the service was stopped in the middle."""


def _in_100(share: float) -> str:
    return f"{100 * share:.4g}"


@dataclass(frozen=True)
class Act:
    """What is asked for. error, confidence: of an audit. certificate: to be written or taken back."""

    what: Name
    error: float = 0.02
    confidence: float = 0.95
    certificate: str | None = None

    @property
    def reason(self) -> str:
        """Of its job."""
        return f"accept {self.what}"

    def check(self, project: Project, acceptances: Acceptances) -> None:
        """Raise what is wrong with it now, as far as that is known at once."""
        on = acceptances.auditing(project)
        if self.what in {"certify", "stop"} and on is None:
            raise ConflictError(f"No audit of {project.title!r} is on: begin one first.")
        if self.what == "audit" and on is not None:
            raise ConflictError(f"An audit of {project.title!r} is on already: certify it, or give it up, first.")
        if self.what in {"write", "undo"}:
            self._check_certificate(project, acceptances)
        if self.what == "write" and on is not None:
            raise ConflictError(
                "An audit is on, and what it asks for must stay without a label of the model: certify it, or give it up, first."
            )

    def _check_certificate(self, project: Project, acceptances: Acceptances) -> None:
        if not re.fullmatch("[0-9a-f]{12}", self.certificate or ""):
            raise InvalidInputError("Say which certificate: it is twelve of 0 to 9 and a to f.")
        if self.certificate not in {each.certificate_id for each in acceptances.vouched(project)}:
            raise NotFoundError(f"{project.title!r} has no certificate {self.certificate}: reload the page.")

    def do(self, project: Project, services: Services, by: str, watch: Watch) -> str:
        """Do it; returns what came of it, or on a copy of the store what would. Raises what `accepting` does."""
        return _DOING[self.what](self, project, services, by, watch)


def _audit(act: Act, project: Project, services: Services, by: str, watch: Watch) -> str:
    begun = accepting.begin(project, services, act.error, act.confidence, by=by, watch=watch)
    mine, forecast, unread = begun.acceptance, begun.forecast, begun.offer.plan.unread
    if not services.is_copy:
        return f"Audit {mine.number} is on: it asks people for {amount(mine.drawn, 'label')}."
    left = f" {amount(unread, 'task')} whose image was not read yet would be left to people." if unread else ""
    return (
        f"People will be asked for {amount(mine.drawn, 'label')}, drawn at random from the {mine.size:,} that v{mine.version} would "
        "give; these are the queue until they are answered. Meanwhile nobody is shown a guess."
        f"{left}\nTo be expected: {forecast.accepted:,} accepted without a look, at most {per_cent(mine.error)} wrong at "
        f"{per_cent(mine.confidence)} confidence, after {forecast.sample:,} looks or more.\nOf the {_in_100(1 - mine.confidence)} times in "
        f"100 that certificates may be mistaken, it takes {_in_100(mine.risk)}, for good."
    )


def _certify(_act: Act, project: Project, services: Services, by: str, watch: Watch) -> str:
    mine = accepting.certify(project, services, by=by, watch=watch)
    document = mine.certificate or {}
    stays = [each["label"] for each in document["rare_classes"] if not each["vouched_for"]]
    if not services.is_copy:  # the audit is over: what was found may be told
        rare = f" Left to people, as too few of their labels were looked at: {', '.join(stays)}." if stays else ""
        return f"Certificate {mine.certificate_id}: {document['promise']}{rare}"
    return (
        f"Ends the audit with a certificate for {amount(document['accepted_unseen'], 'label')} that nobody looked at: at most "
        f"{per_cent(mine.error)} of the part that they belong to are wrong, at {per_cent(mine.confidence)} confidence.\n"
        f"{amount(document['left_to_people'], 'task')} will be left to people. Nothing is written yet."
    )


def _stop(_act: Act, project: Project, services: Services, _by: str, watch: Watch) -> str:
    done = accepting.stop(project, services, watch=watch)
    gives = "Gives up" if services.is_copy else "Gave up"
    return (
        f"{gives} audit {done.acceptance.number}: its answers stay labels, and {_in_100(done.risk_left)} in 100 of the risk is left "
        f"for others at {per_cent(done.acceptance.confidence)} confidence."
    )


def _write(act: Act, project: Project, services: Services, _by: str, watch: Watch) -> str:
    found = accepting.write(project, services, act.certificate, watch=watch)
    if found.done is None:
        return (
            f"Labels {amount(found.to_write, 'task')} in Label Studio by certificate {act.certificate}, each marked as the model's. "
            "What people have answered stays theirs."
        )
    beside = (
        f" {amount(len(found.done.answered), 'task')} had an answer by then, which stays."
        if found.done.answered
        else ""
    )
    return f"{amount(len(found.done.written), 'task')} labelled by certificate {act.certificate}.{beside}"


def _undo(act: Act, project: Project, services: Services, _by: str, watch: Watch) -> str:
    found = accepting.undo(project, services, act.certificate or "", watch=watch)
    if found.done is None:
        return (
            f"Takes {amount(found.known, 'label')} of certificate {act.certificate} out of Label Studio. What people have touched "
            "since stays. The certificate stands, and may be written again."
        )
    kept = f" {amount(len(found.done.kept), 'label')} that people touched since stay." if found.done.kept else ""
    return f"{amount(len(found.done.withdrawn), 'label')} of certificate {act.certificate} taken back.{kept}"


_DOING: Mapping[str, Callable[[Act, Project, Services, str, Watch], str]] = {
    "audit": _audit, "certify": _certify, "stop": _stop, "write": _write, "undo": _undo,
}  # fmt: skip
