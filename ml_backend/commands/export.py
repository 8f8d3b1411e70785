"""Export a project's labels, predictions, rounds, model, or labelled images as a data set.

  ml-backend export labels                        labels.csv: filename, label, and all other columns
  ml-backend export labels --minimal --out -      the two columns, to standard output
  ml-backend export predictions                   every task: its label, or else the model's guess
  ml-backend export rounds --queries              every task ever chosen, with its rank and the reason
  ml-backend export dataset --out pictures        pictures/<label>/<filename>, for torchvision's ImageFolder

A file is written completely or not at all. The latest labels are read from Label Studio first, unless you pass --offline.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.commands.export_predictions import add_predictions_arguments
from ml_backend.commands.export_tables import (
    add_offline,
    add_table_arguments,
    open_output,
    report_rows,
    up_to_date,
    written_to,
)
from ml_backend.commands.options import add_common, find_project, open_services
from ml_backend.commands.output import Answer, bar, counted
from ml_backend.errors import InvalidInputError
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.exports.label_rows import Tally


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", metavar="what", required=True)
    labels = kinds.add_parser("labels", help="one row per labelled task: filename, label and all other columns")
    add_labels_arguments(labels)
    predictions = kinds.add_parser("predictions", help="one row per task: its label, or else the model's guess")
    add_predictions_arguments(predictions)
    rounds = kinds.add_parser("rounds", help="one row per round, or per chosen task")
    add_table_arguments(rounds, Path("rounds.csv"), _run_rounds)
    rounds.add_argument("--queries", action="store_true", help="one row per chosen task instead of per round")
    model = kinds.add_parser("model", help="a model version as files, to serve elsewhere or to import again")
    _add_model_arguments(model)
    dataset = kinds.add_parser("dataset", help="the labelled images, in folders by label or with a manifest")
    _add_dataset_arguments(dataset)


def add_labels_arguments(parser: argparse.ArgumentParser) -> None:
    """For `export labels`, and `sync export`, which is the same."""
    parser.description = (
        "One row per labelled task; skipped tasks are left out. With several annotators the row is their consensus."
    )
    add_table_arguments(parser, Path("labels.csv"), run_labels)
    parser.add_argument("--minimal", action="store_true", help="only the columns filename and label")
    parser.add_argument(
        "--separator", default="|", metavar="TEXT", help="separator between several labels of a task (default: |)"
    )
    parser.add_argument("--long", action="store_true", help="one row per label if a task has several")
    parser.add_argument(
        "--include-unlabelled", action="store_true", help="include tasks that were chosen but are not labelled yet"
    )
    add_include(parser)
    parser.add_argument(
        "--spreadsheet",
        action="store_true",
        help="put an apostrophe before CSV cells that a spreadsheet would run as a formula (starting with = + - @)",
    )
    parser.add_argument("--strict", action="store_true", help="write nothing if there are warnings")


def add_include(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--include",
        choices=["accepted"],
        help="accepted: also the labels that were accepted of a model (default: labels of people only)",
    )


def run(args: argparse.Namespace) -> int:
    return int(args.do(args))


def run_labels(args: argparse.Namespace) -> int:
    from ml_backend.worker.exporting import LabelOptions, write_labels  # noqa: PLC0415 - torch comes with it

    answer = Answer(as_json=args.json)
    project, services = up_to_date(args, answer)
    options = LabelOptions(
        args.separator,
        minimal=args.minimal,
        long=args.long,
        unlabelled=args.include_unlabelled,
        accepted=args.include == "accepted",
        spreadsheet=args.spreadsheet,
        strict=args.strict,
    )
    opened = partial(open_output, args, spreadsheet=args.spreadsheet)
    done = write_labels(project, services, opened, options, count=counted)
    tally, counts, warnings = done.tally, done.counts, done.warnings
    for warning in warnings:
        answer.warn(warning)
    report = {
        "file": str(args.out),
        "rows": tally.rows,
        "labelled": tally.labelled,
        "accepted": tally.accepted,
        "waiting": tally.waiting,
        "conflicts": counts.conflicts,
        "warnings": warnings,
    }
    return report_rows(
        args, answer, report, f"{amount(tally.rows, 'row')} {written_to(args)}. {_waiting(tally, args)}".strip()
    )


def _waiting(tally: Tally, args: argparse.Namespace) -> str:
    """What was asked for and has no label yet, which is how a project looks while people label it."""
    if not tally.waiting:
        return ""
    if args.include_unlabelled:
        return f"{tally.waiting} of them {'was' if tally.waiting == 1 else 'were'} chosen but not labelled yet."
    return (
        f"{amount(tally.waiting, 'task')} chosen but not labelled yet; use --include-unlabelled to include "
        f"{'it' if tally.waiting == 1 else 'them'}."
    )


def _run_rounds(args: argparse.Namespace) -> int:
    from ml_backend.worker.exporting import write_rounds  # noqa: PLC0415

    answer = Answer(as_json=args.json)
    project, services = up_to_date(args, answer)
    count = write_rounds(project, services, partial(open_output, args), queries=args.queries)
    return report_rows(
        args, answer, {"file": str(args.out), "rows": count}, f"{amount(count, 'row')} {written_to(args)}."
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "The export is read back and compared with the model on images of the project."
    parser.set_defaults(do=_run_model)
    parser.add_argument("--version", metavar="vN", help="model version (default: the one served)")
    parser.add_argument(
        "--format",
        choices=["bundle", "pt2", "onnx"],
        default="bundle",
        help=(
            "bundle: a folder with safetensors and meta.json, which can be imported again; pt2, onnx: a single "
            "file (default: bundle)"
        ),
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="new file or folder (default: named after the version, such as v12.onnx)",
    )
    parser.add_argument(
        "--include",
        choices=["accepted"],
        help="accepted: train its head anew, also on the labels that were accepted of a model (default: labels of people only)",
    )
    add_common(parser)


def _run_model(args: argparse.Namespace) -> int:
    from ml_backend.worker.exporting import version_named  # noqa: PLC0415

    services = open_services(dry_run=args.dry_run)
    project = find_project(services, args)
    version = version_named(project, services, args.version)
    name = f"{version.name}-accepted" if args.include else version.name
    out: Path = args.out or Path(name if args.format == "bundle" else f"{name}.{args.format}")
    if out.exists():
        raise InvalidInputError(f"{out} already exists: name another with --out, or move it.")
    from ml_backend.learning.export_formats import recipe_beside, write_recipe  # noqa: PLC0415 - torch

    recipe = None if args.format == "bundle" else recipe_beside(out)
    if recipe is not None and recipe.exists():
        raise InvalidInputError(
            f"{recipe}, which goes with {out}, already exists: name another with --out, or move it."
        )
    exporter = services.model_exporter
    finished = exporter.finished(project, version) if args.include else None
    if args.dry_run:
        services.versions.folder(version)
        document = {"path": str(out), "format": args.format, "version": name, "dry_run": True}
        Answer(as_json=args.json).result(document, f"{name} would be written to {out} (--dry-run).")
        return 0
    saved = exporter.save(project, version, args.format, out, finished)
    if recipe is not None:
        write_recipe(out)
    document = {
        "path": str(out),
        "format": saved.format,
        "version": name,
        "classes": list(finished.head.classes) if finished else version.meta.classes,
        "images_compared": saved.images_compared,
        "largest_difference": saved.difference,
        "prepare": str(recipe or out / "prepare.py"),
    }
    text = f"{name} written to {out}: {saved.images_compared} images compared, largest difference in probability {saved.difference:.1e}."
    if recipe is not None:
        text += f" {recipe} beside it makes of an image file what it takes."
    if finished:
        document |= {"labels_of_people": finished.people, "labels_accepted": finished.accepted}
        text += (
            f" Its head learned from {amount(finished.people, 'label')} of people and {amount(finished.accepted, 'accepted label')}; "
            f"the accuracy shown is that of {version.name}, which learned from people alone."
        )
    Answer(as_json=args.json).result(document, text)
    return 0


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copies each labelled image once. Run it again to add new images and remove those that no longer belong."
    )
    parser.set_defaults(do=_run_dataset)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new folder, or one written by this command"
    )
    parser.add_argument(
        "--layout",
        choices=["folders", "manifest"],
        default="folders",
        help=(
            "folders: one per label, for ImageFolder; manifest: all in images/, with a labels.csv (default: folders)"
        ),
    )
    parser.add_argument(
        "--splits",
        action="store_true",
        help=(
            "put the labels in separate train/ and held-out/ folders, to train another model: the model here has learned from both"
        ),
    )
    add_include(parser)
    add_offline(parser)


def _run_dataset(args: argparse.Namespace) -> int:
    from ml_backend.exports.dataset import plan_dataset, write_dataset  # noqa: PLC0415

    answer = Answer(as_json=args.json)
    project, services = up_to_date(args, answer)
    manifest, accepted = args.layout == "manifest", args.include == "accepted"
    layout = {"manifest": manifest, "splits": args.splits, "accepted": accepted}
    if args.dry_run:
        report = plan_dataset(project, args.out, services.ledger, **layout)
        text = f"{amount(report.images, 'image')} would be in {args.out}: {report.copied} to copy, {report.removed} to remove"
        answer.result({"folder": str(args.out), "dry_run": True, **vars(report)}, f"{text} (--dry-run).")
        return 0
    counts = services.ledger.counts(project)
    with bar("images", counts.labelled + (counts.accepted if accepted else 0)) as advance:
        report = write_dataset(project, args.out, services.ledger, services.hosts, **layout, on_progress=advance)
    for warning in report.warnings():
        answer.warn(warning)
    document = {"folder": str(args.out), **vars(report)}
    text = (
        f"{amount(report.images, 'image')} in {args.out}: {report.copied} copied, {report.removed} removed, "
        f"{len(report.problems)} unreadable and left out."
    )
    answer.result(document, text)
    return 1 if report.problems and not report.images else 0
