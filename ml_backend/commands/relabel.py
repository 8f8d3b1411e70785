"""Give a label another name, or merge it into one that is there: in the label config and in every answer.

  ml-backend relabel "hot dog" sausage --dry-run    say what would be changed
  ml-backend relabel "hot dog" sausage

Annotations (skipped ones too), drafts and predictions get the new name; what else they hold stays as it is, and so does who
answered and when. If something stops it, nothing is lost: run it again, and it goes on.
"""

from __future__ import annotations

import argparse
from math import ceil
from typing import TYPE_CHECKING

from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services
from ml_backend.commands.output import Answer, bar
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.manual_relabel import RelabelPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument("old", help="the label as it is called now")
    parser.add_argument("new", help="its new name; the name of another label merges the two")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    services = open_services(dry_run=args.dry_run)
    answer = Answer(as_json=args.json)
    project = find_project(services, args, register=False)
    from ml_backend.manual_relabel import Relabeller, document  # noqa: PLC0415 - mistakes do not wait

    relabeller = Relabeller(services.hosts, services.ledger, services.jobs, services.label_sync)
    if args.dry_run:
        _, plan = relabeller.plan(project, args.old, args.new)
        text = f"Would {_what(plan)}. Nothing was changed (--dry-run)."
        answer.result({**document(plan), "dry_run": True}, text)
        return 0
    from ml_backend.worker.foreground import alone  # noqa: PLC0415 - torch takes seconds

    with alone(project, services, "relabel"):
        project, plan = relabeller.plan(project, args.old, args.new)
        answer.say(f"Going to {_what(plan)}.")
        with bar("changed", plan.total) as advance:
            project, done = relabeller.run(project, plan, advance)
    now = services.ledger.counts(project)
    text = (
        f"{args.old!r} is called {args.new!r} now: {amount(done, 'change')}. {amount(now.labelled, 'task')} with a label, "
        f"{amount(now.conflicts, 'conflict')} (before: {plan.conflicts:,}). The next turn learns from it."
    )
    counts = {"changed": done, "labelled": now.labelled, "conflicts_now": now.conflicts}
    answer.result({**document(plan), **counts, "dry_run": False}, text)
    return 0


def _what(plan: RelabelPlan) -> str:
    act = "rename" if plan.adds else "merge"
    found = (
        f"{amount(plan.annotations, 'annotation')}, {amount(plan.drafts, 'draft')} and "
        f"{amount(plan.predictions, 'prediction')}"
    )
    minutes = ceil(plan.seconds / 60)
    long = f"; that takes about {amount(minutes, 'minute')}" if minutes > 1 else ""
    return f"{act} {plan.old!r} {'to' if plan.adds else 'into'} {plan.new!r} in {found}{long}"
