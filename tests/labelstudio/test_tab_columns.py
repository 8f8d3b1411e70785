"""Which columns our tabs show, and which of them are renewed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ml_backend.labelstudio.queue import list_of_tasks
from ml_backend.labelstudio.tab_columns import DOUBTED, EVERYTHING, QUEUE, renewed

FIRST = [
    "inner_id", "annotations_results", "annotations_ids", "predictions_model_versions", "file_upload",
    "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
]  # fmt: skip
SECOND = [*FIRST, "predictions_score", "predictions_results"]
THIRD = [*SECOND, "total_predictions"]
RAW = {"tasks:annotations_results", "tasks:predictions_results", "tasks:predictions_model_versions"}


def tab(title: str, hidden: list[str], **more: Any) -> dict[str, Any]:
    """As an earlier version made it, and the Data Manager saved it since."""
    names = [f"tasks:{name}" for name in hidden]
    data = {
        "title": title,
        "hiddenColumns": {"explore": names, "labeling": list(names)},
        "columnsWidth": {},
        "order": 1,
    }
    return {"id": 7, "data": {**data, **more}}


@pytest.mark.parametrize("title", [QUEUE, EVERYTHING, DOUBTED])
@pytest.mark.parametrize("before", [FIRST, SECOND, THIRD], ids=["first", "second", "third"])
def test_a_tab_that_nobody_changed_gets_the_columns_of_now_and_keeps_all_else(title: str, before: list[str]) -> None:
    old = tab(title, before)
    old["data"]["hiddenColumns"]["labeling"].append("tasks:data.model_guess")
    new = renewed(copy.deepcopy(old))
    assert new is not None
    assert all(set(new["hiddenColumns"][each]) >= RAW for each in ("explore", "labeling"))
    assert "tasks:data.model_guess" in new["hiddenColumns"]["labeling"]
    assert "tasks:data.model_guess" not in new["hiddenColumns"]["explore"]
    assert new["columnsWidth"]
    assert new["order"] == 1
    assert renewed({"id": 7, "data": new}) is None


@pytest.mark.parametrize("title", [QUEUE, EVERYTHING, DOUBTED])
def test_a_new_tab_has_them_from_the_start(title: str) -> None:
    assert renewed({"id": 1, "data": list_of_tasks(title)}) is None
    assert set(list_of_tasks(title)["hiddenColumns"]["explore"]) >= RAW


@pytest.mark.parametrize(
    "changed",
    [
        tab(QUEUE, [*THIRD, "completed_at"]),
        tab(QUEUE, THIRD[1:]),
        tab(QUEUE, THIRD, columnsWidth={"tasks:id": 300}),
        tab("mine", THIRD),
        tab(QUEUE, []),
        {"id": 7, "data": {"title": QUEUE}},
        {"id": 7, "data": {}},
    ],
    ids=["hidden", "shown", "widened", "another", "all", "nothing", "empty"],
)
def test_what_a_person_has_chosen_stays(changed: dict[str, Any]) -> None:
    assert renewed(changed) is None
