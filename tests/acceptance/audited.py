"""A bench whose model is good enough for an audit, and people who answer what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ml_backend.acceptance import auditing
from ml_backend.acceptance.auditing import Begun
from ml_backend.records import Query
from ml_backend.store.acceptances import Acceptance
from ml_backend.store.rounds import Round
from tests.bench import Bench, without_label_studio

ERROR = 0.05


def trained(folder: Path) -> Bench:
    """400 tasks, 60 of them labelled, 30 of these held out, and one version, with its queue."""
    made = Bench(folder, tasks=400, measured=30)
    made.label(*range(1, 61))
    made.turn()
    return made


def begin(bench: Bench, error: float = ERROR, confidence: float = 0.95) -> Begun:
    with without_label_studio(bench):
        return bench.services.auditing.begin(bench.project, error, confidence, by="ann@example.org")


def begin_as_ever(bench: Bench) -> None:
    """Begin an audit that asks for the same tasks in each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditing, "drawn_seed", lambda: 1)
        begin(bench)


def certify(bench: Bench) -> Acceptance:
    with without_label_studio(bench):
        return bench.services.certifying.certify(bench.project, by="bob@example.org")


def queue(bench: Bench) -> tuple[Round, list[Query]]:
    """The last round and what it asks for."""
    round_ = bench.services.ledger.last_round(bench.project)
    assert round_ is not None
    return round_, bench.services.ledger.queries(round_)


def answer(bench: Bench, *tasks: int) -> None:
    """Say what the model says of these tasks."""
    acceptance = bench.services.acceptances.last(bench.project)
    assert acceptance is not None
    frozen = bench.services.acceptances.frozen(acceptance)
    said = dict(zip(frozen.ids.tolist(), frozen.labels.tolist(), strict=True))
    for task in tasks:
        bench.label(task, as_=acceptance.classes[said[task]])


def contradict(bench: Bench, *tasks: int) -> None:
    """Say something else of these tasks than the model does."""
    answer(bench, *tasks)
    kinds = sorted(set(bench.truth.values()))
    for task in tasks:
        (said,) = bench.answers[task]
        bench.label(task, as_=kinds[kinds.index(said) - 1])


def answer_all(bench: Bench, *wrong: int) -> list[int]:
    """Answer what the audit asks for, turn by turn, until it asks for nothing: as the model does, but for those in `wrong`."""
    seen: list[int] = []
    bench.turn()
    while (round_ := queue(bench)[0]).strategy == "audit":
        asked = [query.task_id for query in queue(bench)[1] if query.task_id not in bench.answers]
        assert asked, f"{round_.served_name} asks for nothing"
        answer(bench, *(task for task in asked if task not in wrong))
        contradict(bench, *(task for task in asked if task in wrong))
        seen += asked
        bench.turn()
    return seen


def drawn(bench: Bench, many: int | None = None) -> list[int]:
    """The first tasks in the order drawn; all that are asked for at first."""
    acceptance = bench.services.acceptances.last(bench.project)
    assert acceptance is not None
    frozen = bench.services.acceptances.frozen(acceptance)
    return [int(task) for task in frozen.ids[acceptance.order[: acceptance.drawn if many is None else many]]]


def accept(bench: Bench, labels: Mapping[int, str], certificate: str) -> None:
    """Have Label Studio hold these as accepted labels."""
    for task, label in labels.items():
        bench.label(task, as_=label)
        bench.accepted[task] = certificate


def take_back(bench: Bench, *tasks: int) -> None:
    for task in tasks:
        for kept in (bench.answers, bench.answered, bench.accepted):
            del kept[task]
