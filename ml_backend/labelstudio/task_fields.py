"""Fields of our own in the data of a project's tasks, to filter and sort by in the Data Manager; and the tab that does.

They are written by the Data Manager's own action "Add Or Modify Data Field", which changes these fields and nothing else of a
task: hundreds of tasks at once, with no event, and `updated_at` stays. It cannot take a field away, so that goes by PATCH, one
task at a time, and Label Studio then writes the whole task as it had read it. An answer that is submitted in that moment stays,
but the task's counts are those before it, and it would be asked for again: they are looked at afterwards, and put right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

from ml_backend.chunks import chunks
from ml_backend.errors import InvalidInputError, NotFoundError
from ml_backend.labelstudio.client import PAGE, Json, LabelStudio
from ml_backend.labelstudio.queue import EVERYTHING, list_of_tasks
from ml_backend.labelstudio.queue import TAB as QUEUE
from ml_backend.labelstudio.tab_columns import DOUBTED
from ml_backend.labelstudio.task_filters import column_filter

TAB = DOUBTED
RIGHT, WRONG, OPEN = "right", "wrong", "no label"
"""What the status says of a task: the model agrees with its label, or does not, or there is none."""
PREFIX = "model_"
WRITTEN = 500
"""Tasks written at once. On SQLite, somebody who submits meanwhile waits 0.2 s more; at 1,000, half a second."""
TAKEN = 10
"""Tasks whose data are read, changed and looked at together: what somebody else writes into one in between is lost."""
PASSES = 20
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")

Value = str | int
Counter = Callable[[int], None]


@dataclass(frozen=True)
class FieldNames:
    """What the three fields of a task are called."""

    status: str
    guess: str
    confidence: str

    @classmethod
    def of(cls, prefix: str) -> Self:
        """Raises InvalidInputError for a prefix that Label Studio could not filter by."""
        if not _PREFIX.fullmatch(prefix):
            raise InvalidInputError(
                f"{prefix!r} cannot begin the name of a field: use a letter first, then letters, digits and _."
            )
        return cls(*(prefix + name for name in ("status", "guess", "confidence")))

    def all(self) -> tuple[str, str, str]:
        return astuple(self)

    def is_ours(self, name: str, value: object) -> bool:
        """Whether this service may have written the value. (Any text may be a guess.)"""
        if name == self.confidence:
            return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
        return isinstance(value, str) if name == self.guess else value in (RIGHT, WRONG, OPEN)

    def ours(self, data: Json) -> list[str]:
        """The fields in a task's data that are ours."""
        return [name for name in self.all() if name in data and self.is_ours(name, data[name])]

    def foreign(self, data: Json) -> list[str]:
        """The fields in a task's data that have our names, and hold what we do not write."""
        return [name for name in self.all() if name in data and not self.is_ours(name, data[name])]


@dataclass(frozen=True)
class TaskFields:
    """The fields `names` of one project."""

    client: LabelStudio
    project_id: int
    names: FieldNames

    def tasks(self, conditions: Sequence[Json] = ()) -> Iterator[list[Json]]:
        """`id`, `data` and `is_labeled` of all tasks that meet the conditions, by ascending id, a page at a time."""
        after = 0
        while True:
            items = [*conditions, column_filter("id", "greater", after)]
            query = {"filters": {"conjunction": "and", "items": items}}
            page = self.client.listing(self.project_id, "id,data,is_labeled", query)["tasks"]
            if page:
                yield page
                after = page[-1]["id"]
            if len(page) < PAGE:
                return

    def put(self, name: str, value: Value, task_ids: Sequence[int], on_progress: Counter = lambda _: None) -> None:
        """Give the tasks this value; those that were deleted are passed over. Safe to repeat."""
        kind = "Number" if name == self.names.confidence else "String"
        for some in chunks(task_ids, WRITTEN):
            self.client.act(self.project_id, "add_data_field", some, value_name=name, value_type=kind, value=value)
            on_progress(len(some))

    def take_away(self, task_ids: Sequence[int], on_progress: Counter = lambda _: None) -> None:
        """Take our fields from these tasks, and leave all else of their data as it is at that moment."""
        for some in chunks(task_ids, TAKEN):
            for raw in self.client.listed(self.project_id, some, "id,data"):
                ours = set(self.names.ours(raw["data"]))
                if ours:
                    self._change(raw["id"], data={key: value for key, value in raw["data"].items() if key not in ours})
            self.mend(some)
            on_progress(len(some))

    def mend(self, task_ids: Sequence[int]) -> None:
        """Put right the counts of tasks in which an answer, or a prediction, came while they were written as a whole.

        In the Community edition, where it is known how they are counted.
        """
        if self.client.has_members():
            return
        for _ in range(PASSES):
            rows = self.client.listed(self.project_id, task_ids, _COUNTED, "all") if task_ids else []
            wrong = [raw for raw in rows if any(raw[name] != count for name, count in _counts(raw).items())]
            if not wrong:
                return
            counts_skips = self.client.get_project(self.project_id).get("skip_queue") == "IGNORE_SKIPPED"
            for raw in wrong:
                self._change(raw["id"], **_counts(raw), is_labeled=_is_labelled(raw, counts_skips=counts_skips))
            task_ids = [raw["id"] for raw in wrong]

    def mend_all(self) -> None:
        """The same of every task that Label Studio would ask for again although somebody answered."""
        answered = column_filter("annotations_ids", "empty", value=False)
        for page in self.tasks([answered]):
            for some in chunks((raw["id"] for raw in page if not raw["is_labeled"]), TAKEN):
                self.mend(some)

    def uncount(self, task_ids: Sequence[int]) -> None:
        """Have Label Studio forget the columns, once no task has them.

        It counts the tasks of a column, one for each of our requests; each task that loses the field counts one less. Where
        there were more requests, some tasks get the field and lose it, until it is forgotten. task_ids: of some such tasks.
        """
        for _ in range(PASSES):
            columns = self.client.transport.call("GET", f"/api/projects/{self.project_id}/summary/")
            left = [name for name in self.names.all() if name in (columns.get("all_data_columns") or {})]
            if not left or len(task_ids) <= len(left):
                return
            for name in left:
                self.put(name, {self.names.status: OPEN, self.names.guess: ""}.get(name, 0), task_ids)
            self.take_away(task_ids)

    def show_tab(self) -> bool:
        """Make the tab of the labels that the model doubts, unless there is one: what a person changed of it stays."""
        if any(tab["data"].get("title") == TAB for tab in self.client.tabs(self.project_id)):
            return False
        confidence = f"tasks:data.{self.names.confidence}"
        items = [column_filter(f"data.{self.names.status}", "equal", WRONG, "String")]
        tab = list_of_tasks(TAB)
        tab["hiddenColumns"]["explore"].append(f"tasks:data.{self.names.status}")  # the same for all
        self.client.create_tab(
            self.project_id,
            tab
            | {
                "filters": {"conjunction": "and", "items": items},
                "ordering": [f"-{confidence}"],
                "columnsDisplayType": {confidence: "Number"},  # PostgreSQL sorts 9 after 85 without it
            },
        )
        return True

    def hide(self) -> None:
        """Keep the fields out of sight where people label from our lists: beside an open image, and in that of the queue."""
        for tab in self.client.tabs(self.project_id):
            lists = {QUEUE: ("explore", "labeling"), EVERYTHING: ("labeling",)}.get(tab["data"].get("title"), ())
            hidden = tab["data"].get("hiddenColumns") or {}
            more = {each: [*hidden[each], *self._columns_but(hidden[each])] for each in lists if each in hidden}
            self._update_tab(tab, {**hidden, **more})

    def remove_tab(self) -> None:
        """Take the tab away, unless a person has made another of it, which does not ask for our fields; and undo `hide`."""
        ours = set(self._columns_but(()))
        for tab in self.client.tabs(self.project_id):
            if tab["data"].get("title") == TAB and any(name in str(tab["data"]) for name in self.names.all()):
                self.client.delete_tab(tab["id"])
            elif hidden := tab["data"].get("hiddenColumns"):
                self._update_tab(tab, {each: [c for c in columns if c not in ours] for each, columns in hidden.items()})

    def _columns_but(self, known: Collection[str]) -> list[str]:
        """Our columns of the Data Manager that are not known there."""
        return [column for name in self.names.all() if (column := f"tasks:data.{name}") not in known]

    def _update_tab(self, tab: Json, hidden: Json) -> None:
        if hidden != (tab["data"].get("hiddenColumns") or {}):
            self.client.update_tab(tab["id"], {**tab["data"], "hiddenColumns": hidden})

    def _change(self, task_id: int, **fields: Any) -> None:
        try:
            self.client.transport.call("PATCH", f"/api/tasks/{task_id}/", json=fields)
        except NotFoundError:
            return


_COUNTED = (
    "id,annotations,predictions,total_annotations,cancelled_annotations,total_predictions,overlap,is_labeled,"
    "was_cancelled,completed_by"
)


def _counts(raw: Json) -> dict[str, int]:
    """What a listed task should say of its annotations and predictions."""
    skips = sum(bool(answer["was_cancelled"]) for answer in raw["annotations"])
    return {
        "total_annotations": len(raw["annotations"]) - skips,
        "cancelled_annotations": skips,
        "total_predictions": len(raw["predictions"]),
    }


def _is_labelled(raw: Json, *, counts_skips: bool) -> bool:
    """As Label Studio decides it: as many people as the task is for have answered."""
    answers = [answer for answer in raw["annotations"] if counts_skips or not answer["was_cancelled"]]
    people = {
        answer["completed_by"]["id"] if isinstance(answer["completed_by"], dict) else answer["completed_by"]
        for answer in answers
    }
    return len(people) >= int(raw.get("overlap") or 1)
