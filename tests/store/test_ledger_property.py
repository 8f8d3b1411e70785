"""Whatever happens to the events, one full reconcile leaves the ledger as the API alone would have made it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.store.database import Database
from ml_backend.store.events import Inbox
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from tests.fakes import FakeEvent, FakeLabelStudio, quick_database
from tests.readings import answers_to, quarantined

pytestmark = pytest.mark.slow

CONFIGS = [("cat", "dog"), ("cat", "dog", "owl"), ("dog", "owl")]
PROJECTS = (1, 2)

labels = st.sampled_from(["cat", "dog", "owl"])
which = st.integers(0, 50)
people = st.integers(1, 3)
happenings = st.one_of(
    st.tuples(st.just("create_task"), st.sampled_from(PROJECTS)),
    st.tuples(st.just("delete_task"), which),
    st.tuples(st.just("move_task"), which, st.sampled_from(PROJECTS)),
    st.tuples(st.just("change_image"), which),
    *[st.tuples(st.just("annotate"), which, labels, people, st.booleans())] * 3,
    st.tuples(st.just("accept"), which, labels),
    st.tuples(st.just("skip"), which, people),
    st.tuples(st.just("update"), which, labels, st.booleans()),
    st.tuples(st.just("turn_into_skip"), which),
    st.tuples(st.just("delete_annotation"), which),
    st.tuples(st.just("change_config"), st.sampled_from(PROJECTS), st.sampled_from(CONFIGS)),
    st.tuples(st.just("deliver"), which, st.sampled_from(["once", "once", "twice", "never"])),
    st.tuples(st.just("reconcile"), st.sampled_from(PROJECTS)),
)


class World:
    """A Label Studio, and the backend that hears of it through a bad line."""

    def __init__(self, database: Database, host: str) -> None:
        self.studio = FakeLabelStudio()
        self.host = host
        self.ledger = Ledger(database, clock=self.studio.clock)
        self.inbox = Inbox(database, Jobs(database, clock=self.studio.clock), clock=self.studio.clock)
        self.configs = dict.fromkeys(PROJECTS, CONFIGS[0])
        self.waiting: list[FakeEvent] = []

    def project(self, number: int) -> Project:
        return self.ledger.upsert_project(
            ProjectKey(self.host, number),
            title="Pets",
            label_config=str(self.configs[number]),
            schema=LabelSchema("choice", "image", "image", self.configs[number]),
        )

    def happen(self, what: str, *args: Any) -> None:
        getattr(self, f"_{what}")(*args)
        self.waiting.extend(self.studio.events)
        self.studio.events.clear()

    def reconcile(self, number: int, *, full: bool) -> None:
        """Do what a cycle does: note what the events name, list what changed, look at what was named, settle."""
        project = self.project(number)
        touched = self.inbox.pending(project)
        began = self.studio.clock.now
        if full or project.full_at is None:
            self.ledger.reconcile(project, self.studio.listing(number), full=True, now=began)
        else:
            changed = dict.fromkeys(task.id for task, _ in self.studio.listing(number, since=project.reconciled_at))
            looked_at = {i: self.studio.task(number, i) for i in [*changed, *touched.task_ids]}
            found = [told for told in looked_at.values() if told is not None]
            gone = [i for i, told in looked_at.items() if told is None]
            self.ledger.reconcile(project, found, full=False, gone=gone, now=began)
        self.inbox.acknowledge(project, touched)

    def snapshot(self, number: int) -> dict[str, Any]:
        project = self.project(number)
        tasks = list(self.ledger.tasks(project))
        return {
            "tasks": [(task.id, task.image, task.data, task.updated_at) for task in tasks],
            "annotations": {task.id: answers_to(self.ledger, project, task.id) for task in tasks},
            "labels": self.ledger.labels(project),
            "accepted": {row.task.id: row.accepted for row in self.ledger.rows(project) if row.accepted},
            "quarantined": quarantined(self.ledger, project),
            "conflicts": self.ledger.counts(project).conflicts,
            "skips": self.ledger.counts(project).skips,
        }

    def _pick(self, number: int, of: Any) -> Any:
        items = sorted(of)
        return items[number % len(items)] if items else None

    def _create_task(self, number: int) -> None:
        self.studio.create_task(number)

    def _delete_task(self, number: int) -> None:
        if (task_id := self._pick(number, self.studio.tasks)) is not None:
            self.studio.delete_task(task_id)

    def _move_task(self, number: int, to: int) -> None:
        if (task_id := self._pick(number, self.studio.tasks)) is not None:
            self.studio.move_task(task_id, to)

    def _change_image(self, number: int) -> None:
        if (task_id := self._pick(number, self.studio.tasks)) is not None:
            self.studio.change_image(task_id, f"/{number}.png")

    def _annotate(self, number: int, label: str, annotator: int, truth: bool) -> None:
        if (task_id := self._pick(number, self.studio.tasks)) is not None:
            self.studio.annotate(task_id, label, annotator=annotator, ground_truth=truth)

    def _accept(self, number: int, label: str) -> None:
        if (task_id := self._pick(number, self.studio.tasks)) is not None:
            self.studio.annotate(task_id, label, annotator=1, accepted="c1")

    def _skip(self, number: int, annotator: int) -> None:
        if (task_id := self._pick(number, self.studio.tasks)) is not None:
            self.studio.annotate(task_id, annotator=annotator, skip=True)

    def _update(self, number: int, label: str, truth: bool) -> None:
        if (annotation_id := self._pick(number, self.studio.annotations)) is not None:
            self.studio.update(annotation_id, label, ground_truth=truth)

    def _turn_into_skip(self, number: int) -> None:
        if (annotation_id := self._pick(number, self.studio.annotations)) is not None:
            self.studio.update(annotation_id, skip=True)

    def _delete_annotation(self, number: int) -> None:
        if (annotation_id := self._pick(number, self.studio.annotations)) is not None:
            self.studio.delete_annotation(annotation_id)

    def _change_config(self, number: int, config: tuple[str, ...]) -> None:
        self.configs[number] = config
        self.project(number)

    def _deliver(self, number: int, how: str) -> None:
        """Any event that is under way, not the oldest; once, twice or never."""
        if self.waiting:
            event = self.waiting.pop(number % len(self.waiting))
            for _ in range({"once": 1, "twice": 2, "never": 0}[how]):
                self.inbox.record(ProjectKey(self.host, event.project_id), event.action, event.payload)

    def _reconcile(self, number: int) -> None:
        self.reconcile(number, full=False)


hosts = count()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = quick_database(tmp_path_factory.mktemp("store"))
    yield opened
    opened.close()


def majority(annotations: list[Any], config: tuple[str, ...]) -> str | None:
    """The rule of one label per task once more, written differently, to check the checker."""
    latest: dict[int, Any] = {}
    for a in sorted(annotations, key=lambda a: a.created_at):
        if not a.was_cancelled and a.accepted is None and a.labels and a.labels[0] in config:
            latest[a.annotator] = a
    deciding = [a for a in latest.values() if a.ground_truth] or list(latest.values())
    votes = Counter(a.labels[0] for a in deciding)
    tied = [a for a in deciding if votes[a.labels[0]] == max(votes.values())]
    return max(tied, key=lambda a: a.created_at).labels[0] if tied else None


@settings(max_examples=40)
@given(st.lists(happenings, min_size=5, max_size=50))
def test_any_history_with_any_losses_ends_as_the_api_says(database: Database, history: list[Any]) -> None:
    host = next(hosts)
    world = World(database, f"http://bad-line-{host}")
    for number in PROJECTS:
        world.project(number)
        world.happen("create_task", number)
    for happening in history:
        world.happen(*happening)
    for number in PROJECTS:
        world.reconcile(number, full=True)

    honest = World(database, f"http://api-alone-{host}")
    honest.studio, honest.configs = world.studio, world.configs
    for number in PROJECTS:
        honest.reconcile(number, full=True)
        assert world.snapshot(number) == honest.snapshot(number)
        truth = {
            task.id: majority(annotations, world.configs[number]) for task, annotations in world.studio.listing(number)
        }
        told = {label.task_id: label.labels[0] for label in world.ledger.labels(world.project(number))}
        assert told == {task_id: label for task_id, label in truth.items() if label is not None}


@settings(max_examples=20)
@given(st.lists(happenings, min_size=5, max_size=40), st.integers(0, 2**32 - 1))
def test_where_no_event_is_lost_incremental_reconciles_are_enough(
    database: Database, history: list[Any], seed: int
) -> None:
    host = next(hosts)
    world = World(database, f"http://good-line-{host}")
    shuffle = random.Random(seed).shuffle
    for number in PROJECTS:
        world.happen("create_task", number)
        world.reconcile(number, full=True)
    for happening in history:
        if happening[0] != "deliver":
            world.happen(*happening)
    shuffle(world.waiting)
    while world.waiting:
        world.happen("deliver", 0, "twice")
    for number in PROJECTS:
        world.reconcile(number, full=False)

    honest = World(database, f"http://api-alone-{host}")
    honest.studio, honest.configs = world.studio, world.configs
    for number in PROJECTS:
        honest.reconcile(number, full=True)
        assert world.snapshot(number) == honest.snapshot(number)
