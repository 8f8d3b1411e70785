"""Bring images into a Label Studio project, each once, with the name, path and content hash it had.

  ml-backend import-images pictures --project 3                      a folder and all folders below
  ml-backend import-images pictures --labels labels.csv              with labels from a CSV (filename,label)
  ml-backend import-images pictures --by-class                       the folder an image lies in is its label
  ml-backend import-images list.csv                                  a CSV: filename or image, and labels if known
  ml-backend import-images 'more/**/*.jpg' https://host/one.png urls.txt

Label Studio serves the files from where they are, if it sees them (its local-files document root); else they are uploaded.
Run again, it goes on where it stopped: what the project has already is skipped, by content.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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
from ml_backend.errors import InvalidInputError
from ml_backend.importing import ImportReport, check_labels, import_images, inspect
from ml_backend.sources import find_images, read_labels, with_labels

MOST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument(
        "images",
        nargs="+",
        help="folders, files, globs in quotes, CSV files, .txt lists, http(s):// and s3:// addresses",
    )
    add_project(parser)
    parser.add_argument(
        "--labels", type=existing_file, metavar="CSV", help="labels for the images: columns filename and label"
    )
    parser.add_argument("--by-class", action="store_true", help="the name of the folder an image lies in is its label")
    parser.add_argument(
        "--labels-as",
        choices=["annotations", "predictions"],
        default="annotations",
        help="what the labels become: annotations count as labelled, predictions are shown to look over (default: annotations)",
    )
    parser.add_argument(
        "--separator", default="|", metavar="TEXT", help="between several labels in a CSV cell (default: |)"
    )
    parser.add_argument(
        "--storage",
        choices=["auto", "local", "upload"],
        default="auto",
        help="local: Label Studio serves the files itself, nothing is copied; upload: they are sent to it; auto: local where it can (default: auto)",
    )
    parser.add_argument(
        "--document-root",
        type=Path,
        metavar="FOLDER",
        help="Label Studio's local-files document root as seen from here, if it runs elsewhere (default: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="import nothing if anything is missing, unreadable or double"
    )
    add_dry_run(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = Answer(as_json=args.json)
    settings = read_settings()
    client = open_client(settings, args)
    project = remote_project(client, args.project)
    schema = client.schema(project, default=settings.selection)
    found = find_images(args.images, by_class=args.by_class)
    if args.labels:
        found = with_labels(found, read_labels(args.labels))
    labels = check_labels(schema, found.sources, args.separator)
    report = ImportReport(missing=found.missing)
    answer.say(f"{len(found.sources)} images found; reading them ...")
    with bar("reading", len(found.sources)) as advance:
        ready = inspect(found.sources, labels, report, advance)
    if args.strict and (faults := report.missing + report.unreadable + report.doubles):
        raise InvalidInputError(f"Nothing was imported (--strict): {'; '.join(faults[:MOST])}.")
    with bar("importing", len(ready)) as advance:
        import_images(
            client,
            int(project["id"]),
            schema,
            ready,
            report,
            where=args.storage,
            root=args.document_root or settings.document_root,
            labels_as=args.labels_as,
            dry_run=args.dry_run,
            done=advance,
        )
    _warn(answer, report)
    answer.result(
        {"project": project["id"], "dry_run": args.dry_run, **vars(report)}, _summary(project["title"], report, args)
    )
    return 0


def _summary(title: str, report: ImportReport, args: argparse.Namespace) -> str:
    verb = "would be imported" if args.dry_run else "imported"
    lines = [
        f"{report.imported} images {verb} into {title!r}, {report.labelled} of them with labels ({args.labels_as})."
    ]
    if report.stored:
        lines.append(f"Files: {report.stored}.")
    if report.there:
        lines.append(f"{report.there} were there already. `ml-backend import-labels` gives labels to what is there.")
    return "\n".join(lines)


def _warn(answer: Answer, report: ImportReport) -> None:
    for what, items in (
        ("cannot be read", report.unreadable),
        ("are missing", report.missing),
        ("are the same image as another and were left out", report.doubles),
    ):
        if items:
            shown = "\n  ".join(items[:MOST]) + (f"\n  and {len(items) - MOST} more" if len(items) > MOST else "")
            answer.warn(f"{len(items)} {what}:\n  {shown}")
