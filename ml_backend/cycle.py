"""One turn of the loop. This module alone knows the order; each step lives in a module of its own under `steps`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ml_backend.project_settings import settings_of
from ml_backend.services import Services
from ml_backend.steps import change_encoder, choose, hold_out
from ml_backend.steps.corpus import Corpus
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round

Result = TypeVar("Result")

PART = 2.0
"""Seconds that a turn makes vectors for, of an encoder that is to serve."""
LONG = 10.0
"""Seconds after which what was read of the labels is read again."""

Counter = Callable[[int, int], None]
Progress = Callable[[float, str], None]
"""Told how far the turn is, 0 to 1, and what it is doing. May raise to cancel it."""


@dataclass
class Outcome:
    """What one turn came to: seconds a step, the version served, the round pushed (None: the queue stays)."""

    seconds: dict[str, float] = field(default_factory=dict)
    version: int = 0
    round: Round | None = None
    labels_changed: int = 0
    labelled: int = 0

    def summary(self) -> dict[str, Any]:
        """What is kept with the job."""
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        served = self.round.served_name if self.round else None
        return {
            "seconds": seconds,
            "version": self.version,
            "served": served,
            "labels_changed": self.labels_changed,
            "labelled": self.labelled,
        }


def run(
    project: Project,
    services: Services,
    on_progress: Progress,
    *,
    full: bool = False,
    check_paused: Callable[[], None] = lambda: None,
) -> Outcome:
    """First order, labels, features, tidy, hold out, train and promote, audit, score and choose, push and verify, advise, next encoder.

    full: compare with all of the project instead of what changed. check_paused: called while images are encoded; may raise
    TurnPausedError, and the next turn goes on from there. Raises LabelStudioUnavailableError when Label Studio
    is away: what was computed is kept, and the next turn pushes it.
    """
    ledger, queue_pusher = services.ledger, services.queue_pusher
    timer = _Timer(on_progress, check_paused)
    timer.step("first order", 0.0, lambda: services.first_order.serve(project))
    project, corpus = _read(project, services, timer, full=full)
    project = ledger.project(project.key)  # somebody may have chosen other settings since
    settings = settings_of(project, services.settings)
    timer.step("tidy", 0.6, lambda: queue_pusher.tidy(project, idle=not timer.outcome.labels_changed))
    corpus = timer.step("hold out", 0.6, lambda: hold_out.reach(project, corpus, ledger, settings))
    model = timer.step("train", 0.6, lambda: services.trainer.train(project, corpus, timer.part(0.6, 0.7)))
    corpus = timer.step(
        "rescore", 0.7, lambda: services.corpus_builder.in_own_vectors(project, corpus, model, timer.within(0.7, 0.8))
    )
    rows = corpus.rows if corpus else ledger.pool(project)
    audit = timer.step("audit", 0.8, lambda: services.auditing.advance(project, rows))
    blind = services.acceptances.is_blind(project)
    round_ = timer.step(
        "choose", 0.8, lambda: choose.choose(project, corpus, model, ledger, settings, audit, blind=blind)
    )
    spare = choose.spare(project, corpus, round_, ledger, settings)
    served = timer.step("push", 0.9, lambda: queue_pusher.serve(project, round_, spare))
    timer.step("advise", 0.95, lambda: services.advisor.advise(project, corpus, model))
    _change_encoder(project, services, timer)
    timer.outcome.round, timer.outcome.version = served, served.version
    timer.outcome.labelled = ledger.counts(project).labelled
    return timer.outcome


def _read(project: Project, services: Services, timer: _Timer, *, full: bool) -> tuple[Project, Corpus | None]:
    """Labels and vectors as they are now.

    Where the images took long, people have labelled meanwhile: that is trained on, too, and not asked for again, and the
    next turn, for which they wait, has little left to catch up with.
    """
    project, report = timer.step("labels", 0.0, lambda: services.label_sync.sync(project, full=full))
    project = services.encoder_change.settle(project)
    corpus = timer.step(
        "features",
        0.1,
        lambda: services.corpus_builder.encode_missing(project, timer.within(0.1, 0.55), tell=timer.telling(0.1)),
    )
    timer.outcome.labels_changed = report.labels_touched
    if timer.outcome.seconds["features"] > LONG:
        project, report = timer.step(
            "labels since", 0.55, lambda: services.label_sync.sync(project, full=False, lazily=True)
        )
        corpus = timer.step(
            "features since", 0.56, lambda: services.corpus_builder.encode_missing(project, timer.within(0.56, 0.6))
        )
        timer.outcome.labels_changed += report.labels_touched
    return project, corpus


def _change_encoder(project: Project, services: Services, timer: _Timer) -> None:
    """Some more vectors of an encoder that was set since; most are made while there is no turn (`worker.encoder_changes`).

    Where something is in its way, that is tried again there: no turn waits for a host that does not answer.
    """
    change, until = services.encoder_change, time.monotonic() + PART

    def tell(done: int, total: int) -> None:
        timer.on_progress(0.97, f"{done} of {total} vectors of the next encoder")

    coming, reached = services.ledger.project(project.key).state.next_encoder, None
    if coming is not None and coming.problem is None:
        reached = timer.step(
            "next encoder", 0.97, lambda: change.go_on(project, lambda: time.monotonic() > until, tell)
        )
    if reached == "all there":
        services.jobs.mark_due(project, immediately=True, reason=change_encoder.REASON)
    change.tidy(project)


class _Timer:
    """Times the steps and reports progress."""

    def __init__(self, on_progress: Progress, check_paused: Callable[[], None]) -> None:
        self.on_progress = on_progress
        self.check_paused = check_paused
        self.outcome = Outcome()

    def step(self, name: str, start: float, do: Callable[[], Result]) -> Result:
        self.on_progress(start, name)
        began = time.perf_counter()
        result = do()
        self.outcome.seconds[name] = time.perf_counter() - began
        return result

    def part(self, start: float, end: float) -> Progress:
        """Progress of a step that says by itself how far it is and what it is doing, mapped onto its part of the turn."""
        return lambda share, doing: self.on_progress(start + (end - start) * share, doing)

    def telling(self, start: float) -> Callable[[str], None]:
        """For what has no share of its own in the turn, and may take long all the same."""

        def tell(doing: str) -> None:
            self.on_progress(start, doing)
            self.check_paused()

        return tell

    def within(self, start: float, end: float) -> Counter:
        """Progress of a step that counts things, mapped onto its part of the turn."""

        def count(done: int, total: int) -> None:
            self.on_progress(start + (end - start) * done / max(total, 1), f"{done} of {total} images")
            self.check_paused()

        return count
