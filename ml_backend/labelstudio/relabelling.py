"""A label under another name in what a project of Label Studio holds: annotations, drafts and predictions.

One is changed at a time, as it is at that moment: nobody's change in between is undone. Run again, it finds what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from ml_backend.chunks import chunks
from ml_backend.errors import NotFoundError
from ml_backend.labelstudio.choices import renamed, renamed_prediction
from ml_backend.labelstudio.client import BULK_TIMEOUT_S, PAGE, Json, LabelStudio
from ml_backend.labelstudio.results import marked_anew, parse_time
from ml_backend.labelstudio.task_filters import column_filter
from ml_backend.records import LabelSchema

WRITERS = 4
CHUNK = 40
"""Written before somebody who stops it is heard."""
_FOUND = {
    "annotations": ("id,annotations,result,updated_at", column_filter("annotations_ids", "empty", value=False)),
    "predictions": ("id,predictions", column_filter("total_predictions", "greater", 0)),
    "drafts": ("id", column_filter("draft_exists", "equal", value=True, kind="Boolean")),
}


@dataclass(frozen=True)
class Left:
    """What still has the old name. Annotations: id, task and time of the last change; drafts and predictions: as they are."""

    annotations: Sequence[tuple[int, int, datetime]]
    drafts: Sequence[Json]
    predictions: Sequence[Json]

    def __len__(self) -> int:
        return len(self.annotations) + len(self.drafts) + len(self.predictions)


@dataclass(frozen=True)
class Relabelling:
    """`old` becomes `new` under the `Choices` that `schema` names."""

    client: LabelStudio
    project_id: int
    schema: LabelSchema
    old: str
    new: str

    def left(self) -> Left:
        """Everything that has the old name now: of everybody, skipped answers and drafts included."""
        annotations = [
            (item["id"], task["id"], parse_time(item["updated_at"]))
            for task in self._tasks("annotations")
            for item in task.get("annotations", [])
            if self._has_old(item)
        ]
        drafts = [
            item for task in self._tasks("drafts") for item in self.client.drafts(task["id"]) if self._has_old(item)
        ]
        predictions = [
            {"id": item["id"], "result": item["result"]}
            for task in self._tasks("predictions")
            for item in task.get("predictions", [])
            if self._has_old(item)
        ]
        return Left(annotations, drafts, predictions)

    def write(self, left: Left, on_progress: Callable[[int], None]) -> None:
        """Change all of these. What was deleted meanwhile is gone."""
        todo: list[Callable[[], None]] = [partial(self._annotation, *item[:2]) for item in left.annotations]
        todo += [partial(self._draft, item) for item in left.drafts]
        todo += [partial(self._prediction, item) for item in left.predictions]
        with ThreadPoolExecutor(WRITERS) as writers:
            for chunk in chunks(todo, CHUNK):
                for _ in writers.map(_unless_gone, chunk):
                    on_progress(1)

    def recount(self) -> None:
        """Have Label Studio count anew which labels are used, where it believes that the old one is.

        Its count is wrong after changes at the same time, and after any to a draft; and its settings page refuses every
        label config without a label that it counts. Its count anew is a rough one, so that nothing else asks for it.
        """
        path = f"/api/projects/{self.project_id}/summary/"
        summary = self.client.transport.call("GET", path)
        counted = [summary.get(name) or {} for name in ("created_labels", "created_labels_drafts")]
        if any(self.old in labels.get(self.schema.from_name, {}) for labels in counted):
            self.client.transport.call("POST", f"{path}reset/", json={}, timeout=BULK_TIMEOUT_S)

    def _annotation(self, annotation_id: int, task_id: int) -> None:
        """Change the annotation as it is now. Label Studio deletes the drafts of one that is saved: they are kept from it.

        A label that was accepted stays one under its new name.
        """
        annotation = self.client.transport.call("GET", f"/api/annotations/{annotation_id}/")
        changed = renamed(self.schema.from_name, annotation["result"], self.old, self.new)
        if changed == annotation["result"]:
            return
        changed = marked_anew(annotation, changed, self._user)
        drafts = [draft for draft in self.client.drafts(task_id) if draft.get("annotation") == annotation_id]
        try:
            for draft in drafts:
                self._update_draft(draft["id"], annotation=None)
            self.client.update_annotation(annotation_id, result=changed)
        finally:
            for draft in drafts:
                self._update_draft(draft["id"], annotation=annotation_id)

    @cached_property
    def _user(self) -> int:
        return int(self.client.whoami()["id"])

    def _draft(self, draft: Json) -> None:
        self._update_draft(draft["id"], result=renamed(self.schema.from_name, draft["result"], self.old, self.new))

    def _prediction(self, prediction: Json) -> None:
        result = renamed_prediction(self.schema, prediction["result"], self.old, self.new)
        self.client.update_prediction(prediction["id"], result=result)

    def _update_draft(self, draft_id: int, **fields: Any) -> None:
        self.client.transport.call("PATCH", f"/api/drafts/{draft_id}/", json=fields)

    def _has_old(self, item: Json) -> bool:
        return bool(renamed(self.schema.from_name, item.get("result"), self.old, self.new) != item.get("result"))

    def _tasks(self, having: str) -> Iterator[Json]:
        """Tasks with annotations, drafts or predictions, by ascending id; by key, so that none is missed."""
        include, condition = _FOUND[having]
        fields, after = ("task_only" if include == "id" else "all"), 0
        while True:
            items = [condition, column_filter("id", "greater", after)]
            query = {"filters": {"conjunction": "and", "items": items}}
            page = self.client.listing(self.project_id, include, query, fields=fields)["tasks"]
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1]["id"]


def _unless_gone(act: Callable[[], None]) -> None:
    try:
        act()
    except NotFoundError:
        return
