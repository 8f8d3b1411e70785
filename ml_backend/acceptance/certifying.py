"""From an audit to a certificate, and from that to the labels that may be written without a look."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_backend.acceptance import certificate
from ml_backend.acceptance.audit import WRONG
from ml_backend.acceptance.standing import Standing
from ml_backend.errors import ConflictError, InvalidInputError, NotFoundError, NothingVouchedError
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.acceptances import VOUCHED, Acceptance, Acceptances
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.tabular import atomic_file
from ml_backend.wording import amount, encodable


@dataclass(frozen=True)
class Certifying:
    """Certificates of all projects. Call it while no turn runs."""

    ledger: Ledger
    acceptances: Acceptances
    label_sync: LabelSync

    def certify(self, project: Project, *, by: str) -> Acceptance:
        """End the audit that is on and keep its certificate; where none is on, the last certificate, as it was given.

        Labels are read anew before. Raises InvalidInputError, and changes nothing, where nothing is vouched for, or what people
        say cannot be compared with what was proposed; ConflictError where there is no audit.
        """
        project, _ = self.label_sync.sync(project, full=False, lazily=True)
        acceptance = self.acceptances.auditing(project)
        if acceptance is None:
            given = self.acceptances.vouched(project)
            if not given:
                raise ConflictError(f"No audit of {project.title!r} is on: `ml-backend accept audit` begins one.")
            return given[0]
        standing = self._standing(project, acceptance)
        if standing.fault:
            raise InvalidInputError(standing.fault)
        if acceptance.sample is None:  # no look from now on counts for the sample of all
            ended = replace(acceptance, sample=standing.audit.drawn(standing.verdicts))
            standing = self._standing(project, ended)
        if not standing.accepted.any():
            now = self._standing(project, acceptance)
            raise NothingVouchedError(_missing(now), _missing(now, blind=True))
        document = self._document(project, standing, by)
        sample = len(standing.sampled)
        return self.acceptances.certify(acceptance, standing.frozen, standing.accepted, sample, document)

    def vouched(self, project: Project, certificate_id: str | None) -> Acceptance:
        """The certificate of that id, or the last one. Raises NotFoundError where there is none, ConflictError while an audit is on."""
        if self.acceptances.auditing(project) is not None:
            raise ConflictError(
                "An audit is on, and what it asks for must stay without a label of the model: end it with `ml-backend accept "
                "certify`, or give it up with `ml-backend accept stop`."
            )
        given = self.acceptances.vouched(project)
        found = [one for one in given if certificate_id in {None, one.certificate_id}]
        if found:
            return found[0]
        known = f" It has {', '.join(one.certificate_id for one in given[:5])}." if given else ""
        what = f"certificate {certificate_id}" if certificate_id else "certificate"
        raise NotFoundError(
            f"{project.title!r} has no {what}: `ml-backend accept certify` gives one, once an audit has been looked at.{known}"
        )

    def taken_back(self, project: Project, certificate_id: str) -> None:
        """What was written is no more; the certificate stands, and may be written again. Another store's is none of ours."""
        for acceptance in self.acceptances.vouched(project):
            if (acceptance.certificate_id, acceptance.state) == (certificate_id, "written"):
                self.acceptances.mark(acceptance, "certified")

    def labels_to_write(self, project: Project, acceptance: Acceptance) -> dict[int, str]:
        """Task -> label of what was certified and still waits for an answer, with the image that the model saw.

        By the ledger as it is: read the labels anew before. Raises ConflictError where there is no certificate (any more), or
        more wrong labels were found since than it says, InvalidInputError where the label config does not have the labels
        any more.
        """
        if acceptance.state not in VOUCHED:
            raise ConflictError(f"Audit {acceptance.number} has no certificate: run `ml-backend accept certify` first.")
        standing = self._standing(project, acceptance)
        if standing.fault:
            raise InvalidInputError(standing.fault)
        if standing.broken:
            raise ConflictError(standing.broken)
        kept = standing.frozen
        return {int(kept.ids[place]): acceptance.classes[kept.labels[place]] for place in standing.unwritten.tolist()}

    def _standing(self, project: Project, acceptance: Acceptance) -> Standing:
        rows = self.ledger.pool(project)
        return Standing.at(acceptance, self.acceptances.frozen(acceptance), rows, project.schema)

    def _document(self, project: Project, standing: Standing, by: str) -> dict[str, Any]:
        wrong = standing.frozen.ids[standing.verdicts == WRONG].tolist()
        return certificate.written(
            project,
            standing,
            at=self.acceptances.clock(),
            by=by,
            spent=self.acceptances.spent(project),
            labels={label.task_id: label for label in self.ledger.labels(project)},
            tasks={task.id: task for task in self.ledger.tasks(project, wrong)},
            waiting=self.ledger.counts(project).waiting,
        )


def texts(document: dict[str, Any]) -> dict[str, str]:
    """The certificate as JSON and as a page, by the name of the file."""
    stem = f"certificate-{document['certificate']}"
    return {
        f"{stem}.json": encodable(json.dumps(document, ensure_ascii=False, indent=2) + "\n"),
        f"{stem}.html": encodable(certificate.page(document)),
    }


def files(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write the certificate as JSON and as a page; each is there whole or not at all. Returns where.

    Raises ConflictError where somebody else is writing them.
    """
    contents = {folder / name: text for name, text in texts(document).items()}
    for path, text in contents.items():
        with atomic_file(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return list(contents)


def _missing(standing: Standing, *, blind: bool = False) -> str:
    """Why nothing is vouched for, and what would help. blind: not how many were found wrong."""
    mine = standing.acceptance
    wrong = "" if blind else f", {standing.wrong} of the sample wrong"
    head = f"Nothing is vouched for yet, so nothing was changed. {amount(standing.looked, 'label')} of the model were looked at{wrong}. "
    if len(standing.to_ask):
        return f"{head}Answer the {amount(len(standing.to_ask), 'task')} that the audit asks for, then run this again."
    if mine.sample is None:
        return f"{head}Run `ml-backend sync run`: it says what is to be looked at next."
    return (
        f"{head}The sample says that more than {100 * mine.error:.10g}% may be wrong: give it up with `ml-backend accept stop`, "
        "label on, and begin another with `ml-backend accept audit`, perhaps with a larger --error."
    )
