"""Step 3: train a candidate on the labels, measure it on the held-out slice, and serve it unless it is worse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoding import read_image
from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.learning.classifier import Head
from ml_backend.learning.encoders import Encoder
from ml_backend.learning.evaluation import confidences, confident_from, significantly_worse, wilson_interval
from ml_backend.learning.finetuning import encode, finetune
from ml_backend.learning.images import decode
from ml_backend.learning.training import TrainedHead, TrainingReport, train_head
from ml_backend.services import Services
from ml_backend.serving import LoadedModel
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.store.projects import Project
from ml_backend.store.versions import Verdict, Version

logger = logging.getLogger(__name__)

Alive = Callable[[str], None]
"""Told what is being done; what it raises ends that."""

RIGHT = 0.9
"""Guesses are ticked where they are right in at least this share of cases."""
ENOUGH = 25
"""Fewer answers cannot show that, all of them right."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be served.

    out_of_sample: (n,) whether it is right on each training row, asked by folds, and how sure it was; empty where the
    folds do not tell.
    """

    encoder: Encoder
    head: Head
    report: TrainingReport
    held_out: Examples
    out_of_sample: NDArray[np.bool_]
    confidence: NDArray[np.floating[Any]]


def _unwatched(_doing: str) -> None:
    """Let it go on."""


def train(project: Project, services: Services, corpus: Corpus | None, alive: Alive = _unwatched) -> LoadedModel | None:
    """Return the model to serve: the candidate, or the current one where nothing is new or the candidate is worse.

    alive: told what is being done, often; what it raises ends the step, and nothing is published then.
    """
    current = services.predictor.current(project)
    if corpus is None:
        return current
    settings = services.settings
    digest = trained_on(project, services, corpus.encoder.id)
    versions = services.versions.list(project)
    if versions and _stands(versions[0], digest, services) and (current or services.versions.pinned(project)):
        return current
    examples = corpus.examples(held_out=False)
    if len(np.unique(examples.targets, axis=0)) < 2:
        return current
    fit = _finetuned if settings.mode == "finetune" else _refitted
    candidate = fit(project, services, corpus, examples, alive)
    reason = _worse(candidate, corpus, current, _imported(versions, current), services)
    _publish(project, services, candidate, digest, reason, _confident_from(candidate, current), alive)
    return services.predictor.current(project)


def trained_on(project: Project, services: Services, encoder_id: str | None) -> dict[str, Any]:
    """All that decides what a training comes to: where it is the same as a version's, that version would come out again."""
    return {
        "labels": services.ledger.label_digest(project),
        "classes": list(project.schema.labels),
        "multiple": project.schema.multiple,
        "encoder": encoder_id,
        "mode": services.settings.mode,
        "seed": services.settings.seed,
    }


def _stands(version: Version, digest: dict[str, Any], services: Services) -> bool:
    """Whether training would give this version again, which is there and was judged."""
    there = services.versions.folders.there(version.project_id, version.number)
    return version.meta.get("trained_on") == digest and version.state != "candidate" and there


def _refitted(project: Project, services: Services, corpus: Corpus, examples: Examples, _alive: Alive) -> Candidate:
    """A head, trained cold on the stored vectors; where the project started from a model, from that one's head."""
    prior = _prior(project, services, corpus)
    trained = train_head(examples.features, examples.targets, corpus.classes, seed=services.settings.seed, prior=prior)
    held_out = corpus.examples(held_out=True)
    return Candidate(corpus.encoder, trained.head, trained.report, held_out, *_by_folds(trained, examples))


def _prior(project: Project, services: Services, corpus: Corpus) -> Head | None:
    """The imported model's head, as long as it answers in the project's labels."""
    number = project.settings.get("imported")
    version = next((v for v in services.versions.list(project) if v.number == number), None)
    if version is None or not version.fits(project.schema) or version.meta["encoder"]["id"] != corpus.encoder.id:
        return None
    try:
        return services.predictor.head(project, version.number)
    except (NotFoundError, InvalidInputError, OtherLabelsError):
        return None


def _finetuned(project: Project, services: Services, corpus: Corpus, examples: Examples, alive: Alive) -> Candidate:
    """The whole network, from the weights the project started with, and a head on top."""
    going = partial(alive, "fine-tuning")
    pixels, targets = _pictures(project, services, corpus, examples.tasks, going)
    tuned = finetune(corpus.encoder, pixels, targets, corpus.classes, seed=services.settings.seed, alive=going)
    waiting = corpus.examples(held_out=True)
    shown, answers = _pictures(project, services, corpus, waiting.tasks, going)
    vectors = encode(tuned.encoder, shown, going)
    held_out = Examples(vectors.astype(np.float16), answers, waiting.tasks)
    # Its folds are of no use: the network they stand on has seen every label.
    unknown = np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.float32)
    return Candidate(tuned.encoder, tuned.trained.head, tuned.trained.report, held_out, *unknown)


def _pictures(
    project: Project, services: Services, corpus: Corpus, tasks: NDArray[np.int64], going: Callable[[], None]
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Pictures (n, h, w, 3) as the encoder takes them, and their targets. Raises ImageError for one that went away."""
    ids = corpus.rows.ids[tasks].tolist()
    encoder = corpus.encoder
    images = []
    for task in services.ledger.tasks(project, ids):
        going()
        images.append(encoder.prepare(decode(read_image(project, services, task), encoder.input_size)))
    return np.stack(images) if images else np.empty((0,), np.uint8), corpus.targets(tasks)


def _by_folds(trained: TrainedHead, examples: Examples) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
    probabilities = trained.report.fold_probabilities
    if probabilities is None:
        return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.float32)
    return examples.right(probabilities), confidences(probabilities, multilabel=examples.targets.ndim == 2)


def _confident_from(candidate: Candidate, current: LoadedModel | None) -> float | None:
    """The confidence from which on guesses are right 9 times in 10, on answers the model has not seen.

    With too few of them to tell, what holds for the version in service.
    """
    correct, confidence = [candidate.out_of_sample], [candidate.confidence]
    if len(candidate.held_out.targets):
        probabilities = candidate.head.predict_proba(candidate.held_out.features)
        correct.append(candidate.held_out.right(probabilities))
        confidence.append(confidences(probabilities, multilabel=candidate.head.multilabel))
    if sum(map(len, correct)) < ENOUGH:
        return current.confident_from if current else None
    return confident_from(np.concatenate(confidence), np.concatenate(correct), RIGHT)


def _publish(
    project: Project,
    services: Services,
    candidate: Candidate,
    digest: dict[str, Any],
    reason: str | None,
    ticked: float | None,
    alive: Alive,
) -> None:
    """Keep the candidate as a new version; serve it unless there is a reason against it or another one is pinned."""
    encoder = candidate.encoder
    meta = {
        "classes": list(candidate.head.classes),
        "multiple": candidate.head.multilabel,
        "encoder": {"name": encoder.name, "id": encoder.id, "dim": encoder.dim},
        "metrics": {"holdout": accuracy(candidate.held_out.correct(candidate.head))},
        "confident_from": ticked,
        "labels": candidate.report.n,
        "training": {k: v for k, v in vars(candidate.report).items() if k != "fold_probabilities"},
        "mode": services.settings.mode,
        "seed": services.settings.seed,
        "trained_on": digest,
        "reserved_share": project.reserved_share,  # learned from no image whose place is below this
    }

    def write(folder: Path) -> None:
        candidate.head.save(folder)
        encoder.save(folder)

    number = services.versions.next_number(project)
    services.versions.publish(project, number, write, meta, verdict=Verdict(reason), check=partial(alive, "publish"))
    if reason is not None:
        logger.warning("%s: v%d is kept but not served: %s", project.key, number, reason)
    services.versions.prune(project, keep=services.settings.keep_versions)


def accuracy(correct: NDArray[np.bool_]) -> dict[str, float | int | None]:
    """Held-out accuracy with its 95 % Wilson interval; None before anything held out is labelled."""
    if not len(correct):
        return {"n": 0, "accuracy": None, "low": None, "high": None}
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {"n": len(correct), "accuracy": float(correct.mean()), "low": low, "high": high}


def _imported(versions: Sequence[Version], current: LoadedModel | None) -> bool:
    """Whether the model in service came from elsewhere, so that it has seen none of the project's labels."""
    return any(current is not None and v.number == current.number and v.meta.get("mode") == "import" for v in versions)


def _worse(
    candidate: Candidate, corpus: Corpus, current: LoadedModel | None, imported: bool, services: Services
) -> str | None:
    """Say why the candidate must not be served, None if it may.

    An imported model is replaced only by one that is right at least as often: it has seen no label, so all of them
    measure it, and the candidate is measured by its folds.
    """
    if current is None or not current.fits:
        return None
    now = candidate.held_out.correct(candidate.head)
    before = _answers(current, corpus, candidate.held_out, services)
    if imported and len(candidate.out_of_sample):
        before = np.concatenate([before, _answers(current, corpus, corpus.examples(held_out=False), services)])
        now = np.concatenate([now, candidate.out_of_sample])
        if len(before) == len(now) and now.sum() < before.sum():
            return f"{int(now.sum())} of {len(now)} labelled tasks right, v{current.number} has {int(before.sum())}"
        return None
    if not len(now) or len(before) < len(now):
        return None
    if not significantly_worse(now, before, alpha=services.settings.promotion_alpha):
        return None
    return f"{int(now.sum())} of {len(now)} held-out tasks right, v{current.number} has {int(before.sum())}"


def _answers(model: LoadedModel, corpus: Corpus, examples: Examples, services: Services) -> NDArray[np.bool_]:
    """(n,) whether a version is right on the examples, by vectors of its own encoder; empty where one is missing."""
    hashes = [digest.decode() for digest in corpus.rows.hashes[examples.tasks].tolist()]
    at = services.features.rows(model.encoder.id, hashes)
    if (at < 0).any():
        return np.zeros(0, dtype=np.bool_)
    vectors = services.features.matrix(model.encoder.id)[at]
    return Examples(vectors, examples.targets, examples.tasks).correct(model.head)
