"""Import labels from a CSV for images already in the project, such as one written by `export labels`.

  ml-backend import-labels labels.csv --project 3
  ml-backend import-labels guesses.csv --labels-as predictions

Each line names its image by filename, path or task id. Run it again and it writes only what is missing. An image that
already has a different label keeps it and is listed, unless you pass --replace.
"""

from __future__ import annotations

import argparse

from ml_backend.commands import held_out
from ml_backend.commands.options import (
    ENVIRONMENT,
    add_dry_run,
    add_json,
    add_project,
    existing_file,
    open_client,
    read_settings,
    remote_project,
)
from ml_backend.commands.output import Answer, bar
from ml_backend.imports.annotations import LabelReport, import_labels
from ml_backend.imports.sources import NAME_COLUMNS, read_labels
from ml_backend.wording import amount

MOST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument(
        "csv", type=existing_file, help="CSV with the columns filename (or path, image, task_id) and label"
    )
    add_project(parser)
    parser.add_argument(
        "--labels-as",
        choices=["annotations", "predictions"],
        default="annotations",
        help=(
            "annotations: the tasks count as labelled; predictions: the labels are shown for somebody to confirm "
            "(default: annotations)"
        ),
    )
    parser.add_argument(
        "--separator", default="|", metavar="TEXT", help=("separator between several labels in a CSV cell (default: |)")
    )
    parser.add_argument("--replace", action="store_true", help="replace labels that differ instead of listing them")
    add_dry_run(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = Answer(as_json=args.json)
    settings = read_settings()
    client = open_client(settings, args)
    project = remote_project(client, args.project)
    given = read_labels(args.csv, (*NAME_COLUMNS, "content_hash", "task_id"))
    with bar("labels", len(given)) as advance:
        report = import_labels(
            int(project["id"]),
            client.schema(project, default=settings.selection),
            given,
            client,
            labels_as=args.labels_as,
            separator=args.separator,
            replace=args.replace,
            dry_run=args.dry_run,
            on_progress=advance,
        )
    _warn(answer, report)
    verb = "would be written" if args.dry_run else "written"
    labels = f"{amount(report.written, 'label')} {verb} as {args.labels_as}"
    text = f"{labels}; {report.replaced} replaced, {report.same} already the same."
    if report.none:
        text += f" An empty label says that none of the choices fits: {amount(report.none, 'task')}."
    if report.written and args.labels_as == "annotations":
        number = int(project["id"])
        text += "\n" + held_out.imported(settings, client.url, number, report.written)
    answer.result({"project": project["id"], "dry_run": args.dry_run, **vars(report)}, text)
    return 0


def _warn(answer: Answer, report: LabelReport) -> None:
    for one, several, items in (
        ("line names no image of the project", "lines name no image of the project", report.unknown),
        (
            "line names several images: give the path or the task id",
            "lines name several images: give the path or the task id",
            report.doubtful,
        ),
        (
            "image has a different label and keeps it (--replace changes it)",
            "images have different labels and keep them (--replace changes them)",
            report.differing,
        ),
    ):
        if items:
            shown = "\n  ".join(items[:MOST]) + (f"\n  and {len(items) - MOST} more" if len(items) > MOST else "")
            answer.warn(f"{amount(len(items), one, several)}:\n  {shown}")
