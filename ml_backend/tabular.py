"""Rows to and from files: CSV, JSON lines and Parquet. Streamed, UTF-8, and whole or not there at all."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from ml_backend.errors import ConfigError, ConflictError, InvalidInputError

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
Write = Callable[[Mapping[str, Any]], None]

PARQUET_ROWS = 5_000
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""What makes a spreadsheet run a cell (OWASP, CSV injection), behind any number of the apostrophes that stop it."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a name to write to; it becomes `path` when the block ends, and is gone when the block raises.

    The name is always the same, so that what a killed writer left is written over. Raises ConflictError where somebody
    else is writing to `path` right now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"Another command is writing {path}: wait for it, or name another file.") from None
        try:
            os.truncate(temporary, 0)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def open_table(
    path: Path, columns: Mapping[str, type], form: Format = "csv", *, spreadsheet: bool = False
) -> Iterator[Write]:
    """Write rows of `columns` to `path`; the file appears when the block ends well.

    columns: name -> str, int, float or bool; any cell may be None (an empty CSV cell).
    spreadsheet: CSV cells that a spreadsheet would run as a formula get an apostrophe in front (`unguarded` undoes it).
    """
    with atomic_file(path) as temporary:
        if form == "parquet":
            with _parquet(temporary, columns) as write:
                yield write
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield text_writer(file, list(columns), form, spreadsheet=spreadsheet)


def text_writer(file: TextIO, columns: Sequence[str], form: Format, *, spreadsheet: bool = False) -> Write:
    """Write rows to an open text file; a CSV's header at once."""
    if form == "jsonl":
        return lambda row: _line(file, {name: row.get(name) for name in columns})
    writer = csv.writer(file)
    writer.writerow(columns)
    if spreadsheet:
        return lambda row: writer.writerow([guarded(row.get(name)) for name in columns])
    return lambda row: writer.writerow([row.get(name) for name in columns])


def form_of(path: Path, form: str | None) -> Format:
    """Return the format asked for, or else what the file's name says; CSV where it says nothing."""
    name = form or path.suffix.lstrip(".").lower().replace("ndjson", "jsonl")
    return next((known for known in FORMATS if known == name), "csv")


def runs_in_a_spreadsheet(value: Any) -> bool:
    """Whether a spreadsheet would take this cell for a formula. Numbers are numbers, whatever their sign."""
    if not isinstance(value, str) or not FORMULA.match(value):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def guarded(value: Any) -> Any:
    """Put an apostrophe before what a spreadsheet would run, and before what already looks guarded."""
    return f"'{value}" if runs_in_a_spreadsheet(value) else value


def unguarded(value: str) -> str:
    """Undo `guarded`, exactly: `unguarded(guarded(x)) == x` for every text."""
    return value[1:] if value.startswith("'") and runs_in_a_spreadsheet(value) else value


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a UTF-8 CSV with a header (a byte-order mark is fine); missing cells are empty, too many are refused."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            if not reader.fieldnames:
                raise InvalidInputError(f"{path} is empty: it needs a header line such as filename,label.")
            for row in reader:
                if None in row:
                    raise InvalidInputError(
                        f"{path}, line {reader.line_num}: more cells than columns in the header. Quote cells that "
                        "contain commas."
                    )
                yield row
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise InvalidInputError(f"{path} is not a valid CSV: {error}. Correct it, or save it again.") from error


def _line(file: TextIO, row: Mapping[str, Any]) -> None:
    json.dump(row, file, ensure_ascii=False, separators=(",", ":"))
    file.write("\n")


@contextmanager
def _parquet(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    """Row groups of PARQUET_ROWS, so that memory does not grow with the table."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError("Parquet needs the extra `parquet` (pyarrow): install it, or choose csv or jsonl.") from error
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    waiting: list[Mapping[str, Any]] = []
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            rows = [{name: row.get(name) for name in columns} for row in waiting]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            waiting.clear()

        def write(row: Mapping[str, Any]) -> None:
            waiting.append(row)
            if len(waiting) >= PARQUET_ROWS:
                flush()

        yield write
        flush()
