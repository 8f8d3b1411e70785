"""Which columns our tabs of the Data Manager show, and how wide.

Label Studio has no order of columns: a tab hides some, and gives others a width in pixels. What it has for predictions and
answers are their results as JSON, the versions of all of them, and the mean of their scores: none is for people to read.
"""

from __future__ import annotations

from typing import Any

QUEUE = "Active learning queue"
EVERYTHING = "All tasks"
DOUBTED = "Labels the model doubts"

_RAW = (
    "inner_id", "annotations_results", "annotations_ids", "predictions_model_versions", "file_upload",
    "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
    "predictions_score", "predictions_results", "total_predictions",  # a place in the queue, raw JSON, former queues too
)  # fmt: skip
_IMPORTED = ("data.sha256",)
"""What `import-images` gives the tasks, and nobody reads."""
_OF_ANSWERS = ("completed_at", "total_annotations", "annotators")
"""Empty in the tab of the queue, whose tasks nobody has answered."""
_BESIDE_AN_IMAGE = (*_OF_ANSWERS, "cancelled_annotations")
"""Beside an open image there is room for its number and itself."""
_FORMER = (_RAW, _RAW[:-1], _RAW[:-3])
"""What our tabs hid in earlier versions, one of them for exploring and labelling alike."""
_WIDTHS = {"id": 80, "completed_at": 190, "annotators": 150}

Json = dict[str, Any]


def columns(title: str) -> Json:
    """`hiddenColumns` and `columnsWidth` of our tab of that title, and nothing of the tasks' own data."""
    raw = (*_RAW, *_IMPORTED)
    hidden = {
        "explore": _names((*raw, *_OF_ANSWERS) if title == QUEUE else raw),
        "labeling": _names((*raw, *_BESIDE_AN_IMAGE)),
    }
    return {"hiddenColumns": hidden, "columnsWidth": {f"tasks:{name}": width for name, width in _WIDTHS.items()}}


def renewed(tab: Json) -> Json | None:
    """The data of a tab of ours with the columns it would have if it were made now.

    None where that is so already, for other tabs, and where a person has shown, hidden or widened a column since it was made.
    """
    data = tab["data"]
    if data.get("title") not in (QUEUE, EVERYTHING, DOUBTED):
        return None
    hidden = data.get("hiddenColumns") or {}
    if data.get("columnsWidth") or not any(_hides(hidden, former) for former in _FORMER):
        return None
    new = columns(data["title"])
    for each, kept in hidden.items():  # columns of fields of ours, which `ml-backend fields` hides
        ours = new["hiddenColumns"][each]
        ours += [name for name in kept if _is_field(name) and name not in ours]
    return {**data, **new}


def _hides(hidden: Json, names: tuple[str, ...]) -> bool:
    """Whether exactly these columns are hidden, but for those of the tasks' data."""
    kept = [{name for name in hidden.get(each) or () if not _is_field(name)} for each in ("explore", "labeling")]
    return kept == [set(_names(names))] * 2


def _is_field(column: str) -> bool:
    return column.startswith("tasks:data.")


def _names(columns: tuple[str, ...]) -> list[str]:
    return [f"tasks:{name}" for name in columns]
