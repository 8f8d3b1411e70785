"""A project that is labelled turn by turn without a Label Studio and without pictures: the steps that choose, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ml_backend.errors import NothingToAskError
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.steps.choose import choose
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.encode_images import places
from ml_backend.steps.hold_out import reach, reserve
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from tests.other_settings import use

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
ENCODER = "encoder"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def content(number: int) -> str:
    return f"{number:064x}"


@dataclass
class Labelling:
    """Tasks 1, 2, ..., each with an image of its own; `oracle` answers for a task."""

    services: Services
    tasks: int
    oracle: Callable[[int], str] = lambda task: "cat" if task % 2 else "dog"
    answers: dict[int, list[Annotation]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project: Project = self.services.registry.register("http://localhost:8080", 1, CONFIG, created=None)
        many, self.tasks = self.tasks, 0
        self.grow(many)

    def grow(self, many: int, contents: Sequence[str] | None = None) -> None:
        """More tasks, whose images are read; with `contents` in place of an image of its own for each."""
        ids = range(self.tasks + 1, self.tasks + many + 1)
        self.tasks += many
        hashes = dict(zip(ids, contents or map(content, ids), strict=True))
        self.services.ledger.reconcile(self.project, [(task(i), []) for i in ids], full=False)
        self.services.ledger.set_content_hash(self.project, hashes)
        vectors = np.random.default_rng(ids[0]).standard_normal((many, 4)).astype(np.float32)
        self.services.features.append(ENCODER, list(hashes.values()), vectors)

    def answer(self, ids: Iterable[int], *, at: datetime = NOW, skip: bool = False) -> None:
        """Somebody labels these tasks, or skips them."""
        for i in ids:
            labels = () if skip else (self.oracle(i),)
            self.answers[i] = [Annotation(i, i, labels, skip, False, 1, at, at)]
        given = [(task(i), self.answers[i]) for i in ids]
        self.services.ledger.reconcile(self.project, given, full=False)

    def accept(self, ids: Iterable[int]) -> None:
        """The model's labels of those tasks that have no answer are accepted."""
        free = [i for i in ids if i not in self.answers]
        of_model = [Annotation(i, i, (self.oracle(i),), False, False, 9, NOW, NOW, accepted="c1") for i in free]
        self.services.ledger.reconcile(self.project, [(task(a.id), [a]) for a in of_model], full=False)

    def take_back(self, ids: Iterable[int]) -> None:
        self.services.ledger.reconcile(self.project, [(task(i), []) for i in ids], full=False)

    def turn(self) -> Round | None:
        """Hold out and choose; None where nothing is left to ask for."""
        self.project = reserve(self.project, self.services.ledger, self.services.versions, self.services.settings)
        corpus = reach(self.project, self.corpus(), self.services.ledger, self.services.settings)
        try:
            return choose(self.project, corpus, None, self.services.ledger, self.services.settings)
        except NothingToAskError:
            return None

    def corpus(self) -> Corpus:
        rows = self.services.ledger.pool(self.project)
        at, matrix = places(self.services.features, encoder().id, rows.hashes), self.services.features.matrix(ENCODER)
        return Corpus(rows, at, matrix, encoder(), self.project.schema.labels, self.project.schema.multiple)

    def asked(self, round_: Round, *arms: str) -> list[int]:
        return [query.task_id for query in self.services.ledger.queries(round_) if not arms or query.arm in arms]

    def measured(self) -> list[int]:
        rows = self.services.ledger.pool(self.project)
        return [int(task) for task in rows.ids[rows.measured]]

    def set(self, **settings: Any) -> None:
        """Start the service again with other settings."""
        use(self.services, **settings)

    def in_order(self) -> list[int]:
        """The held-out tasks in the order of the split."""
        self.project = reserve(self.project, self.services.ledger, self.services.versions, self.services.settings)
        rows = self.services.ledger.pool(self.project)
        held = np.flatnonzero(rows.holdout)
        return [int(task) for task in rows.ids[held[np.lexsort((rows.ids[held], rows.places[held]))]]]


def task(number: int) -> Task:
    return Task(number, f"/{number}.png", {"image": f"/{number}.png"}, NOW)


def encoder() -> Any:
    return cast("Any", SimpleNamespace(id=ENCODER))
