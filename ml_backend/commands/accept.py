"""Have the rest of a project labelled by its model, with at most so many wrong labels.

  ml-backend accept plan                    what that would take, for several shares of wrong labels
  ml-backend accept audit --error 2%        have people look at a random sample of them, as the queue
  ml-backend accept status                  how far that is
  ml-backend accept certify                 the certificate: how many of the others can be wrong, at most
  ml-backend accept write                   these, labelled, as the certificate allows
  ml-backend accept undo CERTIFICATE        and taken back
  ml-backend accept stop                    give the audit up

People look at a random sample of what the model would label; how many of these are wrong says how many of all are, at most.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ml_backend.commands import accepted_labels, certification
from ml_backend.commands.certification import share
from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services
from ml_backend.commands.output import Answer, table
from ml_backend.wording import amount, per_cent

if TYPE_CHECKING:
    from ml_backend.acceptance.project_rest import Plan
    from ml_backend.services import Services
    from ml_backend.store.projects import Project

ERRORS = (0.005, 0.01, 0.02, 0.05)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    verbs = parser.add_subparsers(dest="what", metavar="what", required=True)
    plan = verbs.add_parser("plan", help="what it would take to have the rest labelled; changes nothing")
    plan.set_defaults(do=_plan)
    plan.add_argument(
        "--error",
        type=share,
        action="append",
        metavar="SHARE",
        help="share of wrong labels that is allowed, such as 2%% or 0.02; may be repeated (default: 0.5%%, 1%%, 2%% and 5%%)",
    )
    certification.add_confidence(plan)
    add_common(plan, dry_run=False)
    certification.add_verbs(verbs)
    accepted_labels.add_verbs(verbs)


def run(args: argparse.Namespace) -> int:
    copied = getattr(
        args, "dry_run", args.what == "plan"
    )  # a plan is of a copy: nothing is trained, written or waited for
    services = open_services(dry_run=copied)
    project = find_project(services, args, register=False)
    return int(args.do(project, services, args, Answer(as_json=args.json)))


def _plan(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    plan = services.project_rest.plan(project, sorted(set(args.error or ERRORS)), args.confidence)
    document = {
        **{name: getattr(plan, name) for name in ("tasks", "unread", "measured", "wrong", "confidence")},
        "version": f"v{plan.version}",
        "forecasts": [{**vars(each), "looks": each.looks} for each in plan.forecasts],
    }
    answer.result(document, lambda: _planned(project, plan))
    return 0


def _planned(project: Project, plan: Plan) -> str:
    if not plan.tasks:
        return f"Every task of {project.title!r} that can be labelled has a label: there is nothing to accept."
    if plan.tasks == plan.unread:
        return f"No image of the {amount(plan.unread, 'task')} without a label was read yet: `ml-backend sync run` reads them."
    head = (
        f"{amount(plan.tasks - plan.unread, 'task')} of {project.title!r} without a label. On {amount(plan.measured, 'held-out image')}, v{plan.version} is "
        f"wrong {amount(plan.wrong, 'time')}. What is to be expected, at {per_cent(plan.confidence)} confidence:\n"
    )
    rows = [
        [per_cent(each.error), each.accepted, each.sample, each.left, each.looks] if each.accepted
        else [per_cent(each.error), "none", "", each.left, each.looks]
        for each in plan.forecasts
    ]  # fmt: skip
    columns = ("wrong at most", "accepted unseen", "sample to look at", "left to label", "looks in all")
    lines = [head, table(columns, rows)]
    if plan.unread:
        lines.append(
            f"\n{amount(plan.unread, 'task')} more whose image was not read yet: `ml-backend sync run` reads them."
        )
    if not plan.forecasts[-1].accepted:
        lines.append(
            "\nThe model is not good enough yet for a sample to be worth it: label on, or choose a better encoder."
        )
    return "\n".join(lines)
