"""Which version answers, chosen by a person: the queue follows at once; and two versions compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.predictor import Predictor
from ml_backend.status import version_status
from ml_backend.store.jobs import Jobs
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.version import Version
from ml_backend.wording import amount


def follow(project: Project, version: Version, jobs: Jobs) -> Version:
    """Have the queue follow the version that a person chose to be served; returns it."""
    jobs.mark_due(project, immediately=True, reason=f"{version.name} chosen by hand")
    return version


def unpin(project: Project, versions: Versions, jobs: Jobs) -> None:
    """Serve the newest version that was good enough, and each better one from now on; the queue follows."""
    versions.unpin(project)
    jobs.mark_due(project, immediately=True, reason="unpinned")


def listed(project: Project, versions: Versions, *, limit: int | None = None) -> list[dict[str, Any]]:
    """All versions, newest first, or so many; `served` and `pinned` say which one answers."""
    current, pinned = versions.current(project), versions.pinned(project)
    return [
        version_status(version)
        | {"served": (served := current is not None and version.number == current.number), "pinned": served and pinned}
        for version in versions.list(project, limit=limit)
    ]


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same held-out tasks, as they are labelled now. Without `measured` they cannot be compared.

    measured: of each, as `learning.metrics` measures it. verdict: what that says, or why nothing can be said.
    """

    measured: tuple[dict[str, Any], ...]
    verdict: str


def compare(project: Project, first: Version, second: Version, predictor: Predictor, *, alpha: float) -> Comparison:
    """Ask both versions about every held-out task that has a label and vectors of both, by heads that have not learned from it.

    alpha: the level of significance at which one is called better.
    """
    try:
        answers = [_answers_to_measured_tasks(project, version, predictor) for version in (first, second)]
    except (NotFoundError, InvalidInputError, OtherLabelsError) as error:
        return Comparison((), _not(first, second, str(error)))
    _, *at = np.intersect1d(answers[0].tasks, answers[1].tasks, return_indices=True)
    if not len(at[0]):
        return Comparison((), _not(first, second, "no held-out task has a label that both versions know."))
    before, now = (each.at(places) for each, places in zip(answers, at, strict=True))
    return _judged(project, first, second, before, now, alpha=alpha)


@dataclass(frozen=True)
class _Answers:
    """A version's answers: tasks (n,) ids, probabilities (n, C), targets (n,) or (n, C), right (n,)."""

    tasks: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    targets: NDArray[Any]
    right: NDArray[np.bool_]

    def at(self, places: NDArray[np.int64]) -> _Answers:
        return _Answers(self.tasks[places], self.probabilities[places], self.targets[places], self.right[places])


def _answers_to_measured_tasks(project: Project, version: Version, predictor: Predictor) -> _Answers:
    """Its answers to the measured tasks; those without a vector of its encoder, or that what answers learned from, are left out."""
    from ml_backend.learning.record import Record  # noqa: PLC0415 - torch takes seconds: a list does not wait
    from ml_backend.steps.encode_images import corpus_of, places  # noqa: PLC0415

    model = predictor.load(project, version.number)
    if not model.fits:
        raise OtherLabelsError(f"{version.name} was trained for other labels than the project has now.")
    rows, features = predictor.ledger.pool(project), predictor.features
    at = places(features, model.encoder.id, rows.hashes)
    corpus = corpus_of(project, rows, at, model.encoder, features, predictor.versions)
    if corpus is None:
        nothing = np.zeros(0, dtype=np.int64)
        return _Answers(nothing, np.zeros((0, 0), dtype=np.float32), nothing, np.zeros(0, dtype=np.bool_))
    heads = predictor.fold_heads(project, version.number)
    examples = corpus.unseen(Record.load(version.folder), corpus.examples(held_out=True), heads)
    probabilities = heads.predict_proba(examples.features, corpus.images(examples))
    return _Answers(corpus.rows.ids[examples.tasks], probabilities, examples.targets, examples.right(probabilities))


def _judged(
    project: Project, first: Version, second: Version, before: _Answers, now: _Answers, *, alpha: float
) -> Comparison:
    from ml_backend.learning.evaluation import significantly_worse  # noqa: PLC0415 - torch
    from ml_backend.learning.metrics import measured  # noqa: PLC0415

    verdict = "No clear difference: it takes more held-out labels to show a smaller one."
    if significantly_worse(before.right, now.right, alpha=alpha):
        verdict = f"{second.name} is better."
    elif significantly_worse(now.right, before.right, alpha=alpha):
        verdict = f"{first.name} is better."
    both = tuple(measured(each.probabilities, each.targets, project.schema.labels) for each in (before, now))
    return Comparison(both, f"Compared on the same {amount(len(now.tasks), 'held-out task')}. {verdict}")


def _not(first: Version, second: Version, why: str) -> str:
    return f"{first.name} and {second.name} cannot be compared: {why}"
