"""Every task as a row: the label of people where there is one, else the model's guess, else why there is neither. Streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ml_backend.chunks import chunks
from ml_backend.errors import InvalidInputError
from ml_backend.exports.guesses import Answering, Guess
from ml_backend.exports.task_cells import TableTally, image_cells, joined
from ml_backend.records import LabelSchema, Origin
from ml_backend.store.rows import LedgerRow
from ml_backend.task_names import printable
from ml_backend.wording import amount

COLUMNS: Mapping[str, type] = {
    "filename": str, "label": str, "origin": str, "confidence": float, "version": str, "prediction": str, "agrees": bool,
    "learned": bool, "skipped": bool, "certificate": str, "conflict": bool, "error": str, "task_id": int, "path": str, "image": str, "content_hash": str,
    "split": str,
}  # fmt: skip
PAGE = 1_000
"""Tasks that a version is asked about at once."""
NO_MODEL = "There is no model yet."


@dataclass
class PredictionTally(TableTally):
    """Rows by what they have. unread: without a label for want of a vector. skipped: guessed although somebody skipped them."""

    TEXTS: ClassVar[tuple[str, ...]] = (*TableTally.TEXTS, "prediction")

    human: int = 0
    accepted: int = 0
    predicted: int = 0
    unread: int = 0
    skipped: int = 0

    @property
    def without_label(self) -> int:
        return self.rows - self.human - self.accepted - self.predicted

    def warnings(self, *, spreadsheet: bool, version: str | None, to_read: int = 0) -> list[str]:
        """What is wrong with what is exported, in sentences with what to do.

        version: None where there is no model. to_read: images that the command itself would have read, in a dry run.
        """
        found = []
        if version is None and self.without_label:
            found.append(
                "There is no model yet, so there are only the labels of people: label two images of different classes, "
                "then run `ml-backend sync run`."
            )
        if version is not None and self.unread and not to_read:
            found.append(
                f"{amount(self.unread, 'task has', 'tasks have')} no label because the image was not read, or not "
                f"encoded for {version}: run this without --offline, once the images can be fetched."
            )
        if self.skipped:
            found.append(
                f"{amount(self.skipped, 'label is', 'labels are')} the guess for an image that somebody skipped: the "
                "column `skipped` marks them."
            )
        return found + self.cell_warnings(spreadsheet=spreadsheet)


def columns_of(schema: LabelSchema, *, probabilities: bool) -> dict[str, type]:
    """With `probabilities` a column `p:<class>` for each class: no other column has a colon."""
    classes = schema.labels if probabilities else ()
    return {**COLUMNS, **{f"p:{name}": float for name in classes}}


def check_separator(schema: LabelSchema, separator: str) -> None:
    """Raise InvalidInputError where guesses of several labels could not be taken apart again."""
    if schema.multiple and (name := next((name for name in schema.labels if separator in name), None)) is not None:
        raise InvalidInputError(f"{separator!r} is part of the label {name!r}: choose another --separator.")


def prediction_rows(
    rows: Iterable[LedgerRow],
    version: Answering | None,
    *,
    separator: str = "|",
    probabilities: bool = False,
    tally: PredictionTally | None = None,
) -> Iterator[dict[str, Any]]:
    """One row a task, with the columns of `columns_of`; no more than PAGE tasks are held at a time.

    `label` is "" where the answer is that it is none of the labels, and None where there is no label.
    Raises InvalidInputError for labels that contain the separator, which nobody could take apart again.
    """
    tally = PredictionTally() if tally is None else tally
    for page in chunks(rows, PAGE):
        guesses = version.page(page) if version else [Guess(error=NO_MODEL)] * len(page)
        for row, guess in zip(page, guesses, strict=True):
            written = _written(row, guess, version, separator)
            if version and probabilities and guess.prediction:
                names = version.model.head.classes
                written |= {f"p:{n}": p for n, p in zip(names, guess.prediction.probabilities, strict=True)}
            _count(tally, row, guess, written)
            yield written


def _written(row: LedgerRow, guess: Guess, version: Answering | None, separator: str) -> dict[str, Any]:
    said, label = guess.prediction, row.label
    origin: Origin | None = row.origin or ("predicted" if said else None)
    names = row.names(accepted=True)
    if names is None and said:
        names = said.labels
    error = None if row.image_error is None else printable(row.image_error)
    if origin is None:
        error = error or guess.error
    return image_cells(row) | {
        "label": None if names is None else joined(names, separator),
        "origin": origin,
        "confidence": said.confidence if said else None,
        "version": version.name if version and said else None,
        "prediction": joined(said.labels, separator) if said else None,
        "agrees": set(label.labels) == set(said.labels) if label and said else None,
        "learned": guess.learned if label and version else None,
        "skipped": row.skipped,
        "certificate": row.accepted.certificate if row.accepted else None,
        "conflict": row.conflict,
        "error": error,
    }


def _count(tally: PredictionTally, row: LedgerRow, guess: Guess, written: Mapping[str, Any]) -> None:
    tally.look(row)
    tally.see(written)
    tally.human += written["origin"] in {"human", "audited"}
    tally.accepted += written["origin"] == "accepted"
    tally.predicted += written["origin"] == "predicted"
    tally.skipped += row.skipped and written["origin"] == "predicted"
    tally.unread += written["origin"] is None and row.image_error is None and guess.error is not None
