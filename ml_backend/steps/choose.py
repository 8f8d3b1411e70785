"""Step 4: score the pool, let the strategy rank it, and mix in the held-out tasks that are due and a random draw."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.chunks import chunks
from ml_backend.errors import NothingToAskError
from ml_backend.predictor import LoadedModel, predicted
from ml_backend.records import BLIND, Arm, AuditQueue, Pool, Query, Ranking
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.hold_out import due
from ml_backend.steps.table_rows import rows_of
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rounds import UNGUESSED, Round
from ml_backend.store.rows import PoolRows
from ml_backend.strategies import select

PICKS = 2
"""Picks before each held-out task. With one, half of the first answers would be no picks; with three, measuring waits longer."""
BY_HAND = "by_hand"
"""Set in the params of a round that a person asked for: it stays until half of it is answered, whatever is trained."""
ASIDE = "aside"
"""Set in the params of a round while tasks are set aside: stands for which."""
AUDIT = "audit"
"""Set in the params of a round that an audit asks for: the number of the acceptance. And the name of its strategy."""


def choose(
    project: Project,
    corpus: Corpus | None,
    model: LoadedModel | None,
    ledger: Ledger,
    settings: Settings,
    audit: AuditQueue | None = None,
    *,
    blind: bool = False,
) -> Round:
    """Return the round to serve: the last one while it is good, else a new one, recorded. `audit` comes before all else.

    blind: no guess is to be shown, of whatever task. Raises NothingToAskError where there is no task left to ask for.
    """
    rows = corpus.rows if corpus else ledger.pool(project)
    version = model.number if model else 0
    last = ledger.last_round(project)
    if last is not None and still_good(project, last, rows, version, ledger, settings, audit, blind=blind):
        return last
    if last is not None and audit is None and not blind and (left := _left_by_hand(last, rows, ledger)):
        return _once_more(project, last, left, last.params, rows, ledger)
    if audit is not None:
        return ledger.open_round(
            project, version=version, strategy=AUDIT, seed=0, queries=_audited(audit), params={AUDIT: audit.number}
        )
    if (
        not blind
        and last is not None
        and version < last.version
        and (former := _former(project, rows, version, ledger))
    ):
        return former
    rng = np.random.default_rng([settings.seed, project.id, last.number if last else 0])
    pool = build_pool(corpus, model) if corpus else None
    asked = queue_of(rows, pool, rng, settings)
    queries = asked if blind else with_guesses(asked, corpus, model)
    if not queries:
        raise NothingToAskError(f"{project.key} has no tasks to ask for: {_why_not(rows)}.")
    return ledger.open_round(
        project,
        version=version,
        strategy=settings.strategy,
        seed=settings.seed,
        queries=queries,
        params=_params(project, settings) | set_aside(rows.ids[rows.set_aside]) | ({UNGUESSED: True} if blind else {}),
    )


def spare(project: Project, corpus: Corpus | None, round_: Round, ledger: Ledger, settings: Settings) -> list[int]:
    """Tasks at random that are served once the batch is used up, or all that is left of it is open elsewhere.

    Without them Label Studio tells an annotator that there is no task left while a colleague has the last one open.
    """
    rows = corpus.rows if corpus else ledger.pool(project, hashes=False)
    asked = [query.task_id for query in ledger.queries(round_)]
    # One order a round, of all tasks: what is in reserve already comes first when some of it has been used up.
    return spare_of(rows, asked, np.random.default_rng([settings.seed, project.id, round_.number]), settings)


def queue_of(rows: PoolRows, pool: Pool | None, rng: np.random.Generator, settings: Settings) -> list[Query]:
    """What is to be asked next: picks of the strategy, the random arm, and between them the held-out tasks that are due."""
    held = [Query(int(task), 0, "holdout", 0.0, "held out at random to measure the accuracy") for task in due(rows)]
    return alternate(picks(pool, len(held), rng, settings), held)


def spare_of(rows: PoolRows, asked: Sequence[int], rng: np.random.Generator, settings: Settings) -> list[int]:
    """Ids of tasks at random, as many as a batch has: neither asked for nor held out."""
    waiting = rows.waiting & ~rows.holdout & ~np.isin(rows.ids, asked)
    order = rng.permutation(len(rows.ids))
    return [int(task) for task in rows.ids[order[waiting[order]]][: settings.batch_size]]


def _former(project: Project, rows: PoolRows, version: int, ledger: Ledger) -> Round | None:
    """After a roll-back: what is yet unanswered of the queue that this version had, as a round of its own."""
    mine = (r for r in ledger.rounds(project) if r.version == version and not {AUDIT, UNGUESSED} & set(r.params))
    before = next(mine, None)
    if before is None or not _same_labels(project, before):
        return None
    waiting = set(_waiting(rows).tolist())
    left = [query for query in ledger.queries(before) if query.task_id in waiting]
    return _once_more(project, before, left, before.params, rows, ledger) if left else None


def _left_by_hand(last: Round, rows: PoolRows, ledger: Ledger) -> list[Query]:
    """What waits of a queue that a person asked for and has set some of aside since, while that is more than half of the others."""
    if not last.params.get(BY_HAND) or _knows_aside(last, rows):
        return []
    aside, waiting = set(rows.ids[rows.set_aside].tolist()), set(_waiting(rows).tolist())
    others = [query for query in ledger.queries(last) if query.task_id not in aside]
    left = [query for query in others if query.task_id in waiting]
    return left if 2 * len(left) > len(others) else []


def _once_more(
    project: Project, round_: Round, left: Sequence[Query], params: Mapping[str, Any], rows: PoolRows, ledger: Ledger
) -> Round:
    """Those queries of a round as a round of its own."""
    kept = {name: value for name, value in params.items() if name != ASIDE}
    return ledger.open_round(
        project,
        version=round_.version,
        strategy=round_.strategy,
        seed=round_.seed,
        queries=[replace(query, rank=rank) for rank, query in enumerate(left)],
        params=kept | set_aside(rows.ids[rows.set_aside]),
    )


def set_aside(ids: NDArray[np.int64] | Sequence[int]) -> dict[str, str]:
    """What a round keeps of the tasks that were set aside when it was made, ascending: with others, it is another queue, and reserve."""
    if not len(ids):
        return {}
    return {ASIDE: hashlib.sha256(np.asarray(ids, np.int64).tobytes()).hexdigest()[:16]}


def _knows_aside(round_: Round, rows: PoolRows) -> bool:
    return bool(round_.params.get(ASIDE) == set_aside(rows.ids[rows.set_aside]).get(ASIDE))


def _waiting(rows: PoolRows) -> NDArray[np.int64]:
    """Ids of the tasks that can still be asked for."""
    return rows.ids[rows.waiting]


def still_good(
    project: Project,
    round_: Round,
    rows: PoolRows,
    version: int,
    ledger: Ledger,
    settings: Settings,
    audit: AuditQueue | None = None,
    *,
    blind: bool = False,
) -> bool:
    """Whether the round was computed by the same model and settings, with the same tasks set aside, and more than half of it is yet unanswered.

    That of an audit stays until it asks for something else: all of it is to be answered.
    """
    queries = ledger.queries(round_)
    if audit is not None:
        return round_.params.get(AUDIT) == audit.number and set(audit.tasks) <= {query.task_id for query in queries}
    if not _knows_aside(round_, rows) or bool(round_.params.get(UNGUESSED)) != blind:
        return False
    params = {name: value for name, value in round_.params.items() if name not in {UNGUESSED, ASIDE}}
    if not params.get(BY_HAND) and (round_.version, round_.strategy, round_.seed, params) != (
        version, settings.strategy, settings.seed, _params(project, settings),
    ):  # fmt: skip
        return False
    waiting = np.isin([query.task_id for query in queries], _waiting(rows))
    return bool(2 * waiting.sum() > len(queries))


def _audited(audit: AuditQueue) -> list[Query]:
    return [
        Query(task, rank, "audit", 0.0, "drawn at random to check what the model would label")
        for rank, task in enumerate(audit.tasks)
    ]


def _same_labels(project: Project, round_: Round) -> bool:
    """Whether the guesses of a round are labels that the project has now."""
    return {"labels": round_.params.get("labels"), "multiple": round_.params.get("multiple")} == _labels(project)


def _labels(project: Project) -> dict[str, Any]:
    return {"labels": sorted(project.schema.labels), "multiple": project.schema.multiple}


def _params(project: Project, settings: Settings) -> dict[str, Any]:
    """What else decides a batch, or which of its guesses are ticked; kept with the round."""
    return {
        **_labels(project),
        "overlap": project.state.overlap,
        "batch_size": settings.batch_size,
        "pool_size": settings.pool_size,
        "power": settings.power,
        "random_share": settings.random_share,
        "holdout_share": settings.holdout_share,
        "holdout_first": settings.holdout_first,
        "reserved_share": project.reserved_share,
        "prelabels": settings.prelabels,
    }


def _why_not(rows: PoolRows) -> str:
    total = len(rows.ids)
    if not total:
        return "there are none; import some"
    unread = int(((rows.hashes == b"") & ~rows.failed & ~rows.answered & ~rows.skipped).sum())
    of_model = int(rows.accepted.sum())
    aside = f"{int(rows.set_aside.sum())} set aside, " if rows.set_aside.any() else ""
    accepted = f" ({of_model} by labels accepted of the model)" if of_model else ""
    yet = f", and that of {unread} has not been read yet" if unread else ""
    return (
        f"of {total} tasks {int(rows.answered.sum())} are answered{accepted}, {int(rows.skipped.sum())} skipped, {aside}and the image of "
        f"{int(rows.failed.sum())} cannot be read{yet}"
    )


def build_pool(corpus: Corpus, model: LoadedModel | None) -> Pool | None:
    """Put the encoded tasks into a pool, in the order of the feature store; None where there are none.

    Held-out tasks are never picked, and nothing that is picked depends on their labels: then what resembles them is learned
    as well as the rest, and the accuracy measured on them is that of the rest. No vector is copied.
    """
    rows = corpus.rows
    inside = np.flatnonzero(corpus.encoded)
    order = inside[np.argsort(corpus.at[inside], kind="stable")]
    if not len(order):
        return None
    vectors: Any = rows_of(corpus.matrix, corpus.at[order])
    known = (rows.labelled & ~rows.holdout)[order]
    return Pool(
        features=vectors,
        labelled=known,
        labels=np.where(known, rows.labels[order], -1),
        n_classes=len(corpus.classes),
        ids=rows.ids[order],
        probabilities=model.blind.predict_proba(vectors) if model and model.blind else None,
        multilabel=corpus.multiple,
        candidates=~(rows.answered | rows.skipped | rows.holdout | rows.aside)[order],
        class_names=corpus.classes,
        skipped=(rows.skipped & ~rows.holdout)[order],
        pairs=_pairs(rows, order, known) if corpus.multiple else None,
    )


def _pairs(rows: PoolRows, order: NDArray[np.intp], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The labels (row, class) of those tasks in `order` that are `known`, by their places in it."""
    place = np.full(len(rows.ids), -1, dtype=np.int64)
    place[order[known]] = np.flatnonzero(known)
    moved = np.column_stack([place[rows.pairs[:, 0]], rows.pairs[:, 1]])
    return moved[moved[:, 0] >= 0]


def alternate(ordered: Sequence[Query], others: Sequence[Query]) -> list[Query]:
    """One of `others` after every `PICKS` of the ordered ones, as long as there are any; ranks from 0."""
    parts = zip_longest(chunks(ordered, PICKS), chunks(others, 1), fillvalue=())
    mixed = [query for part in parts for few in part for query in few]
    return [replace(query, rank=rank) for rank, query in enumerate(mixed)]


def interleave(ordered: Sequence[Query], others: Sequence[Query], rng: np.random.Generator) -> list[Query]:
    """Put `others` at random places among `ordered`, whose order stays; ranks from 0."""
    total = len(ordered) + len(others)
    places = set(rng.choice(total, len(others), replace=False).tolist())
    first, second = iter(ordered), iter(others)
    mixed = [next(second) if place in places else next(first) for place in range(total)]
    return [replace(query, rank=rank) for rank, query in enumerate(mixed)]


def picks(pool: Pool | None, held_out: int, rng: np.random.Generator, settings: Settings) -> list[Query]:
    """The strategy's picks and the random arm; at least `1 - holdout_share` of a batch, however many are held out."""
    if pool is None or pool.candidates is None:
        return []
    size = max(math.ceil(settings.batch_size * (1 - settings.holdout_share)), settings.batch_size - held_out)
    drawn = select("random", pool, round(size * settings.random_share), rng)
    left = pool.candidates.copy()
    left[drawn.rows] = False
    ranking = select(
        settings.strategy,
        replace(pool, candidates=left),
        size - len(drawn.rows),
        rng,
        pool_size=settings.pool_size,
        power=settings.power,
    )
    return interleave(_queries(pool, ranking, "strategy"), _queries(pool, drawn, "random"), rng)


def _queries(pool: Pool, ranking: Ranking, arm: Arm) -> list[Query]:
    return [
        Query(int(pool.ids[row]), 0, arm, float(acquisition), reason)
        for row, acquisition, reason in zip(ranking.rows, ranking.acquisition, ranking.reasons, strict=True)
    ]


def with_guesses(queries: Sequence[Query], corpus: Corpus | None, model: LoadedModel | None) -> list[Query]:
    """The queries with what the model says of each; of those that are asked for blindly nothing is said."""
    guessed = [i for i, query in enumerate(queries) if query.arm not in BLIND]
    complete = list(queries)
    if corpus is None or model is None or not guessed:
        return complete
    tasks = np.searchsorted(corpus.rows.ids, [queries[i].task_id for i in guessed])
    for i, row in zip(guessed, model.head.predict_proba(corpus.vectors(tasks)), strict=True):
        prediction = predicted(row, model.head.classes, multiple=model.head.multilabel)
        complete[i] = replace(queries[i], confidence=prediction.confidence, prediction=prediction.labels)
    return complete
