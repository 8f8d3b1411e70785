"""What the exported tables of tasks have in common: the columns that name an image, joined labels, and what is warned of."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ml_backend.errors import InvalidInputError
from ml_backend.store.rows import LedgerRow
from ml_backend.tabular import runs_in_a_spreadsheet
from ml_backend.task_names import SHOWN, Unreadable, address_path, and_more, copied_as, task_filename
from ml_backend.wording import amount, encodable

SPLITS = {"train": "train", "holdout": "held-out"}


def image_cells(row: LedgerRow) -> dict[str, Any]:
    """The cells by which a row is joined with other data. What a task's data hold may be anything: here it is text."""
    path, known = row.task.data.get("path"), row.task.data.get("sha256")
    own = encodable(known) if isinstance(known, str) else None
    return {
        "filename": encodable(task_filename(row.task)),
        "task_id": row.task.id,
        "path": encodable(path if isinstance(path, str) else address_path(row.task.image or "")),
        "image": None if row.task.image is None else encodable(row.task.image),
        "content_hash": (None if copied_as(row.task) else row.content_hash) or own,
        "split": SPLITS[row.split],
    }


def joined(names: Sequence[str], separator: str, *, otherwise: str = "") -> str:
    """Several labels as one cell. Raises InvalidInputError where nobody could take them apart again.

    otherwise: what else than another separator would help, for the error.
    """
    if len(names) > 1 and any(separator in name for name in names):
        raise InvalidInputError(
            f"The labels {', '.join(names)} cannot be joined with {separator!r}, which is part of one of them: "
            f"choose another --separator{otherwise}."
        )
    return separator.join(names)


@dataclass
class TableTally:
    """What was seen of the rows on the way; `cell_warnings` says what is wrong with them once all are through."""

    TEXTS: ClassVar[tuple[str, ...]] = ("filename", "label", "path", "image")

    rows: int = 0
    unreadable: int = 0
    formulas: int = 0
    names: array[int] = field(default_factory=lambda: array("q"))  # a hash a row: eight bytes, whatever the name
    named: list[Unreadable] = field(default_factory=list)

    def look(self, row: LedgerRow) -> None:
        """Count a task whose image cannot be read, once however many rows it gets; the first are named."""
        if row.image_error is not None:
            self.unreadable += 1
            if len(self.named) < SHOWN:
                self.named.append(Unreadable(row.task, row.image_error))

    def see(self, written: Mapping[str, Any]) -> None:
        """Count a row as it is written."""
        self.rows += 1
        self.formulas += any(runs_in_a_spreadsheet(written[name]) for name in self.TEXTS)
        self.names.append(hash(written["filename"]))

    @property
    def same_names(self) -> int:
        """Rows whose filename another row has too, in an export of one row a label those of one task included."""
        _, counts = np.unique(np.frombuffer(self.names, dtype=np.int64), return_counts=True) if self.names else (0, [0])
        return int(np.sum(np.where(np.asarray(counts) > 1, counts, 0)))

    def cell_warnings(self, *, spreadsheet: bool, one_row_a_task: bool = True) -> list[str]:
        """Images that cannot be read, names that tell nothing apart, and formulas, in sentences with what to do."""
        found = []
        if self.unreadable:
            images = "1 image is" if self.unreadable == 1 else f"{self.unreadable} images are"
            named = and_more(self.named, self.unreadable)
            found.append(f"{images} exported here, but cannot be read: {named}.")
        if one_row_a_task and self.same_names:
            found.append(
                f"{amount(self.same_names, 'row')} with a filename that another row has too: use `path` or "
                "`task_id` to tell them apart."
            )
        if self.formulas and not spreadsheet:
            found.append(
                f"{amount(self.formulas, 'row has', 'rows have')} a cell that starts with = + - or @, which a spreadsheet "
                "would run as a formula: use --spreadsheet to prevent that."
            )
        return found
