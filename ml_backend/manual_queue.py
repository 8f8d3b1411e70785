"""Which tasks next, chosen by hand: what a strategy would pick, or a list of a person's own; and making it the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ml_backend.encoding import Encoding
from ml_backend.errors import ConflictError, InvalidInputError, NothingToAskError
from ml_backend.predictor import Predictor, predicted
from ml_backend.project_settings import settings_of
from ml_backend.records import BLIND, Query
from ml_backend.settings import Settings
from ml_backend.steps.choose import BY_HAND, build_pool, picks, set_aside, spare, with_guesses
from ml_backend.steps.encode_images import CorpusBuilder, places
from ml_backend.steps.push_queue import QueuePusher
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from ml_backend.store.rows import PoolRows
from ml_backend.store.vectors import FeatureStore
from ml_backend.strategies import STRATEGIES
from ml_backend.tabular import read_csv, unguarded
from ml_backend.task_names import SHOWN, and_more, called, names_of_tasks, printable

MANUAL = "manual"


@dataclass(frozen=True)
class QueryOptions:
    """What is asked of a strategy. None: as the project is set."""

    strategy: str | None = None
    size: int | None = None
    pool_size: int | None = None
    power: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Batch:
    """Queries in order, with what they were computed by. `skipped`: task ids left out, each with the reason."""

    queries: Sequence[Query]
    strategy: str
    seed: int
    version: int
    skipped: Mapping[int, str]


@dataclass(frozen=True)
class ManualQueue:
    """Batches that a person asks for, and the queue made of one."""

    settings: Settings
    ledger: Ledger
    versions: Versions
    features: FeatureStore
    predictor: Predictor
    encoding: Encoding
    label_sync: LabelSync
    corpus_builder: CorpusBuilder
    queue_pusher: QueuePusher
    acceptances: Acceptances

    def query(
        self, project: Project, options: QueryOptions, on_progress: Callable[[float, str], None] = lambda *_: None
    ) -> Batch:
        """Compute what a strategy would ask for now; records and pushes nothing.

        Call it in `foreground.alone`. Raises NothingToAskError where every task is answered, skipped, held out or unreadable,
        InvalidInputError for an unknown strategy, ConflictError while an audit asks for tasks.
        """
        self._refuse_audited(project)
        project = self.ledger.project(project.key)
        settings = settings_of(project, self.settings)
        strategy = options.strategy or settings.strategy
        if strategy not in STRATEGIES:
            raise InvalidInputError(f"There is no strategy {strategy!r}. Choose one of: {', '.join(STRATEGIES)}.")
        seed = settings.seed if options.seed is None else options.seed
        on_progress(0.0, "labels")
        project, _ = self.label_sync.sync(project, full=False, lazily=True)

        def count(done: int, total: int) -> None:
            on_progress(done / max(total, 1), f"{done} of {total} images")

        model = self.predictor.current(project)
        corpus = self.corpus_builder.in_own_vectors(
            project, self.corpus_builder.encode_missing(project, count), model, count
        )
        on_progress(0.9, "choose")
        pool = build_pool(corpus, model) if corpus else None
        wanted = settings.model_copy(
            update={
                "strategy": strategy,
                "batch_size": options.size or settings.batch_size,
                "pool_size": options.pool_size if options.pool_size is not None else settings.pool_size,
                "power": options.power if options.power is not None else settings.power,
                "random_share": 0.0,
                "holdout_share": 0.0,
            }
        )
        chosen = picks(pool, 0, np.random.default_rng([seed, project.id]), wanted)
        if not chosen:
            raise NothingToAskError(
                f"{project.key} has no tasks left to choose from: all are answered, skipped, set aside, unreadable or held out to "
                "measure the accuracy. Import more images."
            )
        queries = with_guesses([replace(query, rank=rank) for rank, query in enumerate(chosen)], corpus, model)
        return Batch(queries, strategy, seed, model.number if model else 0, {})

    def batch(self, project: Project, priorities: Mapping[int, float]) -> Batch:
        """Put a person's own list in order: the highest priority first, ties as given. `priorities`: by task id.

        Tasks that are answered already, do not exist or have an image that cannot be read are skipped and named; images that
        nobody has read yet are read now. Raises NothingToAskError where none is left, ConflictError while an audit asks for tasks.
        """
        self._refuse_audited(project)
        ledger = self.ledger
        rows = ledger.pool(project, priorities)
        unread = rows.ids[(rows.hashes == b"") & ~rows.failed & ~rows.answered]
        if len(unread):
            self.encoding.look_at(project, list(ledger.tasks(project, unread.tolist())))
            rows = ledger.pool(project, priorities)
        skipped = _left_out(rows, priorities, ledger.image_errors(project))
        ordered = sorted(priorities.items(), key=lambda item: -item[1])
        chosen = [(task, priority) for task, priority in ordered if task not in skipped]
        if not chosen:
            raise NothingToAskError(_nothing_left(project, skipped, ledger))
        held_out = {int(task) for task in rows.ids[rows.holdout]}
        queries = [
            Query(task, rank, "holdout" if task in held_out else "strategy", priority, "chosen by hand")
            for rank, (task, priority) in enumerate(chosen)
        ]
        current = self.versions.current(project)
        queries = self._with_predictions(project, queries, rows)
        return Batch(queries, MANUAL, 0, current.number if current else 0, skipped)

    def push(self, project: Project, batch: Batch) -> Round:
        """Make the batch the queue, as a round of its own that stays until half of it is answered.

        Pushed again unchanged, it stays the round it is. Raises LabelStudioError where Label Studio refuses it,
        ConflictError while an audit asks for tasks.
        """
        self._refuse_audited(project)
        ledger = self.ledger
        last = ledger.last_round(project)
        aside = ledger.aside(project)
        params = {BY_HAND: True} | set_aside(aside)
        batch = replace(batch, queries=_without(batch.queries, set(aside)))  # set aside since the batch was made
        if last is not None and (last.strategy, last.seed, last.version, last.params) == (
            batch.strategy, batch.seed, batch.version, params,
        ) and _order(ledger.queries(last)) == _order(batch.queries):  # fmt: skip
            return self.queue_pusher.serve(project, last)
        round_ = ledger.open_round(
            project,
            version=batch.version,
            strategy=batch.strategy,
            seed=batch.seed,
            queries=batch.queries,
            params=params,
        )
        reserve = spare(project, None, round_, ledger, settings_of(project, self.settings))
        return self.queue_pusher.serve(project, round_, reserve)

    def _refuse_audited(self, project: Project) -> None:
        """Whatever else was queued would show guesses of tasks that the audit may draw next."""
        if self.acceptances.is_blind(project):
            raise ConflictError(
                f"An audit of {project.title!r} is on, and its tasks are the queue until they are answered: `ml-backend accept "
                "status` says how many are left; then `ml-backend accept certify` ends it, and `ml-backend accept stop` gives it up."
            )

    def _with_predictions(self, project: Project, queries: Sequence[Query], rows: PoolRows) -> list[Query]:
        """Add what the current model says of each task whose vector is stored; held-out tasks get no prediction."""
        model = self.predictor.current(project)
        if model is None:
            return list(queries)
        hashes = rows.hashes[np.searchsorted(rows.ids, [q.task_id for q in queries])]
        at = places(self.features, model.encoder.id, hashes)
        known = [i for i, q in enumerate(queries) if at[i] >= 0 and q.arm not in BLIND]
        complete = list(queries)
        if known:
            matrix = self.features.matrix(model.encoder.id)
            for i, row in zip(known, model.head.predict_proba(matrix[at[known]]), strict=True):
                prediction = predicted(row, model.head.classes, multiple=model.head.multilabel)
                complete[i] = replace(queries[i], confidence=prediction.confidence, prediction=prediction.labels)
        return complete


def _without(queries: Sequence[Query], aside: set[int]) -> list[Query]:
    left = [query for query in queries if query.task_id not in aside]
    if not left:
        raise NothingToAskError(
            "None of these tasks can be queued: they were set aside meanwhile; take them back first."
        )
    return [replace(query, rank=rank) for rank, query in enumerate(left)]


def _left_out(rows: PoolRows, tasks: Iterable[int], errors: Mapping[int, str]) -> dict[int, str]:
    """Which of these tasks cannot be asked for, and why."""
    at = {int(task): row for row, task in enumerate(rows.ids)}
    skipped: dict[int, str] = {}
    for task in tasks:
        if task not in at:
            skipped[task] = "not in this project"
        elif rows.accepted[at[task]]:
            skipped[task] = "its label was accepted of the model: change it in Label Studio"
        elif rows.answered[at[task]]:
            skipped[task] = "already labelled"
        elif rows.set_aside[at[task]]:
            skipped[task] = "set aside: take it back first"
        elif rows.failed[at[task]]:
            skipped[task] = f"its image cannot be read: {errors.get(task, 'for an unknown reason')}"
    return skipped


def _nothing_left(project: Project, skipped: Mapping[int, str], ledger: Ledger) -> str:
    shown = list(skipped)[:SHOWN]
    names = {task.id: called(task) for task in ledger.tasks(project, shown)}
    reasons = [f"{names.get(task, f'task {task}')}: {printable(skipped[task]).rstrip('.')}" for task in shown]
    return f"None of these tasks can be queued: {and_more(reasons, len(skipped))}."


def priorities_from_csv(project: Project, path: Path, ledger: Ledger) -> dict[int, float]:
    """Read `task_id` or `filename` (or `path`, or `content_hash`), and `priority` if there is one: higher is sooner.

    Without priorities the first line comes first. Raises InvalidInputError naming the lines that cannot be used.
    """
    rows = list(read_csv(path))
    names = [
        row.get("task_id") or row.get("path") or row.get("filename") or row.get("content_hash") or "" for row in rows
    ]
    found = resolve(project, names, ledger)
    priorities: dict[int, float] = {}
    for place, (row, task) in enumerate(zip(rows, found, strict=True)):
        text = row.get("priority") or ""
        try:
            priority = float(text) if text else float(len(rows) - place)
        except ValueError:
            raise InvalidInputError(f"{path}, row {place + 1}: the priority {text!r} is not a number.") from None
        priorities.setdefault(task, priority)
    return priorities


def resolve(project: Project, names: Sequence[str], ledger: Ledger) -> list[int]:
    """Task ids, filenames, relative paths or content hashes -> task ids, in the order given.

    Raises InvalidInputError that lists names which are no task, and filenames that several tasks have.
    """
    numbers = {task.id for task in ledger.tasks(project)} if any(n.isdigit() for n in names) else set()
    known = names_of_tasks(ledger.tasks(project)) if any(not n.isdigit() for n in names) else {}
    found: list[int] = []
    unknown: list[str] = []
    ambiguous: list[str] = []
    for name in names:
        tasks = (
            [int(name)]
            if name.isdigit() and int(name) in numbers
            else known.get(name) or known.get(unguarded(name), [])
        )
        found += tasks[:1]
        if len(tasks) != 1:
            (ambiguous if tasks else unknown).append(name)
    if unknown or ambiguous:
        raise InvalidInputError(_not_resolved(project, unknown, ambiguous))
    return found


def _order(queries: Sequence[Query]) -> list[tuple[int, float]]:
    return [(query.task_id, query.acquisition) for query in queries]


def _not_resolved(project: Project, unknown: Sequence[str], ambiguous: Sequence[str]) -> str:
    parts = []
    if unknown:
        parts.append(f"{project.title!r} has no task called {_some(unknown)}")
    if ambiguous:
        parts.append(f"several tasks are called {_some(ambiguous)}: use their path or task id")
    return f"Nothing was changed: {'; '.join(parts)}."


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
