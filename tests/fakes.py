"""Stand-ins that behave like the real thing, as far as the tests can tell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ml_backend.host_lists import HostList
from ml_backend.records import Annotation, Task
from ml_backend.store.database import Database

LOOPBACK = HostList(["*", "127.0.0.0/8"])
"""Lets images come from the small hosts that tests start."""
CHOICES = "choice"
"""Name of the `Choices` that a FakeLabelStudio's label config asks about."""
POSTGRESQL = "TEST_POSTGRESQL_URL"
"""Name of the variable that runs the store's tests on PostgreSQL instead (tests/store/test_on_postgresql.py sets it)."""


def quick_database(folder: Path) -> Database:
    """A real store, that of PostgreSQL where the tests run on it. The same folder is the same store."""
    if POSTGRESQL in os.environ:
        return _postgresql(os.environ[POSTGRESQL], "t" + hashlib.sha256(bytes(folder)).hexdigest()[:16])
    return Database(f"sqlite:///{folder / 'store.db'}")


def _postgresql(url: str, schema: str) -> Database:
    server = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with server.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
    server.dispose()
    return Database(f"{url}?options=-csearch_path%3D{schema}")


@dataclass
class FakeClock:
    """A clock that moves when told to."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@dataclass(frozen=True)
class FakeEvent:
    """A webhook on its way: which project it is about, and what Label Studio would send."""

    project_id: int
    action: str
    payload: dict[str, Any]


@dataclass
class FakeLabelStudio:
    """One Label Studio host in memory: tasks and annotations as its API shows them, and the webhooks it sends.

    Every change takes a second of `clock`, and touches the task's `updated_at` as Label Studio does.
    """

    clock: FakeClock = field(default_factory=FakeClock)
    tasks: dict[int, tuple[int, Task]] = field(default_factory=dict)  # task id -> (project id, task)
    annotations: dict[int, Annotation] = field(default_factory=dict)
    events: list[FakeEvent] = field(default_factory=list)
    _last_id: int = 0

    def create_task(self, project_id: int, image: str = "/image.png") -> Task:
        task = Task(id=self._new_id(), image=image, data={"image": image}, updated_at=self.clock.advance(1))
        self.tasks[task.id] = (project_id, task)
        self._send(project_id, "TASKS_CREATED", tasks=[{"id": task.id, "data": task.data}])
        return task

    def delete_task(self, task_id: int) -> None:
        project_id, _ = self.tasks.pop(task_id)
        self.annotations = {i: a for i, a in self.annotations.items() if a.task_id != task_id}
        self.clock.advance(1)
        self._send(project_id, "TASKS_DELETED", tasks=[{"id": task_id}])

    def move_task(self, task_id: int, project_id: int) -> None:
        """Put a task into another project, annotations and all, as an import of an export would not."""
        source, task = self.tasks[task_id]
        self.tasks[task_id] = (project_id, replace(task, updated_at=self.clock.advance(1)))
        self._send(source, "TASKS_DELETED", tasks=[{"id": task_id}])
        self._send(project_id, "TASKS_CREATED", tasks=[{"id": task_id}])

    def change_image(self, task_id: int, image: str) -> None:
        """Edit a task's data; Label Studio sends no event for it."""
        project_id, task = self.tasks[task_id]
        self.tasks[task_id] = (
            project_id,
            replace(task, image=image, data={"image": image}, updated_at=self.clock.advance(1)),
        )

    def annotate(
        self,
        task_id: int,
        *labels: str,
        annotator: int = 1,
        skip: bool = False,
        ground_truth: bool = False,
        elsewhere: bool = False,
        accepted: str | None = None,
        seconds: float | None = None,
    ) -> Annotation:
        """elsewhere: the answer is one to another control, too. accepted: it is a model's, under this certificate."""
        now = self.clock.advance(1)
        annotation = Annotation(
            id=self._new_id(),
            task_id=task_id,
            labels=labels,
            was_cancelled=skip,
            ground_truth=ground_truth,
            annotator=annotator,
            created_at=now,
            updated_at=now,
            none_of=None if labels or skip or elsewhere else CHOICES,
            accepted=accepted,
            seconds=seconds,
        )
        self._store(annotation, "ANNOTATION_CREATED")
        return annotation

    def update(
        self, annotation_id: int, *labels: str, skip: bool = False, ground_truth: bool = False, by: int | None = None
    ) -> Annotation:
        annotation = replace(
            self.annotations[annotation_id],
            editor=by,
            labels=labels,
            was_cancelled=skip,
            ground_truth=ground_truth,
            updated_at=self.clock.advance(1),
            none_of=None if labels or skip else CHOICES,
            accepted=None,
        )
        self._store(annotation, "ANNOTATION_UPDATED")
        return annotation

    def delete_annotation(self, annotation_id: int) -> None:
        annotation = self.annotations.pop(annotation_id)
        self.clock.advance(1)
        project_id = self._touch(annotation.task_id)
        self._send(project_id, "ANNOTATIONS_DELETED", annotations=[{"id": annotation_id}])

    def listing(self, project_id: int, *, since: datetime | None = None) -> Iterator[tuple[Task, list[Annotation]]]:
        """Every task of a project with its annotations, or those changed since then."""
        for owner, task in list(self.tasks.values()):
            if owner == project_id and (since is None or task.updated_at is None or task.updated_at >= since):
                yield task, self.annotations_of(task.id)

    def task(self, project_id: int, task_id: int) -> tuple[Task, list[Annotation]] | None:
        """One task with its annotations, or None where the API would answer 404."""
        owner, task = self.tasks.get(task_id, (None, None))
        return None if task is None or owner != project_id else (task, self.annotations_of(task_id))

    def annotations_of(self, task_id: int) -> list[Annotation]:
        return [a for a in self.annotations.values() if a.task_id == task_id]

    def _store(self, annotation: Annotation, action: str) -> None:
        self.annotations[annotation.id] = annotation
        sent = {
            "id": annotation.id,
            "task": annotation.task_id,
            "was_cancelled": annotation.was_cancelled,
            "updated_at": annotation.updated_at.isoformat(),
        }
        self._send(self._touch(annotation.task_id), action, annotation=sent, task={"id": annotation.task_id})

    def _touch(self, task_id: int) -> int:
        project_id, task = self.tasks[task_id]
        self.tasks[task_id] = (project_id, replace(task, updated_at=self.clock.now))
        return project_id

    def _send(self, project_id: int, action: str, **payload: Any) -> None:
        self.events.append(FakeEvent(project_id, action, {"action": action, "project": {"id": project_id}, **payload}))

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id
