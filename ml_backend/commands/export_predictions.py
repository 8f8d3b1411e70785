"""`ml-backend export predictions`: a row for every task, labelled or not, from one version to the end."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.commands.export_tables import add_table_arguments, open_output, report_rows, up_to_date, written_to
from ml_backend.commands.output import Answer, bar, counted
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.exports.prediction_rows import PredictionTally


def add_predictions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One row per task, labelled or not: the label of people where there is one, else one accepted of a model, else the "
        "model's guess, else why there is none. Images that were not read yet are read first."
    )
    add_table_arguments(parser, Path("predictions.csv"), _run, known="labels and images")
    parser.add_argument("--version", metavar="vN", help="model version (default: the one served)")
    parser.add_argument(
        "--probabilities", action="store_true", help="add a column p:CLASS for each class, with its probability"
    )
    parser.add_argument(
        "--separator", default="|", metavar="TEXT", help="separator between several labels of a task (default: |)"
    )
    parser.add_argument(
        "--spreadsheet",
        action="store_true",
        help="put an apostrophe before CSV cells that a spreadsheet would run as a formula (starting with = + - @)",
    )


def _run(args: argparse.Namespace) -> int:
    from ml_backend.worker.exporting import PredictionOptions, write_predictions  # noqa: PLC0415 - torch comes with it

    answer = Answer(as_json=args.json)
    project, services = up_to_date(args, answer)
    done = write_predictions(
        project,
        services,
        partial(open_output, args, spreadsheet=args.spreadsheet),
        args.command,
        answer.warn,
        PredictionOptions(args.version, args.separator, args.probabilities, args.offline, args.dry_run),
        count=counted,
        reading=bar,
    )
    return _told(args, answer, done.tally, done.version, done.unread)


def _told(args: argparse.Namespace, answer: Answer, tally: PredictionTally, version: str | None, unread: int) -> int:
    """Say what was written, or would be; returns the exit code. unread: images that a dry run did not read."""
    warnings = tally.warnings(spreadsheet=args.spreadsheet, version=version, to_read=unread)
    for warning in warnings:
        answer.warn(warning)
    report = {
        "file": str(args.out),
        "rows": tally.rows,
        "human": tally.human,
        "accepted": tally.accepted,
        "predicted": tally.predicted,
        "without_label": tally.without_label,
        "version": version,
        "images_to_read": unread,
        "warnings": warnings,
    }
    guessed = f"{tally.predicted:,} predicted by {version}" if version else "none predicted"
    accepted = f"{tally.accepted:,} accepted, " if tally.accepted else ""
    first = f" {amount(unread, 'image')} would be read first, and then have a guess." if unread else ""
    text = (
        f"{amount(tally.rows, 'row')} {written_to(args)}: {tally.human:,} labelled by people, {accepted}{guessed}, "
        f"{tally.without_label:,} without a label.{first}"
    )
    return report_rows(args, answer, report, text)
