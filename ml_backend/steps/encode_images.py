"""Step 2: encode the images not seen before, each exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoding import Encoded, Encoding
from ml_backend.errors import ImageError, NotFoundError
from ml_backend.learning.record import Record
from ml_backend.predictor import LoadedModel
from ml_backend.project_encoders import ProjectEncoders
from ml_backend.steps.corpus import Corpus
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rows import PoolRows
from ml_backend.store.vectors import FeatureStore
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusBuilder:
    """Encodes what is not encoded yet, and puts tasks and vectors together."""

    ledger: Ledger
    features: FeatureStore
    encoding: Encoding
    encoders: ProjectEncoders

    def encode_missing(
        self,
        project: Project,
        on_progress: Callable[[int, int], None],
        encoder: Encoder | None = None,
        tell: Callable[[str], None] = lambda _doing: None,
    ) -> Corpus | None:
        """Bring the feature store up to date; None while the project has no task with a readable image.

        Images that could not be read are tried again when their time has come. What `on_progress` raises ends the work, and
        nothing done is lost.
        encoder: another than the project's own: that of a fine-tuned version. tell: told what is downloaded for it; may raise, too.
        """
        rows = self.ledger.pool(project)
        if not len(rows.ids) or (rows.failed & rows.resting).all():
            return None
        try:
            encoder = encoder or self._in_service(project, lambda: on_progress(0, len(rows.ids)), tell)
        except ImageError as error:
            self._note_waiting(project, str(error))
            return None
        at = places(self.features, encoder.id, rows.hashes)
        missing = (at < 0) & ~rows.resting
        waiting = None
        if missing.any():
            ids = rows.ids[missing]
            tasks = self.ledger.tasks(project, ids.tolist())
            found = self.encoding.encode(project, encoder, tasks, lambda done: on_progress(done, len(ids)))
            waiting = _waiting(found)
            rows = self.ledger.pool(project)
            at = places(self.features, encoder.id, rows.hashes)
        self._note_waiting(project, waiting)
        if project.state.next_encoder is None:  # else it may be about to be learned from them
            self.encoding.kept.pop(project.id, None)
        return corpus_of(project, rows, at, encoder, self.features, self.encoders.versions)

    def in_own_vectors(
        self,
        project: Project,
        corpus: Corpus | None,
        model: LoadedModel | None,
        on_progress: Callable[[int, int], None],
    ) -> Corpus | None:
        """The corpus in the vectors of the model's own encoder: a fine-tuned one, or one from before another was set."""
        if model is None or corpus is None or model.encoder.id == corpus.encoder.id:
            return corpus
        return self.encode_missing(project, on_progress, model.encoder)

    def _in_service(self, project: Project, tick: Callable[[], None], tell: Callable[[str], None]) -> Encoder:
        encoder = self.encoders.of(project, tick, tell)
        if project.state.encoder != (serving := self.encoders.noted(project, encoder)):
            self.ledger.configure(project, encoder=serving)
        return encoder

    def _note_waiting(self, project: Project, waiting: str | None) -> None:
        """Keep with the project why images are not read yet, for its status."""
        if project.state.images_waiting != waiting:
            self.ledger.configure(project, images_waiting=waiting)
        if waiting:
            logger.warning("%s: %s", project.key, waiting)


def corpus_of(
    project: Project,
    rows: PoolRows,
    at: NDArray[np.int64],
    encoder: Encoder,
    features: FeatureStore,
    versions: Versions,
) -> Corpus | None:
    """The tasks beside their vectors of this encoder, whose `places` are `at` (N,); None where there is no vector."""
    if not (at >= 0).any():
        return None
    matrix, schema = features.matrix(encoder.id), project.schema
    return Corpus(rows, at, matrix, encoder, schema.labels, schema.multiple, _learned_before(project, versions))


def _learned_before(project: Project, versions: Versions) -> Record | None:
    """What came into the project with the model that it started from had learned from, as far as that says so.

    Of a model of this very project that is its encoder alone: its head is not gone on from.
    """
    if not project.state.imported:
        return None
    try:
        version = versions.version(project, project.state.imported)
    except NotFoundError:
        return None
    record = Record.load(version.folder)
    return record.of_encoder() if record and version.meta.knows_labels else record


def _waiting(found: Encoded) -> str | None:
    """Why images were not even asked for: their host is away. None where all were."""
    if not found.untried:
        return None
    reason = found.errors[min(found.untried)]
    return f"{amount(len(found.untried), 'image')} cannot be fetched at present, and will be by itself: {reason}"


def places(features: FeatureStore, encoder_id: str, hashes: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """(N,) row of each image's vector in the feature store, -1 where it was not encoded yet or has no hash."""
    at = np.full(len(hashes), -1, dtype=np.int64)
    known = np.flatnonzero(hashes != b"")
    at[known] = features.rows(encoder_id, [digest.decode() for digest in hashes[known].tolist()])
    return at
