"""What the model thinks of each task, written into Label Studio for people to filter and sort by, and taken away again.

Only what differs is written. The names are noted before the first task has one, and forgotten after the last has none, so that
whatever stops it the same command goes on: what has a noted name is ours.
"""

from __future__ import annotations

from array import array
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ml_backend import opinions
from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.hosts import Hosts
from ml_backend.labelstudio.client import Json
from ml_backend.labelstudio.task_fields import (
    OPEN,
    PREFIX,
    RIGHT,
    WRITTEN,
    WRONG,
    FieldNames,
    TaskFields,
    Value,
)
from ml_backend.opinions import Judge, Opinions
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project

STATUSES = {opinions.RIGHT: RIGHT, opinions.WRONG: WRONG, opinions.GUESS: OPEN}
A_REQUEST, A_TASK, A_REMOVAL = 0.05, 0.0005, 0.15
"""Seconds on Label Studio's SQLite: of a request that writes, of each task in it, and of taking the fields from one task."""
SOME = 100
"""Tasks that get the fields and lose them, to have Label Studio forget the columns."""

Counter = Callable[[int], None]


@dataclass(frozen=True)
class FieldPlan:
    """What is to be written.

    tasks: by status, of those that have the fields afterwards. silent: of which nothing is said. puts: field and value -> tasks
    that get it. clear: tasks that lose the fields. changed: tasks of either kind.
    """

    names: FieldNames
    version: int
    tasks: Mapping[str, int]
    silent: int
    puts: Mapping[tuple[str, Value], array[int]]
    clear: array[int]
    changed: int

    @property
    def total(self) -> int:
        return sum(map(len, self.puts.values())) + len(self.clear)

    @property
    def seconds(self) -> float:
        requests = sum(1 + (len(ids) - 1) // WRITTEN for ids in self.puts.values())
        writes = self.total - len(self.clear)
        return requests * A_REQUEST + writes * A_TASK + len(self.clear) * A_REMOVAL


@dataclass(frozen=True)
class FieldWriter:
    """Writes and removes the fields of projects."""

    hosts: Hosts
    ledger: Ledger
    label_sync: LabelSync
    judge: Judge
    acceptances: Acceptances

    def plan(
        self, project: Project, prefix: str | None = None, on_progress: Counter = lambda _: None
    ) -> tuple[Project, FieldPlan]:
        """Look what there is to write; changes nothing in Label Studio. Returns the project as it is now, too.

        prefix: what the names begin with; None: as it was, else PREFIX. Raises InvalidInputError where other fields of these
        names are there, ConflictError where there are ours of other names, or while an audit asks for tasks, NotFoundError where
        there is no model.
        """
        if self.acceptances.is_blind(project):
            raise ConflictError(
                f"An audit of {project.title!r} is on, and nobody is to see what the model thinks of a task that may be drawn: "
                "run this again once it is over (`ml-backend accept status`)."
            )
        project, _ = self.label_sync.sync(project, full=False, lazily=True)
        names = _names(project, prefix)
        planning = _Planning(names, self.judge.opinions(project), project)
        for page in self._fields(project, names).tasks():
            planning.take(page)
            on_progress(len(page))
        return project, planning.plan()

    def write(self, project: Project, plan: FieldPlan, on_progress: Counter = lambda _: None) -> Project:
        """Write what was planned, and make the tab. Call it in `foreground.alone`, with the plan: a turn moves the queue."""
        fields = self._fields(project, plan.names)
        if project.state.fields is None:  # once: somebody may want to see them there
            fields.hide()
        project = self.ledger.configure(project, fields=plan.names.all())
        for (name, value), ids in plan.puts.items():
            fields.put(name, value, ids, on_progress)
        fields.take_away(plan.clear, on_progress)
        fields.show_tab()
        return project

    def written(self, project: Project, on_progress: Counter = lambda _: None) -> array[int]:
        """The tasks that have fields of ours. Raises ProjectGoneError or AnotherStoreError where the project is not ours any more."""
        project, found = self.label_sync.refresh(project), array("q")
        if names := project.state.fields:
            fields = self._fields(project, FieldNames(*names))
            for page in fields.tasks():
                found.extend(raw["id"] for raw in page if fields.names.ours(raw["data"]))
                on_progress(len(page))
        return found

    def remove(self, project: Project, ids: Sequence[int], on_progress: Counter = lambda _: None) -> None:
        """Take the tab away, and the fields from these tasks; labels may come in, and turns run, meanwhile."""
        fields = self._of_ours(project)
        fields.remove_tab()
        fields.take_away(ids, on_progress)
        fields.uncount(ids[:SOME])

    def forget(self, project: Project) -> bool:
        """Note that the project has no fields of ours; False where some task has, and they have to be removed first.

        Call it in `foreground.alone`: nobody writes them meanwhile.
        """
        if self.written(project):
            return False
        fields = self._of_ours(project)
        fields.remove_tab()  # once more: a writing that ended meanwhile has made it anew
        fields.mend_all()
        self.ledger.configure(project, fields=None)
        return True

    def _of_ours(self, project: Project) -> TaskFields:
        return self._fields(project, FieldNames(*(project.state.fields or FieldNames.of(PREFIX).all())))

    def _fields(self, project: Project, names: FieldNames) -> TaskFields:
        return TaskFields(self.hosts.client(project.key.host), project.key.project_id, names)


@dataclass
class _Planning:
    """Compares what is to be with what is, a page of tasks at a time; 24 bytes a task that changes are kept."""

    names: FieldNames
    said: Opinions
    project: Project
    tasks: Tally[str] = field(default_factory=Tally)
    silent: int = 0
    puts: dict[tuple[str, Value], array[int]] = field(default_factory=dict)
    clear: array[int] = field(default_factory=lambda: array("q"))
    changed: int = 0

    def take(self, page: Sequence[Json]) -> None:
        ids = np.array([raw["id"] for raw in page], np.int64)
        at = np.minimum(np.searchsorted(self.said.ids, ids), max(len(self.said.ids) - 1, 0))
        for raw, place, known in zip(page, at.tolist(), (self.said.ids[at] == ids).tolist(), strict=True):
            self._refuse_foreign(raw)
            # Of a task that came since the labels were read nothing is known yet.
            self._compare(raw, self._wanted(raw, place) if known else None)

    def _wanted(self, raw: Json, place: int) -> dict[str, Value] | None:
        """The fields of a task; {} for none, None for those that it has."""
        status = int(self.said.status[place])
        if status == opinions.KEPT:
            return None
        # Where several people answer one task, those to come are shown no guess.
        if status == opinions.NOTHING or (self.project.state.overlap > 1 and not raw["is_labeled"]):
            return {}
        guess = self.said.texts[self.said.guess[place]]
        return dict(zip(self.names.all(), (STATUSES[status], guess, int(self.said.confidence[place])), strict=True))

    def _compare(self, raw: Json, wanted: dict[str, Value] | None) -> None:
        if not wanted:
            self.silent += 1
            if wanted is not None and self.names.ours(raw["data"]):
                self.clear.append(raw["id"])
                self.changed += 1
            return
        self.tasks[str(wanted[self.names.status])] += 1
        new = [(name, value) for name, value in wanted.items() if raw["data"].get(name) != value]
        for item in new:
            self.puts.setdefault(item, array("q")).append(raw["id"])
        self.changed += bool(new)

    def _refuse_foreign(self, raw: Json) -> None:
        known, data = self.project.state.fields is not None, raw["data"]
        if not known and (others := [name for name in self.names.all() if name in data]):
            raise InvalidInputError(
                f"Task {raw['id']} has a field {others[0]!r} that this service did not write: choose how ours begin with "
                "--prefix, such as `--prefix guess_`."
            )
        if others := self.names.foreign(data):
            raise InvalidInputError(
                f"Task {raw['id']} has {others[0]!r} with a value that this service did not write. Take that field from the "
                "task; or take ours away with `ml-backend fields --remove`, and then choose how they begin with --prefix."
            )

    def plan(self) -> FieldPlan:
        return FieldPlan(
            self.names, self.said.version, dict(self.tasks), self.silent, self.puts, self.clear, self.changed
        )


def _names(project: Project, prefix: str | None) -> FieldNames:
    before = project.state.fields
    names = FieldNames.of(prefix) if prefix is not None else None
    if before and names and tuple(before) != names.all():
        raise ConflictError(
            f"The fields are called {', '.join(before)} now: take them away first, with `ml-backend fields --remove`."
        )
    return names or (FieldNames(*before) if before else FieldNames.of(PREFIX))


def document(plan: FieldPlan) -> dict[str, Any]:
    """The plan for a program."""
    return {
        "fields": plan.names.all(),
        "version": f"v{plan.version}",
        "right": plan.tasks.get(RIGHT, 0),
        "wrong": plan.tasks.get(WRONG, 0),
        "no_label": plan.tasks.get(OPEN, 0),
        "silent": plan.silent,
        "changed": plan.changed,
        "seconds": round(plan.seconds),
    }
