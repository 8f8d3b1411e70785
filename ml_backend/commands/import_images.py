"""Import images into a Label Studio project, each once, with its name, path and content hash.

  ml-backend import-images pictures --project 3                      a folder and everything below it
  ml-backend import-images pictures --labels labels.csv              with labels from a CSV (filename,label)
  ml-backend import-images pictures --by-class                       the name of an image's folder is its label
  ml-backend import-images list.csv                                  a CSV: filename or image, and optionally label
  ml-backend import-images 'more/**/*.jpg' https://host/one.png urls.txt

If Label Studio can see the files (below its local-files document root), it serves them from where they are; otherwise
they are uploaded. Run it again to continue where it stopped: images already in the project are skipped, by content.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ml_backend.commands import held_out
from ml_backend.commands.first_queue import after_import
from ml_backend.commands.options import (
    ENVIRONMENT,
    add_common,
    add_labels_as,
    existing_file,
    open_client,
    read_settings,
    remote_project,
)
from ml_backend.commands.output import MOST, Answer, bar
from ml_backend.errors import InvalidInputError
from ml_backend.host_lists import HostList
from ml_backend.imports.inspection import check_imported, in_buckets, inspect
from ml_backend.imports.sources import find_images, read_labels, with_labels
from ml_backend.imports.uploading import ImportReport, check_labels, import_images
from ml_backend.labelstudio.media import ImageReader
from ml_backend.labelstudio.storage import unconnected_buckets
from ml_backend.task_names import and_more
from ml_backend.wording import amount

CHECK_TIMEOUT_S = 10.0
CONNECT = "connect a storage to the project under Settings, Cloud Storage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument(
        "images",
        nargs="+",
        help="folders, files, quoted globs, CSV files, .txt lists, http(s):// and s3:// addresses",
    )
    parser.add_argument(
        "--labels",
        type=existing_file,
        metavar="CSV",
        help=("CSV with labels for the images: columns filename and label"),
    )
    parser.add_argument("--by-class", action="store_true", help="the name of an image's folder is its label")
    add_labels_as(parser)
    parser.add_argument(
        "--storage",
        choices=["auto", "local", "upload"],
        default="auto",
        help=(
            "local: Label Studio serves the files from where they are; upload: they are sent to it; auto: local "
            "where possible (default: auto)"
        ),
    )
    parser.add_argument(
        "--document-root",
        type=Path,
        metavar="FOLDER",
        help="Label Studio's local-files document root as seen from here, if it runs elsewhere (default: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=(
            "import nothing if anything is missing, unreadable or a duplicate; exit with 1 if an imported address "
            "cannot be read"
        ),
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    answer = Answer(as_json=args.json)
    settings = read_settings()
    client = open_client(settings, args)
    project = remote_project(client, args.project)
    schema = client.schema(project, default=settings.selection)
    guesses = args.labels_as == "predictions"
    found = find_images(args.images, by_class=args.by_class, guesses=guesses)
    if args.labels:
        found = with_labels(found, read_labels(args.labels, guesses=guesses))
    labels = check_labels(schema, [*found.sources, *found.ambiguous], args.separator)
    report = ImportReport(missing=found.missing)
    reader = ImageReader(client.transport, hosts=HostList(settings.image_hosts), seconds=CHECK_TIMEOUT_S, retries=1)
    answer.say(f"{amount(len(found.sources), 'image')} found; reading them ...")
    with bar("reading", len(found.sources)) as advance:
        ready = inspect(found.sources, labels, report, advance, ambiguous=found.ambiguous, fetch=reader.fetch)
    number = int(project["id"])
    report.unconnected = unconnected_buckets(client, number, [str(image.source.address) for image in ready])
    if args.strict and (faults := _faults(report)):
        raise InvalidInputError(f"Nothing was imported (--strict): {and_more(faults, most=MOST)}.")
    with bar("importing", len(ready)) as advance:
        import_images(
            number,
            schema,
            ready,
            report,
            client,
            where=args.storage,
            root=args.document_root or settings.document_root,
            labels_as=args.labels_as,
            dry_run=args.dry_run,
            on_progress=advance,
        )
    if args.dry_run:
        report.unchecked += len(in_buckets(ready))
    else:
        with bar("checking", len(in_buckets(ready))) as advance:
            check_imported(number, schema, ready, report, client, reader.fetch, advance)
    _warn(answer, report)
    document = {"project": project["id"], "dry_run": args.dry_run, **vars(report)}
    text = _summary(project["title"], report, args)
    if report.labelled and args.labels_as == "annotations":
        text += "\n" + held_out.imported(settings, client.url, number, report.labelled)
    if report.imported and not args.dry_run and not args.json:
        text += "\n" + after_import(client, number)
    answer.result(document, text)
    doubt = args.strict and not args.dry_run and (report.faulty or report.unchecked)
    return 1 if doubt or not (report.imported or report.there) else 0


def _faults(report: ImportReport) -> list[str]:
    """What keeps --strict from importing anything."""
    buckets = [f"the project has no storage for {bucket}" for bucket in report.unconnected]
    return [*report.missing, *report.unreadable, *report.doubles, *report.contradictions, *buckets]


def _summary(title: str, report: ImportReport, args: argparse.Namespace) -> str:
    verb = "would be imported" if args.dry_run else "imported"
    images = f"{amount(report.imported, 'image')} {verb} into {title!r}"
    labelled = f"{report.labelled} of them with labels ({args.labels_as})" if report.labelled else "without labels"
    labelled += f", {report.none} of these with none of the choices (an empty label)" if report.none else ""
    lines = [f"{images}, {labelled}."]
    if report.faulty:
        lines.append(
            f"{len(report.faulty)} of the images cannot be read yet; "
            f"{'its task stays' if len(report.faulty) == 1 else 'their tasks stay'}. Run this again to check."
        )
    if report.unchecked:
        lines.append(f"{amount(report.unchecked, 'address', 'addresses')} not checked: there may be no image there.")
    if report.stored:
        lines.append(f"Files: {report.stored}.")
    if report.there:
        lines.append(
            f"{amount(report.there, 'image')} already in the project. Use `ml-backend import-labels` to "
            "label existing images."
        )
    return "\n".join(lines)


def _warn(answer: Answer, report: ImportReport) -> None:
    answer.warn_of(
        report.unreadable, "image cannot be read and was left out", "images cannot be read and were left out"
    )
    answer.warn_of(report.missing, "named file is missing", "named files are missing")
    same = ("file is identical to another one and was left out", "files are identical to others and were left out")
    answer.warn_of(report.doubles, *same)
    answer.warn_of(report.contradictions, "image has contradictory labels", "images have contradictory labels")
    answer.warn_of(report.unconnected, f"bucket has no storage: {CONNECT}", f"buckets have no storage: {CONNECT}")
    answer.warn_of(report.faulty, "task shows an image that cannot be read", "tasks show images that cannot be read")
