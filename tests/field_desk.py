"""A Label Studio in memory whose tasks have data and counts, and whoever writes fields into it and takes them away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ml_backend.errors import LabelStudioUnavailableError, NotFoundError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.transport import Transport
from ml_backend.manual_fields import FieldPlan, FieldWriter
from ml_backend.steps.sync_labels import LabelSync
from tests.bench import Bench, without_label_studio


@dataclass
class Studio(LabelStudio):
    """Tasks with their data and counts. It fails at the `dies`-th write; `submits`: tasks answered while they are written whole."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    bulk: int = 0
    patched: list[int] = field(default_factory=list)
    dies: int = -1
    submits: set[int] = field(default_factory=set)
    enterprise: bool = False
    on_write: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.transport = cast("Transport", self)

    def add(self, *ids: int, **data: Any) -> None:
        for i in ids:
            none: dict[str, Any] = {"annotations": [], "predictions": [], "is_labeled": False, "overlap": 1}
            counts = {"total_annotations": 0, "cancelled_annotations": 0, "total_predictions": 0}
            self.rows[i] = {"id": i, "data": {"image": f"/{i}.png", "note": f"n{i}", **data}, **none, **counts}

    def answer(self, task: int) -> None:
        row = self.rows[task]
        row["annotations"].append({"was_cancelled": False, "completed_by": 1})
        row["total_annotations"], row["is_labeled"] = len(row["annotations"]), True

    def has_members(self) -> bool:
        return self.enterprise

    def get_project(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "skip_queue": "REQUEUE_FOR_OTHERS"}

    def listing(self, project_id: int, include: str, query: Any, **_: Any) -> dict[str, Any]:
        *conditions, after = query["filters"]["items"]
        found = [row for i, row in sorted(self.rows.items()) if i > after["value"]]
        if conditions:
            found = [row for row in found if row["annotations"]]
        return {"tasks": copy.deepcopy(found[:1000])}

    def listed(self, project_id: int, task_ids: Any, include: str, fields: str = "task_only") -> list[dict[str, Any]]:
        return copy.deepcopy([self.rows[i] for i in task_ids if i in self.rows])

    def act(self, project_id: int, action: str, task_ids: Sequence[int], **fields: Any) -> dict[str, Any]:
        assert action == "add_data_field"
        self._count_down()
        self.bulk += 1
        value = float(fields["value"]) if fields["value_type"] == "Number" else str(fields["value"])
        there = [i for i in task_ids if i in self.rows]
        for i in there:
            self.rows[i]["data"][fields["value_name"]] = value
        for name in self.rows[there[0]]["data"] if there else ():
            self.counted[name] = self.counted.get(name, 0) + 1
        return {}

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        if path == "/api/projects/1/summary/":
            return {"all_data_columns": dict(self.counted)}
        assert method == "PATCH"
        self._count_down()
        task = int(path.split("/")[3])
        if task not in self.rows:
            raise NotFoundError("gone")
        read = copy.deepcopy(self.rows[task])
        if task in self.submits and "data" in kwargs["json"]:
            self.answer(task)
        self.patched.append(task)
        for name in read["data"]:
            if self.counted.get(name):
                self.counted[name] -= 1
        # As it was read, but for its annotations, which are rows of their own.
        self.rows[task] = {**read, "annotations": self.rows[task]["annotations"], **kwargs["json"]}
        for name in self.rows[task]["data"]:
            self.counted[name] = self.counted.get(name, 0) + 1
        self.counted = {name: count for name, count in self.counted.items() if count}
        return {}

    def tabs(self, project_id: int) -> list[dict[str, Any]]:
        return copy.deepcopy(self.views)

    def create_tab(self, project_id: int, data: dict[str, Any]) -> dict[str, Any]:
        self._count_down()
        self.views.append({"id": len(self.views) + 1, "data": data})
        return self.views[-1]

    def update_tab(self, tab_id: int, data: dict[str, Any]) -> dict[str, Any]:
        self._count_down()
        next(tab for tab in self.views if tab["id"] == tab_id)["data"] = data
        return {}

    def delete_tab(self, tab_id: int) -> None:
        self._count_down()
        self.views = [tab for tab in self.views if tab["id"] != tab_id]

    def _count_down(self) -> None:
        self.on_write()
        self.dies -= 1
        if self.dies == -1:
            raise LabelStudioUnavailableError("Label Studio cannot be reached.")


@dataclass
class Desk:
    bench: Bench
    studio: Studio

    @property
    def writer(self) -> FieldWriter:
        return self.bench.services.field_writer

    def plan(self, prefix: str | None = None) -> FieldPlan:
        with without_label_studio(self.bench):
            return self.writer.plan(self.bench.project, prefix)[1]

    def write(self, prefix: str | None = None) -> FieldPlan:
        plan = self.plan(prefix)
        self.writer.write(self.bench.project, plan)
        return plan

    def remove(self) -> None:
        project = self.bench.project
        while True:
            self.writer.remove(project, self.writer.written(project))
            if self.writer.forget(project):
                return

    def data(self, task: int) -> dict[str, Any]:
        return cast("dict[str, Any]", self.studio.rows[task]["data"])

    def all_data(self) -> dict[int, dict[str, Any]]:
        return {i: copy.deepcopy(row["data"]) for i, row in self.studio.rows.items()}

    @property
    def noted(self) -> Sequence[str] | None:
        return self.bench.project.state.fields


def judged(folder: Path) -> Bench:
    """v1 of 120 tasks, of which 80 have a label: the first 20 of these are held out, and the label of 30 is wrong."""
    made = Bench(folder, measured=20)
    made.label(*range(1, 81))
    made.label(30, as_="dog" if made.truth[30] == "cat" else "cat")
    made.turn()
    made.services.database.close()
    return made


def desk_of(bench: Bench, monkeypatch: Any) -> Desk:
    """A bench beside a Label Studio that has its tasks and answers."""
    monkeypatch.setattr(LabelSync, "refresh", lambda _self, project: project)
    studio = Studio()
    studio.add(*bench.ids)
    for task in bench.answers:
        studio.answer(task)
    bench.services.hosts = cast("Any", SimpleNamespace(client=lambda _: studio))
    return Desk(bench, studio)
