"""What was labelled, as rows: `filename,label` first, then everything known of each label. Streamed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.errors import InvalidInputError
from ml_backend.records import Label
from ml_backend.store.rows import LedgerRow
from ml_backend.tabular import open_table, runs_in_a_spreadsheet
from ml_backend.task_names import SHOWN, Unreadable, address_path, and_more, task_filename
from ml_backend.wording import amount

COLUMNS: Mapping[str, type] = {
    "filename": str, "label": str, "task_id": int, "annotation_id": int, "path": str, "image": str,
    "content_hash": str, "annotators": str, "agreement": float, "conflict": bool, "ground_truth": bool, "split": str,
    "round": int, "strategy": str, "arm": str, "rank": int, "acquisition": float, "reason": str, "confidence": float,
    "prediction": str, "model_version": str, "seed": int, "queried_at": str, "labelled_at": str,
}  # fmt: skip
MINIMAL = ("filename", "label")
SPLITS = {"train": "train", "holdout": "held-out"}


@dataclass
class Tally:
    """What was seen on the way; `warnings` says it in sentences once all rows are through."""

    rows: int = 0
    labelled: int = 0
    waiting: int = 0
    conflicts: int = 0
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

    def see(self, row: LedgerRow, written: Mapping[str, Any]) -> None:
        self.rows += 1
        self.labelled += row.label is not None
        self.formulas += any(runs_in_a_spreadsheet(written[name]) for name in ("filename", "label", "path", "image"))
        self.names.append(hash(written["filename"]))

    @property
    def same_names(self) -> int:
        """Rows whose filename another row has too, in an export of one row a label those of one task included."""
        _, counts = np.unique(np.frombuffer(self.names, dtype=np.int64), return_counts=True) if self.names else (0, [0])
        return int(np.sum(np.where(np.asarray(counts) > 1, counts, 0)))

    def warnings(self, *, spreadsheet: bool, long: bool, quarantined: int) -> list[str]:
        """What is wrong with what is exported, in sentences with what to do; tasks that wait for a label are not wrong."""
        found = []
        if self.conflicts:
            tasks, them = ("task has", "it") if self.conflicts == 1 else ("tasks have", "them")
            found.append(
                f"{self.conflicts} {tasks} annotations that disagree; the column `conflict` marks {them}, and "
                "ML_BACKEND_CONFLICTS decides which answer counts."
            )
        if quarantined:
            found.append(
                f"{amount(quarantined, 'annotation is', 'annotations are')} left out because of labels that are not in the label config. Put the "
                "labels back into it, or annotate again."
            )
        if self.unreadable:
            images = "1 image is" if self.unreadable == 1 else f"{self.unreadable} images are"
            named = and_more(self.named, self.unreadable)
            found.append(f"{images} exported here, but cannot be read: {named}.")
        if not long and self.same_names:
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


def export_rows(
    rows: Iterable[LedgerRow],
    *,
    separator: str = "|",
    long: bool = False,
    include_unlabelled: bool = False,
    tally: Tally | None = None,
) -> Iterator[dict[str, Any]]:
    """One row a labelled task, with the columns of `COLUMNS`; several labels joined by `separator`, or `long`: a row each.

    A label that is none of the choices is "", and that of a task that waits for one None; in a CSV both are empty, and
    `annotation_id` tells them apart.
    Raises InvalidInputError for a label that contains the separator, which nobody could take apart again.
    """
    tally = Tally() if tally is None else tally
    for row in rows:
        tally.conflicts += row.conflict
        if row.label is None:
            waiting = row.round is not None
            tally.waiting += waiting
            if not (waiting and include_unlabelled):
                continue
        tally.look(row)
        for labels in _cells(row.label, separator, long=long):
            written = _written(row, labels, separator)
            tally.see(row, written)
            yield written


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> int:
    """Write these columns of `rows` as CSV, in one step. Returns the number of rows."""
    written = 0
    with open_table(path, dict.fromkeys(columns, str)) as write:
        for row in rows:
            write(row)
            written += 1
    return written


def _cells(label: Label | None, separator: str, *, long: bool) -> list[str | None]:
    if label is None:
        return [None]
    if long:
        return list(label.labels) or [""]
    return [_joined(label.labels, separator)]


def _joined(names: Sequence[str], separator: str) -> str:
    if len(names) > 1 and any(separator in name for name in names):
        raise InvalidInputError(
            f"The labels {', '.join(names)} cannot be joined with {separator!r}, which is part of one of them: "
            "choose another --separator, or use --long for one row per label."
        )
    return separator.join(names)


def _written(row: LedgerRow, labels: str | None, separator: str) -> dict[str, Any]:
    label = row.label
    path = row.task.data.get("path")
    as_they_are = ("conflict", "round", "strategy", "arm", "rank", "acquisition", "reason", "confidence", "seed")
    return {name: getattr(row, name) for name in as_they_are} | {
        "filename": task_filename(row.task),
        "label": labels,
        "task_id": row.task.id,
        "annotation_id": label.annotation_id if label else None,
        "path": path if isinstance(path, str) else address_path(row.task.image or ""),
        "image": row.task.image,
        "content_hash": row.content_hash or row.task.data.get("sha256"),
        "annotators": separator.join(map(str, label.annotators)) if label else None,
        "agreement": label.agreement if label else None,
        "ground_truth": label.ground_truth if label else None,
        "split": SPLITS[row.split],
        "prediction": separator.join(row.prediction),
        "model_version": f"v{row.version}" if row.version is not None else None,
        "queried_at": row.queried_at.isoformat() if row.queried_at else None,
        "labelled_at": label.labelled_at.isoformat() if label else None,
    }
