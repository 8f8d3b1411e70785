"""A project's model versions: list them, compare two, and choose which one is served.

  ml-backend versions list                  all of them, with their held-out accuracy
  ml-backend versions compare v3 v4         compare both on the same held-out tasks
  ml-backend versions promote v3            serve v3 (roll back to it) until a better version is trained
  ml-backend versions pin v3                serve v3 until you run `ml-backend versions unpin`

Versions never change. These commands choose which one is served; the queue follows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services
from ml_backend.commands.output import Answer, table
from ml_backend.wording import interval, measured, small_slice

if TYPE_CHECKING:
    from ml_backend.services import Services
    from ml_backend.store.projects import Project
    from ml_backend.store.version import Version

VERSION = "such as v4 or 4"
CLASSES = 30
"""Classes shown; --json has them all."""
STATES = {"promoted": "served before", "passed": "good enough", "candidate": "not judged yet"}
FOLLOWS = (
    "The queue follows with the next turn: within seconds if the service is running, otherwise with `ml-backend "
    "sync run`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    verbs = parser.add_subparsers(dest="what", metavar="what", required=True)
    for name, do, text in (
        ("list", _list, "all versions, with accuracy, labels, encoder and state"),
        ("compare", _compare, "compare two versions on the same held-out tasks"),
        ("promote", _choose, "serve this version until a better version is trained; an earlier version is a roll-back"),
        ("pin", _choose, "serve this version until you run `ml-backend versions unpin`"),
        ("unpin", _unpin, "serve the newest version that was good enough, and each better one from now on"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.set_defaults(do=do)
        if name == "compare":
            verb.add_argument("first", help=VERSION)
            verb.add_argument("second", help="the version to compare it with")
        elif name in {"promote", "pin"}:
            verb.add_argument("version", help=VERSION)
        add_common(verb, dry_run=name in {"promote", "pin", "unpin"})


def run(args: argparse.Namespace) -> int:
    services = open_services(dry_run=getattr(args, "dry_run", False))
    project = find_project(services, args, register=False)
    return int(args.do(project, services, args, Answer(as_json=args.json)))


def _list(project: Project, services: Services, _args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.manual_promotion import listed  # noqa: PLC0415

    rows = listed(project, services.versions)
    answer.result({"project": project.key.project_id, "versions": rows}, lambda: _listed(project, rows))
    return 0


def _state(state: str) -> str:
    return STATES.get(state, state.replace("_", " "))


def _listed(project: Project, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return f"{project.title!r} has no model yet: label two images of different classes."
    columns = ("version", "state", "held-out accuracy", "macro-F1", "labels", "encoder", "created", "reason")
    return table(
        columns,
        [
            (
                row["name"],
                "pinned" if row["pinned"] else "served" if row["served"] else _state(row["state"]),
                measured(row["holdout"]),
                interval((row["holdout"] or {}).get("macro_f1")),
                row["labels"],
                row["encoder"],
                row["created_at"][:16].replace("T", " "),
                row["reason"],
            )
            for row in rows
        ],
    )


def _compare(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.manual_promotion import compare, listed  # noqa: PLC0415

    first, second = pair = [_version(project, services, name) for name in (args.first, args.second)]
    comparison = compare(project, first, second, services.predictor, alpha=services.settings.promotion_alpha)
    known = {row["name"]: row for row in listed(project, services.versions)}
    rows = [known[version.name] for version in pair]
    document = {
        "comparable": bool(comparison.measured),
        "verdict": comparison.verdict,
        "versions": rows,
        "measured_together": list(comparison.measured),
    }
    names = [row["name"] for row in rows]
    answer.result(
        document,
        lambda: "\n".join([_listed(project, rows), *_compared(names, comparison.measured), comparison.verdict]),
    )
    return 0


def _compared(names: Sequence[str], both: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What two versions come to on the same tasks: in all, in words where these are few, and by class."""
    if not both:
        return
    for name, now in zip(names, both, strict=True):
        yield f"{name} now: {measured(now)}, macro-F1 {interval(now['macro_f1'])}"
    for name, now in zip(names, both, strict=True):
        if words := small_slice(now):
            yield f"{name}: {words}."
    found = [{each["name"]: each for each in now["classes"]} for now in both]
    kinds = list(dict.fromkeys(kind for of in found for kind in of))
    columns = ("class", "images", *(f"{what} of {name}" for what in ("recall", "precision") for name in names))
    cells = [
        (
            kind,
            max(of[kind]["support"] for of in found if kind in of),
            *(interval(of[kind][what]) if kind in of else "" for what in ("recall", "precision") for of in found),
        )
        for kind in kinds[:CLASSES]
    ]
    yield table(columns, cells)
    if len(kinds) > CLASSES:
        yield f"... and {len(kinds) - CLASSES} more classes (use --json to get them all)"


def _choose(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    """Promote or pin. Waits for a turn that runs, whose candidate would else replace what was chosen."""
    from ml_backend.manual_promotion import follow  # noqa: PLC0415

    version = _version(project, services, args.version)
    before = services.versions.current(project)
    serve = {"promote": services.versions.promote, "pin": services.versions.pin}[args.what]
    document = {"version": version.name, "before": before.name if before else None, "dry_run": args.dry_run}
    instead = f" instead of {before.name}" if before and before.number != version.number else ""
    until = (
        "until a better version is trained" if args.what == "promote" else "until you run `ml-backend versions unpin`"
    )
    if args.dry_run:
        services.versions.folder(version)
        if args.what == "promote":
            services.versions.check_pin(project, version.number)
        answer.result(document, f"{version.name} would be served{instead} {until}. Nothing was changed (--dry-run).")
        return 0
    from ml_backend.worker.foreground import alone  # noqa: PLC0415 - torch takes seconds

    with alone(project, services, f"versions {args.what}"):
        follow(project, serve(project, version.number), services.jobs)
    answer.result(document, f"{version.name} is now served{instead} {until}. {FOLLOWS}")
    return 0


def _unpin(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.manual_promotion import unpin  # noqa: PLC0415

    before, after = services.versions.current(project), services.versions.after_unpin(project)
    served = after or before
    document = {
        "version": served.name if served else None,
        "was_pinned": after is not None,
        "dry_run": args.dry_run,
    }
    if before is None or after is None:
        answer.result(document, "No version is pinned.")
        return 0
    instead = "it" if after.number == before.number else f"{after.name}, the newest that was good enough,"
    if args.dry_run:
        answer.result(
            document, f"{before.name} would be unpinned: {instead} would be served. Nothing was changed (--dry-run)."
        )
        return 0
    unpin(project, services.versions, services.jobs)
    answer.result(document, f"{before.name} is unpinned: {instead} is served until a better version is trained.")
    return 0


def _version(project: Project, services: Services, name: str) -> Version:
    from ml_backend.store.version import version_number  # noqa: PLC0415 - with the store

    return services.versions.version(project, version_number(name))
