"""Predictions: the current version in memory, swapped as a whole; unseen images are encoded once and kept.

torch is imported with the first model, so that what only asks the store answers at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ml_backend import split
from ml_backend.encoding import no_image
from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.labelstudio.queue import LIVE
from ml_backend.labelstudio.results import prediction_result, task_from_json
from ml_backend.records import LabelSchema, Prediction, Task
from ml_backend.settings import Settings
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from ml_backend.store.vectors import FeatureStore
from ml_backend.store.version import Version
from ml_backend.store.version_meta import FROM_NAMES, UNCALIBRATED
from ml_backend.unlisted_images import UnlistedImages
from ml_backend.wording import encodable

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder
    from ml_backend.learning.fold_heads import FoldHeads
    from ml_backend.learning.head import Head

logger = logging.getLogger(__name__)

Part = TypeVar("Part")


@dataclass(frozen=True)
class LoadedModel:
    """One version, ready to predict. `number` is its place in the project's history.

    head: answers in the project's present labels. confident_from: the confidence from which on its guesses are ticked;
    None: not known, so that none is. fits: it was trained for these labels. blind: what strategies ask, which has learned
    from no held-out image; None where there is too little else, or it has learned from no label: what names make of an image may be
    wrong everywhere, and spread-out questions find that out as well.
    """

    number: int
    encoder: Encoder
    head: Head
    blind: Head | None
    confident_from: float | None = UNCALIBRATED
    fits: bool = True


@dataclass(frozen=True)
class _Served:
    """The queue Label Studio has: which score each of its tasks was given."""

    round: Round
    scores: Mapping[int, float]


def serving_score(rank: int, total: int) -> float:
    """Score of place `rank` (from 0) in a batch of `total`: in (0, LIVE), lowest served first."""
    return LIVE * (rank + 1) / (total + 1)


def live_score(belief: Prediction | None) -> float:
    """Score of a task outside the batch: the confidence, so that it is served after the batch; LIVE where there is none."""
    return max(LIVE, belief.confidence) if belief else LIVE


def predicted(probabilities: NDArray[np.float32], names: Sequence[str], *, multiple: bool) -> Prediction:
    """Turn (C,) probabilities into a prediction: the top class, or every class at 0.5 or more.

    The confidence is the top class's probability; for several labels, that of the least certain class being as said.
    """
    from ml_backend.learning.evaluation import confidences  # noqa: PLC0415 - scipy

    if multiple:
        chosen = tuple(name for name, p in zip(names, probabilities, strict=True) if p >= 0.5)
    else:
        chosen = (names[int(probabilities.argmax())],)
    confidence = float(confidences(probabilities[None], multilabel=multiple)[0])
    return Prediction(chosen, confidence, tuple(float(p) for p in probabilities))


def confident_from_meta(version: Version, schema: LabelSchema) -> float | None:
    """The confidence from which on a version's guesses are ticked, as `meta.json` has it.

    None for a version that was trained for other labels: what it does not know it takes for something else.
    """
    return version.meta.confident_from if version.fits(schema) else None


def ticked_from(project: Project, policy: str, confident_from: float | None) -> float | None:
    """The confidence from which on a guess is ticked when its image opens, by ML_BACKEND_PRELABELS; None: none is.

    A guess that is ticked is half an answer. Where each task is labelled more than once nobody is shown one, so that
    the opinions are independent, and the second annotator sees what the first one saw.
    """
    if policy == "never" or project.state.overlap > 1:
        return None
    return 0.0 if policy == "always" else confident_from


def named(head: Head, schema: LabelSchema, name: str) -> Head:
    """A version's head, by name, in the labels of the project. Raises OtherLabelsError where it cannot answer in them."""
    if head.multilabel != schema.multiple or not set(head.classes) & set(schema.labels):
        raise OtherLabelsError(f"{name} was trained for other labels than the project has now.")
    return head.named(schema.labels)


def _head(folder: Path) -> Head:
    from ml_backend.learning.head import Head  # noqa: PLC0415 - torch

    return _whole(Head.load, folder)


def _whole(load: Callable[[Path], Part], folder: Path) -> Part:
    from safetensors import SafetensorError  # noqa: PLC0415 - with torch

    try:
        return load(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidInputError(
            f"{folder} is not a complete model version ({error}): choose another version, or train a new one."
        ) from error


class Predictor:
    """Answers `/predict`. Safe to call from several threads."""

    def __init__(
        self,
        ledger: Ledger,
        versions: Versions,
        features: FeatureStore,
        unlisted: UnlistedImages,
        acceptances: Acceptances,
        settings: Settings,
    ) -> None:
        self.ledger = ledger
        self.versions = versions
        self.features = features
        self.unlisted = unlisted
        self.acceptances = acceptances
        self.settings = settings
        self._models: dict[int, tuple[LoadedModel, LabelSchema]] = {}  # with the labels that it answers in
        self._mute: set[tuple[int, int, str]] = set()
        self._queues: dict[int, _Served] = {}
        self._loading = threading.Lock()

    def answering(self, project: Project) -> LoadedModel:
        """As `current`. Raises NotFoundError, with what to do, where there is none."""
        model = self.current(project)
        if model is None:
            raise NotFoundError(
                f"{project.title!r} has no model that answers: label two images of different classes, then run "
                "`ml-backend sync run`."
            )
        return model

    def current(self, project: Project) -> LoadedModel | None:
        """The promoted version, answering in the project's present labels; None before the first.

        None as well where it cannot answer: its files are gone or damaged, or it was trained for other labels altogether.
        """
        version = self.versions.current(project)
        if version is None:
            return None
        model, schema = self._models.get(project.id, (None, None))
        if model is None or (model.number, schema) != (version.number, project.schema):
            with self._loading:
                try:
                    model = self.load(project, version.number)
                except (NotFoundError, InvalidInputError, OtherLabelsError) as error:
                    self._log_once(project, version, str(error))
                    return None
                self._models[project.id] = model, project.schema
        return model

    def load(self, project: Project, number: int) -> LoadedModel:
        """A version as it answers now. Raises NotFoundError where its files are gone, and what `stored`, `named` raise."""
        version, model = self.versions.version(project, number), self.stored(project, number)
        return replace(
            model,
            head=named(model.head, project.schema, version.name),
            blind=model.blind and named(model.blind, project.schema, version.name),
            confident_from=confident_from_meta(version, project.schema),
            fits=version.fits(project.schema),
        )

    def head(self, project: Project, number: int) -> Head:
        """The head alone, answering in the project's present labels; raises what `load` does."""
        version = self.versions.version(project, number)
        return named(_head(self.versions.folder(version)), project.schema, version.name)

    def fold_heads(self, project: Project, number: int) -> FoldHeads:
        """What answers for the held-out images of a version, in the project's present labels; raises what `load` does."""
        from ml_backend.learning.fold_heads import FoldHeads  # noqa: PLC0415 - torch

        version = self.versions.version(project, number)
        found = _whole(FoldHeads.load, self.versions.folder(version))
        return FoldHeads(tuple(named(head, project.schema, version.name) for head in found.heads))

    def stored(self, project: Project, number: int) -> LoadedModel:
        """A version as it was trained. Raises NotFoundError or InvalidInputError where its files are not whole."""
        from ml_backend.learning.fold_heads import blind_head  # noqa: PLC0415 - torch

        version = self.versions.version(project, number)
        folder = self.versions.folder(version)
        head = _head(folder)
        blind = None if version.meta.mode == FROM_NAMES else blind_head(folder, head)
        return LoadedModel(number, self.encoder(project, number), head, blind)

    def encoder(self, project: Project, number: int) -> Encoder:
        """The encoder of a version; raises what `stored` does."""
        from ml_backend.encoders.encoder import load_encoder  # noqa: PLC0415 - torch

        return load_encoder(
            self.versions.folder(self.versions.version(project, number)), self.settings.trusted_encoders
        )

    def _log_once(self, project: Project, version: Version, why: str) -> None:
        """Log once that a version cannot answer."""
        if (project.id, version.number, why) not in self._mute:
            self._mute.add((project.id, version.number, why))
            logger.warning("%s: %s is served, but makes no guesses: %s", project.key, version.name, why)

    def served_name(self, project: Project) -> str:
        """Return the version name Label Studio has now: `v<model>-r<round>`, v0-r0 before the first queue."""
        round_ = self.ledger.current_round(project)
        return round_.served_name if round_ else "v0-r0"

    def served_names(self, project: Project) -> list[str]:
        """All names under which a queue was served, newest first."""
        return [r.served_name for r in self.ledger.rounds(project) if r.pushed_at] or ["v0-r0"]

    def predict(self, project: Project, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One Label Studio prediction a task, in order. An unreadable image gets an empty one that says why.

        A held-out task, whether it is in the queue or not, gets one without a guess, so that no opinion leans on it; so does
        every task while an audit is on: any may be drawn next, and what was answered may be changed.
        """
        queue, model = self._queue(project), self.current(project)
        asked = [task_from_json(project.schema, dict(task)) for task in tasks]
        beliefs, contents = self._beliefs(project, model, asked)
        least = ticked_from(project, self.settings.prelabels, model.confident_from) if model else None
        least = None if self.acceptances.is_blind(project) else least
        ids = [int(task["id"]) for task in tasks]
        held_out = self._held_out(project, ids, contents)
        return [
            self._answer(project, task_id, belief, queue, None if place in held_out else least)
            for place, (task_id, belief) in enumerate(zip(ids, beliefs, strict=True))
        ]

    def _held_out(self, project: Project, task_ids: Sequence[int], contents: Mapping[int, str]) -> set[int]:
        """Which of the tasks, by their place here, the split holds out: by the image shown, and by what the ledger knows."""
        share = project.state.reserved_share
        if share is None:  # no turn yet: a share that a first turn of whatever size stays within
            share = split.reserved_share(self.settings.holdout_share, self.settings.holdout_first, 0)
        known, seed = self.ledger.held_out(project, task_ids), project.state.split_seed
        by_ledger = {place for place, task_id in enumerate(task_ids) if task_id in known}
        return by_ledger | {place for place, content in contents.items() if split.place(content, seed) < share}

    def _answer(
        self, project: Project, task_id: int, belief: Prediction | None, queue: _Served | None, least: float | None
    ) -> dict[str, Any]:
        """least: the confidence from which on a guess is shown; None: none is."""
        result: list[dict[str, Any]] = []
        if belief and not belief.error and least is not None and belief.confidence >= least:
            result = prediction_result(project.schema, belief.labels, belief.confidence)
        score = queue.scores.get(task_id) if queue else None
        if score is None:
            score = live_score(belief)
        name = queue.round.served_name if queue else "v0-r0"
        answer: dict[str, Any] = {"model_version": name, "score": score, "result": result}
        if belief is not None and belief.error:
            answer["error"] = belief.error
        return answer

    def _beliefs(
        self, project: Project, model: LoadedModel | None, tasks: Sequence[Task]
    ) -> tuple[list[Prediction | None], Mapping[int, str]]:
        """What this version says of each task, None where there is no version yet; content hashes by place."""
        if model is None:
            return [None if t.image else Prediction((), 0.0, error=no_image(project, t)) for t in tasks], {}
        vectors, contents, errors = self._vectors(project, model.encoder, tasks)
        found: dict[int, Prediction] = {}
        if vectors:
            probabilities = model.head.predict_proba(np.stack(list(vectors.values())))
            for place, row in zip(vectors, probabilities, strict=True):
                found[place] = predicted(row, model.head.classes, multiple=model.head.multilabel)
        places = range(len(tasks))
        return [found.get(place) or Prediction((), 0.0, error=errors[place]) for place in places], contents

    def _vectors(
        self, project: Project, encoder: Encoder, tasks: Sequence[Task]
    ) -> tuple[dict[int, NDArray[np.float32]], dict[int, str], dict[int, str]]:
        """Vectors and content hashes of the tasks, by their place here; and why the others have none. Writes nothing.

        What is stored counts for tasks whose image is the one that the ledger has; any other is looked at anew, for it
        is the caller's word alone.
        """
        last = {task.id: task.image for task in tasks}
        known = self.ledger.content_hashes(project, tasks)
        places = [place for place, t in enumerate(tasks) if t.id in known and t.image == last[t.id]]
        rows = self.features.rows(encoder.id, [known[tasks[place].id] for place in places])
        stored = {place: int(row) for place, row in zip(places, rows, strict=True) if row >= 0}
        matrix = self.features.matrix(encoder.id)[list(stored.values())] if stored else ()
        vectors = dict(zip(stored, matrix, strict=True))
        contents = {place: known[tasks[place].id] for place in stored}
        rest = [place for place in range(len(tasks)) if place not in stored]
        if not rest:
            return vectors, contents, {}
        new = self.unlisted.encode(project, encoder, [tasks[place] for place in rest])
        vectors |= {rest[place]: vector for place, vector in new.vectors.items()}
        contents |= {rest[place]: content for place, content in new.hashes.items()}
        return vectors, contents, {rest[place]: encodable(error) for place, error in new.errors.items()}

    def _queue(self, project: Project) -> _Served | None:
        """The round Label Studio has, with its scores; read once a round."""
        round_ = self.ledger.current_round(project)
        if round_ is None:
            return None
        known = self._queues.get(project.id)
        if known is None or known.round.number != round_.number:
            queries = self.ledger.queries(round_)
            scores = {q.task_id: serving_score(q.rank, len(queries)) for q in queries}
            known = _Served(round_, scores)
            self._queues[project.id] = known
        return known
