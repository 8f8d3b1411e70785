"""What the kinds of `ml-backend export` have in common: labels that are up to date, and a table written where it is wanted."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ml_backend.commands.options import add_common, find_project, open_services
from ml_backend.commands.output import Answer
from ml_backend.errors import InvalidInputError
from ml_backend.tabular import FORMATS, Format, Write, form_of, open_table, text_writer

if TYPE_CHECKING:
    from ml_backend.services import Services
    from ml_backend.store.projects import Project

STDOUT = Path("-")


def add_table_arguments(
    parser: argparse.ArgumentParser, out: Path, do: Callable[[argparse.Namespace], int], known: str = "labels"
) -> None:
    """known: what `--offline` takes as it is."""
    parser.set_defaults(do=do)
    parser.add_argument(
        "--out",
        type=Path,
        default=out,
        metavar="FILE",
        help=(f"output file, or - for standard output (default: {out})"),
    )
    parser.add_argument("--format", choices=FORMATS, help="file format (default: from the file extension, else csv)")
    add_offline(parser, known)


def add_offline(parser: argparse.ArgumentParser, known: str = "labels") -> None:
    offline = f"use the {known} already known; do not contact Label Studio"
    parser.add_argument("--offline", action="store_true", help=offline)
    add_common(parser)


def up_to_date(args: argparse.Namespace, answer: Answer) -> tuple[Project, Services]:
    """Open the store and bring the labels up to date; with Label Studio away, say of when they are."""
    services = open_services(dry_run=args.dry_run)
    project = find_project(services, args)
    if args.offline:
        return project, services
    from ml_backend.worker import exporting  # noqa: PLC0415 - torch comes with it

    strict = getattr(args, "strict", False)
    return exporting.up_to_date(project, services, args.command, answer.warn, strict=strict), services


@contextmanager
def open_output(args: argparse.Namespace, columns: Mapping[str, type], *, spreadsheet: bool = False) -> Iterator[Write]:
    """Where rows of these columns go; a file appears when the block ends well. In a dry run they go nowhere."""
    form: Format = form_of(args.out, args.format)
    if args.dry_run:
        yield lambda _row: None
        return
    if args.out != STDOUT:
        with open_table(args.out, columns, form, spreadsheet=spreadsheet) as write:
            yield write
        return
    if form == "parquet":
        raise InvalidInputError("Parquet cannot go to standard output: name a file with --out.")
    if args.json:
        raise InvalidInputError("--json uses standard output for its answer: name a file with --out.")
    sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    if not getattr(args, "strict", False):
        yield text_writer(sys.stdout, list(columns), form, spreadsheet=spreadsheet)
        return
    with TemporaryFile(
        "w+", encoding="utf-8", newline=""
    ) as held:  # nothing is said before all of it is known to be right
        yield text_writer(held, list(columns), form, spreadsheet=spreadsheet)
        held.seek(0)
        shutil.copyfileobj(held, sys.stdout)


def report_rows(args: argparse.Namespace, answer: Answer, document: dict[str, Any], text: str) -> int:
    """The command's answer, unless its table is on standard output. Returns the exit code."""
    if args.out != STDOUT or args.dry_run:
        answer.result(document | {"dry_run": args.dry_run}, text)
    return 0


def written_to(args: argparse.Namespace) -> str:
    """Where rows went, or would go."""
    where = "standard output" if args.out == STDOUT else str(args.out)
    if not args.dry_run:
        return f"written to {where}"
    replaced = ", replacing the existing file" if args.out != STDOUT and args.out.exists() else ""
    return f"would be written to {where}{replaced} (--dry-run)"
