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
    add_common,
    add_labels_as,
    existing_file,
    open_client,
    read_settings,
    remote_project,
)
from ml_backend.commands.output import Answer, bar
from ml_backend.imports.annotations import LabelReport, import_labels
from ml_backend.imports.sources import NAME_COLUMNS, read_labels
from ml_backend.wording import amount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument(
        "csv", type=existing_file, help="CSV with the columns filename (or path, image, task_id) and label"
    )
    add_labels_as(parser)
    parser.add_argument("--replace", action="store_true", help="replace labels that differ instead of listing them")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    answer = Answer(as_json=args.json)
    settings = read_settings()
    client = open_client(settings, args)
    project = remote_project(client, args.project)
    guesses = args.labels_as == "predictions"
    given = read_labels(args.csv, (*NAME_COLUMNS, "content_hash", "task_id"), guesses=guesses)
    if unanswered := sum(not cells for cells in given.values()):
        rest = "" if guesses else " (--labels-as predictions takes those of a model)"
        answer.warn(f"{amount(unanswered, 'line')} of {args.csv.name} without an answer of people left out{rest}.")
    with bar("labels", len(given)) as advance, bar("tidying up") as tidied:
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
            on_tidy=tidied,
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
    answer.warn_of(report.unknown, "line names no image of the project", "lines name no image of the project")
    fix = "give the path or the task id"
    answer.warn_of(report.doubtful, f"line names several images: {fix}", f"lines name several images: {fix}")
    answer.warn_of(
        report.differing,
        "image has a different label and keeps it (--replace changes it)",
        "images have different labels and keep them (--replace changes them)",
    )
