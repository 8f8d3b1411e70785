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
    from ml_backend.worker import accepting  # noqa: PLC0415 - torch takes seconds: `--help` does not wait

    found = accepting.write(project, services, args.certificate, watch=accepting.Watch(counting=bar))
    name, done = found.acceptance.certificate_id, found.done
    told = {"certificate": name, "to_write": found.to_write, "dry_run": args.dry_run}
    if done is None:
        answer.result(told, f"Would label {amount(found.to_write, 'task')} by certificate {name}. {NOTHING}")
        return 0
    told |= {"written": len(done.written), "answered": len(done.answered), "gone": len(done.gone)}
    beside = f" {amount(len(done.answered), 'task')} had an answer by then and keep it." if done.answered else ""
    text = (
        f"{amount(len(done.written), 'task')} labelled by certificate {name}.{beside} `ml-backend accept undo {name}` takes that "
        "back."
    )
    answer.result(told, text)
    return 0


def _undo(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.worker import accepting  # noqa: PLC0415 - torch

    watch = accepting.Watch(counting=bar)
    found = accepting.undo(project, services, args.certificate, held_out=args.held_out, watch=watch)
    done = found.done
    if done is None:
        text = f"Would take back {amount(found.known, 'label')} of certificate {args.certificate}. {NOTHING}"
        answer.result({"certificate": args.certificate, "to_take_back": found.known, "dry_run": True}, text)
        return 0
    told = {
        "certificate": args.certificate,
        "taken_back": len(done.withdrawn),
        "kept": len(done.kept),
        "dry_run": False,
    }
    kept = f" {amount(len(done.kept), 'label')} that people touched since stay." if done.kept else ""
    text = f"{amount(len(done.withdrawn), 'label')} of certificate {args.certificate} taken back.{kept}"
    answer.result(told, text)
    return 0
