"""The verbs of `ml-backend accept` that write what a certificate vouches for, and take it back."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from ml_backend.commands.options import add_common
from ml_backend.commands.output import Answer, bar
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.services import Services
    from ml_backend.store.projects import Project

NOTHING = "Nothing was changed (--dry-run)."


def add_verbs(verbs: Any) -> None:
    write = verbs.add_parser("write", help="label what the certificate vouches for; run again, it goes on")
    write.set_defaults(do=_write)
    text = "a former certificate (default: the last one)"
    write.add_argument("certificate", type=certificate, nargs="?", metavar="CERTIFICATE", help=text)
    add_common(write)
    undo = verbs.add_parser(
        "undo", help="take back what was written by a certificate, but for what people touched since"
    )
    undo.set_defaults(do=_undo)
    undo.add_argument(
        "certificate", type=certificate, metavar="CERTIFICATE", help="its id, as `accept status` shows it"
    )
    text = "only from held-out tasks that are asked for: people answer them, and the accuracy goes on being measured"
    undo.add_argument("--held-out", action="store_true", help=text)
    add_common(undo)


def certificate(text: str) -> str:
    """For argparse: the id of a certificate."""
    if not re.fullmatch("[0-9a-f]{12}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no certificate: it is twelve of 0 to 9 and a to f; `ml-backend accept status` shows the last one"
        )
    return text


def _write(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.acceptance.writing import write  # noqa: PLC0415 - torch takes seconds: `--help` does not wait
    from ml_backend.worker.foreground import alone, run_turn  # noqa: PLC0415

    with alone(project, services, "accept write") as still_alone:
        project, _ = services.label_sync.sync(project, full=False, lazily=True)
        acceptance = services.certifying.vouched(project, args.certificate)
        labels = services.certifying.labels_to_write(project, acceptance)
        told = {"certificate": acceptance.certificate_id, "to_write": len(labels), "dry_run": args.dry_run}
        if args.dry_run:
            text = f"Would label {amount(len(labels), 'task')} by certificate {acceptance.certificate_id}. {NOTHING}"
            answer.result(told, text)
            return 0
        client = services.hosts.client(project.key.host)
        with bar("labels", len(labels)) as advance, bar("tidying up") as tidied:
            known = project, acceptance.certificate_id, labels, client, services.jobs
            done = write(*known, advance, tidied, until=still_alone)
        services.acceptances.mark(acceptance, "written")
    run_turn(project, services, "accept write")
    told |= {"written": len(done.written), "answered": len(done.answered), "gone": len(done.gone)}
    beside = f" {amount(len(done.answered), 'task')} had an answer by then and keep it." if done.answered else ""
    text = (
        f"{amount(len(done.written), 'task')} labelled by certificate {acceptance.certificate_id}.{beside} `ml-backend accept "
        f"undo {acceptance.certificate_id}` takes that back."
    )
    answer.result(told, text)
    return 0


def _undo(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.acceptance.writing import undo  # noqa: PLC0415 - torch
    from ml_backend.worker.foreground import alone, run_turn  # noqa: PLC0415

    with alone(project, services, "accept undo"):
        project, _ = services.label_sync.sync(project, full=False, lazily=True)
        ids = [each.task_id for each in services.ledger.accepted(project, certificate=args.certificate)]
        if args.held_out:
            ids = sorted(set(ids) & set(services.ledger.not_measured(project)))
        known = len(ids)
        if args.dry_run:
            text = f"Would take back {amount(known, 'label')} of certificate {args.certificate}. {NOTHING}"
            answer.result({"certificate": args.certificate, "to_take_back": known, "dry_run": True}, text)
            return 0
        with bar("labels", known) as advance:
            client = services.hosts.client(project.key.host)
            only = ids if args.held_out else None
            done = undo(project, args.certificate, client, services.jobs, advance, task_ids=only)
        if not args.held_out:
            services.certifying.taken_back(project, args.certificate)
    run_turn(project, services, "accept undo")
    told = {
        "certificate": args.certificate,
        "taken_back": len(done.withdrawn),
        "kept": len(done.kept),
        "dry_run": False,
    }
    kept = f" {amount(len(done.kept), 'label')} that people touched since stay, as theirs." if done.kept else ""
    text = f"{amount(len(done.withdrawn), 'label')} of certificate {args.certificate} taken back.{kept}"
    answer.result(told, text)
    return 0
