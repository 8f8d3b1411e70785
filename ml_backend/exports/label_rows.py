"""What was labelled, as rows: `filename,label` first, then everything known of each label. Streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.exports.task_cells import TableTally, image_cells, joined
from ml_backend.store.rows import LedgerRow
from ml_backend.tabular import open_table
from ml_backend.wording import amount

COLUMNS: Mapping[str, type] = {
    "filename": str, "label": str, "task_id": int, "annotation_id": int, "path": str, "image": str,
    "content_hash": str, "annotators": str, "agreement": float, "conflict": bool, "ground_truth": bool, "split": str,
    "round": int, "strategy": str, "arm": str, "rank": int, "acquisition": float, "reason": str, "confidence": float,
    "prediction": str, "model_version": str, "seed": int, "queried_at": str, "labelled_at": str,
}  # fmt: skip
OF_MODEL: Mapping[str, type] = {"origin": str, "certificate": str}
"""Further columns, where labels that were accepted of a model are exported beside those of people."""
MINIMAL = ("filename", "label")


@dataclass
class Tally(TableTally):
    """Also what is known of the labels; `warnings` says all of it in sentences once all rows are through."""

    labelled: int = 0
    accepted: int = 0
    waiting: int = 0
    conflicts: int = 0

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
        return found + self.cell_warnings(spreadsheet=spreadsheet, one_row_a_task=not long)


def export_rows(
    rows: Iterable[LedgerRow],
    *,
    separator: str = "|",
    long: bool = False,
    include_unlabelled: bool = False,
    include_accepted: bool = False,
    tally: Tally | None = None,
) -> Iterator[dict[str, Any]]:
    """One row a labelled task, with the columns of `COLUMNS`; several labels joined by `separator`, or `long`: a row each.

    include_accepted: also the tasks whose label was accepted of a model; every row says whose it is (`OF_MODEL`).

    A label that is none of the choices is "", and that of a task that waits for one None; in a CSV both are empty, and
    `annotation_id` tells them apart.
    Raises InvalidInputError for a label that contains the separator, which nobody could take apart again.
    """
    tally = Tally() if tally is None else tally
    for row in rows:
        tally.conflicts += row.conflict
        names = row.names(accepted=include_accepted)
        if names is None:
            waiting = row.round is not None and row.accepted is None
            tally.waiting += waiting
            if not (waiting and include_unlabelled):
                continue
        tally.look(row)
        for labels in _cells(names, separator, long=long):
            written = _written(row, labels, separator)
            tally.see(written)
            tally.labelled += row.label is not None
            tally.accepted += row.label is None and names is not None
            yield written


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> int:
    """Write these columns of `rows` as CSV, in one step. Returns the number of rows."""
    written = 0
    with open_table(path, dict.fromkeys(columns, str)) as write:
        for row in rows:
            write(row)
            written += 1
    return written


def _cells(names: Sequence[str] | None, separator: str, *, long: bool) -> list[str | None]:
    if names is None:
        return [None]
    if long:
        return list(names) or [""]
    return [joined(names, separator, otherwise=", or use --long for one row per label")]


def _written(row: LedgerRow, labels: str | None, separator: str) -> dict[str, Any]:
    label = row.label
    as_they_are = ("conflict", "round", "strategy", "arm", "rank", "acquisition", "reason", "confidence", "seed")
    known = {name: getattr(row, name) for name in as_they_are} | image_cells(row)
    return (
        known
        | _labelled(row)
        | {
            "label": labels,
            "annotators": separator.join(map(str, label.annotators)) if label else None,
            "agreement": label.agreement if label else None,
            "ground_truth": label.ground_truth if label else None,
            "prediction": separator.join(row.prediction),
            "model_version": f"v{row.version}" if row.version is not None else None,
            "queried_at": row.queried_at.isoformat() if row.queried_at else None,
        }
    )


def _labelled(row: LedgerRow) -> dict[str, Any]:
    """Whose label it is and since when, of people or accepted of a model."""
    label, of_model = row.label, row.accepted
    annotation = label or of_model
    since = label.labelled_at if label else of_model.accepted_at if of_model else None
    return {
        "origin": row.origin,
        "certificate": of_model.certificate if of_model else None,
        "annotation_id": annotation.annotation_id if annotation else None,
        "labelled_at": since.isoformat() if since else None,
    }
