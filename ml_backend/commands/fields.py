"""Show in Label Studio what the model thinks of each task: fields to filter and sort by, and a tab of the labels it doubts.

  ml-backend fields --dry-run     say what would be written
  ml-backend fields               write it, or bring it up to date
  ml-backend fields --remove      take fields and tab away again

A label is judged by what has not learned from it. Held-out images without a label get no fields: nobody's answer is to lean on
a guess. If something stops it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
from math import ceil
from typing import TYPE_CHECKING

from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services
from ml_backend.commands.output import Answer, bar
from ml_backend.errors import InvalidInputError, LabelStudioError
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.manual_fields import FieldPlan
    from ml_backend.services import Services
    from ml_backend.store.projects import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument("--remove", action="store_true", help="take the fields and the tab away again")
    parser.add_argument(
        "--prefix",
        metavar="TEXT",
        help="what the names of the fields begin with, where tasks have other fields of these names (default: model_)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    if args.remove and args.prefix is not None:
        raise InvalidInputError("--remove takes the fields away that are there: leave --prefix out.")
    services = open_services(dry_run=args.dry_run)
    project = find_project(services, args, register=False)
    answer = Answer(as_json=args.json)
    try:
        return _remove(project, services, args, answer) if args.remove else _write(project, services, args, answer)
    except LabelStudioError as error:
        raise type(error)(f"{error} Nothing is lost: run the same command again to go on.") from error


def _write(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.manual_fields import document  # noqa: PLC0415 - torch takes seconds: mistakes do not wait
    from ml_backend.worker.foreground import alone  # noqa: PLC0415

    def plan() -> tuple[Project, FieldPlan]:
        with bar("read", services.ledger.size(project)) as advance:
            return writer.plan(project, args.prefix, advance)

    writer = services.field_writer
    if args.dry_run:
        _, planned = plan()
        text = f"Would write {_what(planned)}\nNothing was changed (--dry-run)."
        answer.result({**document(planned), "dry_run": True}, text)
        return 0
    with alone(project, services, "fields"):
        project, planned = plan()
        with bar("written", planned.total) as advance:
            writer.write(project, planned, advance)
    answer.result({**document(planned), "dry_run": False}, f"Wrote {_what(planned)}")
    return 0


def _remove(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.manual_fields import A_REMOVAL  # noqa: PLC0415 - as above
    from ml_backend.worker.foreground import alone  # noqa: PLC0415

    writer, removed = services.field_writer, 0
    if project.state.fields is None:
        answer.result(
            {"removed": 0, "dry_run": args.dry_run}, f"{project.title!r} has no fields of ours: nothing to take away."
        )
        return 0
    while True:
        with bar("read", services.ledger.size(project)) as advance:
            ids = writer.written(project, advance)
        long = _minutes(len(ids) * A_REMOVAL)
        if args.dry_run:
            text = f"Would take the fields from {amount(len(ids), 'task')}, and the tab away{long}.\nNothing was changed (--dry-run)."
            answer.result({"removed": len(ids), "dry_run": True}, text)
            return 0
        answer.say(f"Taking the fields from {amount(len(ids), 'task')}{long}.")
        with bar("taken away", len(ids)) as advance:
            writer.remove(project, ids, advance)
        removed += len(ids)
        with alone(project, services, "fields"):
            if writer.forget(project):
                break
    answer.result(
        {"removed": removed, "dry_run": False}, f"Took the fields from {amount(removed, 'task')}, and the tab away."
    )
    return 0


def _what(plan: FieldPlan) -> str:
    told = plan.tasks
    right, wrong, none = (told.get(status, 0) for status in ("right", "wrong", "no label"))
    silent = f" Of {amount(plan.silent, 'task')} it says nothing." if plan.silent else ""
    return (
        f"what v{plan.version} thinks: new in {amount(plan.changed, 'task')}{_minutes(plan.seconds)}. It agrees with {amount(right, 'label')}, doubts {wrong:,}, and has a guess for "
        f"{amount(none, 'task')} without one.{silent} Fields: {', '.join(plan.names.all())}."
    )


def _minutes(seconds: float) -> str:
    minutes = ceil(seconds / 60)
    return f" (about {amount(minutes, 'minute')})" if minutes > 1 else ""
