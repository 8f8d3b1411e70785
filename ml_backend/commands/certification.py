"""The verbs of `ml-backend accept` that look at a sample of the model's labels, and certify what it says."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.commands.options import add_common
from ml_backend.commands.output import Answer
from ml_backend.wording import amount, per_cent

if TYPE_CHECKING:
    from ml_backend.acceptance.auditing import Begun
    from ml_backend.acceptance.standing import Standing
    from ml_backend.services import Services
    from ml_backend.store.acceptances import Acceptance
    from ml_backend.store.projects import Project

NOTHING = "Nothing was changed (--dry-run)."
STATES = {
    "auditing": "under way", "certified": "certified", "written": "certified, and written", "ended": "given up",
}  # fmt: skip


def share(text: str) -> float:
    """For argparse: a share, above 0 and below 1, as a number or in per cent."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1, such as 2% or 0.02")
    return value


def add_confidence(parser: argparse.ArgumentParser) -> None:
    text = "probability of keeping within it (default: 95%%)"
    parser.add_argument("--confidence", type=share, default=0.95, metavar="SHARE", help=text)


def add_verbs(verbs: Any) -> None:
    audit = verbs.add_parser("audit", help="have people look at a random sample of what the model would label")
    audit.set_defaults(do=_audit)
    text = "share of wrong labels that is allowed, such as 2%% or 0.02"
    audit.add_argument("--error", type=share, required=True, metavar="SHARE", help=text)
    add_confidence(audit)
    add_common(audit)
    status = verbs.add_parser("status", help="how far the audit is, what it says so far, and what risk is left")
    status.set_defaults(do=_status)
    add_common(status, dry_run=False)
    certify = verbs.add_parser("certify", help="end the audit with a certificate")
    certify.set_defaults(do=_certify)
    text = "folder for the certificate, as JSON and as a page (default: this one)"
    certify.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help=text)
    add_common(certify)
    stop = verbs.add_parser("stop", help="give the audit up; the answers stay, and so does the risk that it took")
    stop.set_defaults(do=_stop)
    add_common(stop)


def _audit(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.worker import accepting  # noqa: PLC0415 - torch takes seconds: `--help` does not wait

    begun = accepting.begin(project, services, args.error, args.confidence, by=_person(project, services))
    document = _document(begun.acceptance) | {
        "drawn": begun.acceptance.drawn,
        "forecast": {**vars(begun.forecast), "looks": begun.forecast.looks},
        "dry_run": args.dry_run,
    }
    answer.result(document, lambda: _begun(project, begun, dry_run=args.dry_run))
    return 0


def _begun(project: Project, begun: Begun, *, dry_run: bool) -> str:
    mine, forecast = begun.acceptance, begun.forecast
    would, are, shows = ("Would ask", "would be", "Meanwhile no guess would be shown") if dry_run else (
        "Asking", "are", "Meanwhile no guess is shown"
    )  # fmt: skip
    unread = begun.offer.plan.unread
    left = f" {amount(unread, 'task')} whose image was not read yet {are} left to people." if unread else ""
    return (
        f"{would} people for {amount(mine.drawn, 'label')} of {project.title!r}, drawn at random from the {mine.size:,} that "
        f"v{mine.version} would give; they {are} the queue until they are answered. {shows}.{left}\n"
        f"What is to be expected: {forecast.accepted:,} accepted without a look, at most {per_cent(mine.error)} wrong at "
        f"{per_cent(mine.confidence)} confidence, after {forecast.sample:,} looks or more.\n"
        + (NOTHING if dry_run else "`ml-backend accept status` says how far it is.")
    )


def _status(project: Project, services: Services, _args: argparse.Namespace, answer: Answer) -> int:
    acceptance = services.acceptances.last(project)
    if acceptance is None:
        text = f"There was no audit of {project.title!r} yet: `ml-backend accept plan` says what one would take."
        answer.result({"acceptance": None}, text)
        return 0
    standing = services.auditing.standing(project, acceptance)
    left = services.acceptances.risk_left(project, acceptance.confidence)
    to_look_at = len(standing.to_ask) if acceptance.state == "auditing" else 0
    certified = acceptance.state == "certified" and not (standing.fault or standing.broken)
    to_write = len(services.certifying.labels_to_write(project, acceptance)) if certified else 0
    progress = {"progress": standing.progress(), "to_look_at": to_look_at, "to_write": to_write}
    document: dict[str, Any] = {**_document(acceptance), **progress}
    others = [one for one in services.acceptances.vouched(project) if one.number != acceptance.number]
    document = {
        "acceptance": document,
        "others": [_document(one) for one in others],
        "risk_taken": acceptance.risk,
        "risk_left": left,
    }
    answer.result(document, lambda: "\n".join([*_told(project, standing, left, to_write), *map(_other, others)]))
    return 0


def _told(project: Project, standing: Standing, left: float, to_write: int) -> Iterator[str]:
    mine = standing.acceptance
    yield f"Audit {mine.number} of {project.title!r}: {STATES[mine.state]}"
    yield f"  labels     {mine.size:,} of v{mine.version}, frozen {mine.created_at:%Y-%m-%d %H:%M} UTC by {mine.created_by}"
    yield f"  aim        at most {per_cent(mine.error)} wrong at {per_cent(mine.confidence)} confidence"
    if mine.certificate is not None:
        found, allowed = standing.found, mine.certificate["wrong_in_part_at_most"]
        still = f", {to_write:,} of them still without an answer" if mine.state == "certified" else ""
        yield f"  accepted   {mine.certificate['accepted_unseen']:,} without a look{still} (certificate {mine.certificate_id})"
        said = (
            "not counted, labels have other names now:" if found is None else f"{amount(found, 'wrong label')} so far,"
        )
        yield f"  found      {said} of at most {allowed:,} in the part that was certified"
    elif mine.state == "auditing":
        yield from _sample_lines(standing)
    yield f"  risk       {mine.risk:.4g} taken by this audit, {left:.4g} left for others"
    if mine.state == "auditing" and not standing.fault:
        yield f"  next       {standing.next_in_words}"
    for problem in (standing.fault if mine.state == "auditing" else None, standing.broken):
        if problem:
            yield f"  FIX        {problem}"


def _other(acceptance: Acceptance) -> str:
    """A certificate beside the last attempt: it can be written, and taken back, as long as its id is known."""
    count = (acceptance.certificate or {})["accepted_unseen"]
    return f"  before     certificate {acceptance.certificate_id}, for {count:,} labels: {STATES[acceptance.state]}"


def _sample_lines(standing: Standing) -> Iterator[str]:
    asked = standing.looked + len(standing.to_ask)
    yield f"  looked at  {standing.looked:,} of {asked:,} asked for, {standing.wrong:,} of the sample wrong"
    accepted = int(standing.accepted.sum())
    if accepted:
        yield f"  so far     {accepted:,} would be accepted without a look, at most {standing.wrong_at_most:,} of them wrong"
    else:
        yield "  so far     nothing is vouched for yet"
    for each in standing.rare_asked:
        state = "vouched for" if each.more == 0 else "left to people"
        state = f"{amount(each.more, 'look')} more" if each.more and len(standing.to_ask) else state
        name = standing.acceptance.classes[each.number]
        yield f"  rare       {name!r}: {each.labels:,} labels, {each.looks:,} looked at, {each.wrong:,} wrong; {state}"


def _certify(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.acceptance.certifying import files  # noqa: PLC0415 - torch
    from ml_backend.worker import accepting  # noqa: PLC0415

    written: list[Path] = []

    def keep(acceptance: Acceptance) -> None:
        if not args.dry_run:
            written.extend(files(acceptance.certificate or {}, args.out))

    acceptance = accepting.certify(project, services, by=_person(project, services), keep=keep)
    document = acceptance.certificate or {}
    told = {**document, "files": [str(path) for path in written], "dry_run": args.dry_run}
    answer.result(told, lambda: _certified(acceptance, written))
    return 0


def _certified(acceptance: Acceptance, written: list[Path]) -> str:
    document = acceptance.certificate or {}
    rare = [each["label"] for each in document["rare_classes"] if not each["vouched_for"]]
    stay = f" Left to people, as too few of their labels were looked at: {', '.join(rare)}." if rare else ""
    where = f"Certificate {acceptance.certificate_id}: {', '.join(map(str, written))}" if written else NOTHING
    return f"{document['promise']}{stay} {amount(document['left_to_people'], 'task')} left to people.\n{where}"


def _stop(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.worker import accepting  # noqa: PLC0415 - torch

    stopped = accepting.stop(project, services)
    acceptance, left = stopped.acceptance, stopped.risk_left
    ended = "Would give up" if args.dry_run else "Gave up"
    dry = f"\n{NOTHING}" if args.dry_run else ""
    text = (
        f"{ended} audit {acceptance.number}: its answers stay labels, and {left:.4g} of the risk is left for others at "
        f"{per_cent(acceptance.confidence)} confidence.{dry}"
    )
    answer.result(_document(acceptance) | {"risk_left": left, "dry_run": args.dry_run}, text)
    return 0


def _document(acceptance: Acceptance) -> dict[str, Any]:
    from ml_backend.status import acceptance_status  # noqa: PLC0415 - the store takes a while to import

    return acceptance_status(acceptance)


def _person(project: Project, services: Services) -> str:
    """Whose token this is."""
    from ml_backend.labelstudio.rights import account  # noqa: PLC0415 - as above

    return account(services.hosts.client(project.key.host).whoami())
