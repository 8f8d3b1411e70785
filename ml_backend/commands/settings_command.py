"""A project's own settings, which may be changed while it runs, and pausing it.

  ml-backend settings list                                  as they are, and which of them are the project's own
  ml-backend settings set --strategy margin --batch-size 50
  ml-backend settings reset                                 all as the service is set again; or some: reset strategy
  ml-backend settings pause                                 train nothing, and leave the queue as it is, until resumed
  ml-backend settings resume

Another strategy or batch size makes a new queue at once; one by hand, and an audit, come to their end before. While a project is
paused, people go on labelling and /predict answers: their answers are kept, and learned from once it is resumed.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services
from ml_backend.commands.output import Answer, table

if TYPE_CHECKING:
    from ml_backend.services import Services
    from ml_backend.store.projects import Project

NAMES = ("strategy", "batch-size", "train-after-labels", "train-after-seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    verbs = parser.add_subparsers(dest="what", metavar="what", required=True)
    add_common(verbs.add_parser("list", help="the settings as they are for this project"), dry_run=False)
    choose = verbs.add_parser("set", help="change settings of this project alone")
    choose.add_argument("--strategy", help="query strategy; an unknown name lists them all")
    choose.add_argument("--batch-size", metavar="N", help="number of tasks in a batch")
    choose.add_argument("--train-after-labels", metavar="N", help="train after this many new labels")
    choose.add_argument(
        "--train-after-seconds", metavar="SECONDS", help="or after this many seconds without a new label; a day at most"
    )
    add_common(choose)
    reset = verbs.add_parser("reset", help="as the service is set again")
    reset.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    add_common(reset)
    add_common(verbs.add_parser("pause", help="train nothing and leave the queue as it is; a turn under way ends"))
    add_common(verbs.add_parser("resume", help="go on, with a turn at once"))


def run(args: argparse.Namespace) -> int:
    services = open_services(dry_run=getattr(args, "dry_run", False))
    project = find_project(services, args, register=False)
    answer = Answer(as_json=args.json)
    from ml_backend.project_settings import as_json  # noqa: PLC0415 - mistakes in the call do not wait

    if args.what == "list":
        told = as_json(project, services.settings)
        answer.result(told, lambda: _listed(told))
        return 0
    before, after = _change(project, services, args)
    told = as_json(after, services.settings)
    document = {**told, "before": as_json(before, services.settings), "dry_run": args.dry_run}
    dry = "\nNothing was changed (--dry-run)." if args.dry_run else ""
    answer.result(document, lambda: _said(args.what, before, after, services) + dry)
    return 0


def _change(project: Project, services: Services, args: argparse.Namespace) -> tuple[Project, Project]:
    from ml_backend.errors import InvalidInputError  # noqa: PLC0415
    from ml_backend.project_settings import CHOOSABLE, checked  # noqa: PLC0415

    if args.what == "pause":
        return services.tuning.pause(project)
    if args.what == "resume":
        return services.tuning.resume(project)
    if args.what == "reset":
        names = [name.replace("-", "_") for name in args.names] or CHOOSABLE
        return services.tuning.choose(project, **checked(dict.fromkeys(names)))
    given = {name: value for name in CHOOSABLE if (value := getattr(args, name)) is not None}
    if not given:
        raise InvalidInputError(f"Say what to set: --{', --'.join(NAMES)}.")
    return services.tuning.choose(project, **checked(given))


def _said(what: str, before: Project, after: Project, services: Services) -> str:
    from ml_backend.project_settings import changes  # noqa: PLC0415

    said = " ".join(changes(before, after, services.settings))
    return said or {"pause": "It was paused already.", "resume": "It was not paused."}.get(what, "It was so already.")


def _listed(told: dict[str, Any]) -> str:
    rows = [(name, told[name.replace("-", "_")], told["service"][name.replace("-", "_")]) for name in NAMES]
    paused = f"paused since {told['paused'][:16].replace('T', ' ')} UTC" if told["paused"] else "not paused"
    return f"{table(('setting', 'this project', 'the service'), rows)}\n{paused}"
