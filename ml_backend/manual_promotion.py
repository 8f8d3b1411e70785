"""Which version answers, chosen by a person: promote (an earlier one: roll back), pin, unpin; and two of them compared.

What is chosen is served at once, and the project is due, so that the queue follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.services import Services
from ml_backend.status import version_status
from ml_backend.store.model_versions import Version
from ml_backend.store.projects import Project
from ml_backend.wording import amount


def promote(services: Services, project: Project, number: int) -> Version:
    """Serve this version until a better version is trained. Raises ConflictError while another one is pinned."""
    return _followed(services, project, services.versions.promote(project, number))


def roll_back(services: Services, project: Project) -> Version:
    """Serve the version that was served before. Raises ConflictError where there is none."""
    return _followed(services, project, services.versions.roll_back(project))


def pin(services: Services, project: Project, number: int) -> Version:
    """Serve this version until it is unpinned, whatever is trained meanwhile."""
    return _followed(services, project, services.versions.pin(project, number))


def unpin(services: Services, project: Project) -> Version | None:
    """Serve the newest version that was good enough, and each better one from now on; returns it."""
    served = services.versions.unpin(project)
    services.jobs.mark_due(project, immediately=True, reason="unpinned")
    return served


def listed(services: Services, project: Project) -> list[dict[str, Any]]:
    """All versions, newest first; `served` and `pinned` say which one answers."""
    current, pinned = services.versions.current(project), services.versions.pinned(project)
    return [
        version_status(version)
        | {"served": (served := current is not None and version.number == current.number), "pinned": served and pinned}
        for version in services.versions.list(project)
    ]


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same held-out tasks, as they are labelled now. Without `measured` they cannot be compared.

    measured: of each, as `learning.metrics` measures it. verdict: what that says, or why nothing can be said.
    """

    measured: tuple[dict[str, Any], ...]
    verdict: str


def compare(services: Services, project: Project, first: Version, second: Version) -> Comparison:
    """Ask both versions about every held-out task that has a label and vectors of both; neither has learned from one."""
    try:
        asked = [_asked(services, project, version) for version in (first, second)]
    except (NotFoundError, InvalidInputError, OtherLabelsError) as error:
        return Comparison((), _not(first, second, str(error)))
    _, *at = np.intersect1d(asked[0].tasks, asked[1].tasks, return_indices=True)
    if not len(at[0]):
        return Comparison((), _not(first, second, "no held-out task has a label that both versions know."))
    before, now = (each.at(places) for each, places in zip(asked, at, strict=True))
    return _judged(services, project, first, second, before, now)


@dataclass(frozen=True)
class _Answers:
    """A version's answers: tasks (n,) ids, probabilities (n, C), targets (n,) or (n, C), right (n,)."""

    tasks: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    targets: NDArray[Any]
    right: NDArray[np.bool_]

    def at(self, places: NDArray[np.int64]) -> _Answers:
        return _Answers(self.tasks[places], self.probabilities[places], self.targets[places], self.right[places])


def _asked(services: Services, project: Project, version: Version) -> _Answers:
    """Its answers to the measured tasks; those that it learned from, or that have no vector of its encoder, are left out."""
    from ml_backend.learning.record import Record  # noqa: PLC0415 - torch takes seconds: a list does not wait
    from ml_backend.steps.corpus import Corpus  # noqa: PLC0415
    from ml_backend.steps.encode_images import places  # noqa: PLC0415
    from ml_backend.steps.promotion import unseen  # noqa: PLC0415

    model = services.predictor.load(project, version.number)
    if not model.fits:
        raise OtherLabelsError(f"{version.name} was trained for other labels than the project has now.")
    rows = services.ledger.pool(project)
    at = places(services.features, model.encoder, rows.hashes)
    if not (at >= 0).any():
        nothing = np.zeros(0, dtype=np.int64)
        return _Answers(nothing, np.zeros((0, 0), dtype=np.float32), nothing, np.zeros(0, dtype=np.bool_))
    matrix = services.features.matrix(model.encoder.id)
    corpus = Corpus(rows, at, matrix, model.encoder, project.schema.labels, project.schema.multiple)
    examples = unseen(Record.load(version.folder), corpus, corpus.examples(held_out=True))
    probabilities = model.head.predict_proba(examples.features)
    return _Answers(rows.ids[examples.tasks], probabilities, examples.targets, examples.right(probabilities))


def _judged(
    services: Services, project: Project, first: Version, second: Version, before: _Answers, now: _Answers
) -> Comparison:
    from ml_backend.learning.evaluation import significantly_worse  # noqa: PLC0415 - torch
    from ml_backend.learning.metrics import measured  # noqa: PLC0415

    alpha = services.settings.promotion_alpha
    verdict = "No clear difference: it takes more held-out labels to show a smaller one."
    if significantly_worse(before.right, now.right, alpha=alpha):
        verdict = f"{second.name} is better."
    elif significantly_worse(now.right, before.right, alpha=alpha):
        verdict = f"{first.name} is better."
    both = tuple(measured(each.probabilities, each.targets, project.schema.labels) for each in (before, now))
    return Comparison(both, f"Compared on the same {amount(len(now.tasks), 'held-out task')}. {verdict}")


def _not(first: Version, second: Version, why: str) -> str:
    return f"{first.name} and {second.name} cannot be compared: {why}"


def _followed(services: Services, project: Project, version: Version) -> Version:
    """Have the queue follow the version that a person chose."""
    services.jobs.mark_due(project, immediately=True, reason=f"{version.name} chosen by hand")
    return version
