"""`ml-backend export predictions`: a row for every task, labelled or not, from one version to the end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.commands.export_tables import add_table_arguments, open_output, report_rows, up_to_date, written_to
from ml_backend.commands.output import Answer, bar, counted
from ml_backend.errors import LabelStudioUnavailableError, OtherLabelsError
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.exports.guesses import Answering
    from ml_backend.exports.prediction_rows import PredictionTally
    from ml_backend.services import Services
    from ml_backend.store.projects import Project


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
    from ml_backend.exports.prediction_rows import (  # noqa: PLC0415 - torch comes with the services
        PredictionTally,
        check_separator,
        columns_of,
        prediction_rows,
    )

    answer = Answer(as_json=args.json)
    project, services = up_to_date(args, answer)
    check_separator(project.schema, args.separator)
    version = _version(project, services, args, answer)
    tally = PredictionTally()
    columns = columns_of(project.schema, probabilities=args.probabilities)
    # Opened before images are read, which may take hours: where it cannot be written is said at once.
    with open_output(args, columns, spreadsheet=args.spreadsheet) as write:
        unread = 0 if version is None or args.offline else _read_images(project, services, args, answer, version)
        rows = prediction_rows(
            services.ledger.rows(project),
            version,
            separator=args.separator,
            probabilities=args.probabilities,
            tally=tally,
        )
        for row in counted(rows, "tasks", services.ledger.size(project)):
            write(row)
    return _told(args, answer, tally, version.name if version else None, unread)


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


def _version(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> Answering | None:
    """The version asked for, or the one served, in memory; None where there is none yet. Raises what `Answering.load` does."""
    from ml_backend.exports.guesses import Answering  # noqa: PLC0415 - as above
    from ml_backend.store.model_versions import version_number  # noqa: PLC0415

    if args.version is not None:
        number = version_number(args.version)
    elif (current := services.versions.current(project)) is not None:
        number = current.number
    else:
        return None
    try:
        version = Answering.load(project, number, services.predictor, services.versions, services.features)
    except OtherLabelsError as error:
        raise OtherLabelsError(
            f"{error} Choose another with --version, or have one trained with `ml-backend sync run`."
        ) from error
    if not version.model.fits:
        answer.warn(
            f"{version.name} was trained for other labels than the project has now: it never guesses those that it does "
            "not know."
        )
    return version


def _read_images(
    project: Project, services: Services, args: argparse.Namespace, answer: Answer, version: Answering
) -> int:
    """Read and encode what has no vector yet. In a dry run nothing is read; returns how many images would be."""
    from ml_backend.exports.missing_vectors import encode_tasks, without_vector  # noqa: PLC0415 - as above
    from ml_backend.worker.foreground import alone  # noqa: PLC0415

    ledger, encoder = services.ledger, version.model.encoder
    missing = without_vector(project, encoder.id, ledger, services.features)
    if args.dry_run or not missing:
        return len(missing)
    try:
        with alone(project, services, args.command), bar("images", len(missing)) as advance:
            missing = without_vector(
                project, encoder.id, ledger, services.features
            )  # a turn may have read them meanwhile
            away = encode_tasks(project, encoder, missing, ledger, services.encoding, advance)
    except LabelStudioUnavailableError as error:
        away = str(error)
    if away:
        answer.warn(away)
    return 0
