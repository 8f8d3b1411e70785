"""Step 2: encode the images not seen before, each exactly once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoding import Encoded
from ml_backend.errors import DamagedError, ImageError
from ml_backend.learning.encoders import Encoder, load_encoder
from ml_backend.services import Services
from ml_backend.steps.corpus import Corpus
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.wording import amount

logger = logging.getLogger(__name__)

WAITING = "images_waiting"
"""Set in a project's settings while images are not read because their hosts are away."""


def encode_missing(
    project: Project, services: Services, progress: Callable[[int, int], None], encoder: Encoder | None = None
) -> Corpus | None:
    """Bring the feature store up to date; None while the project has no task with a readable image.

    Images that could not be read are tried again when their time has come. What `progress` raises ends the work, and
    nothing done is lost.
    encoder: another than the project's own: that of a fine-tuned version.
    """
    rows = services.ledger.pool(project)
    if not len(rows.ids) or (rows.failed & rows.resting).all():
        return None
    try:
        encoder = encoder or services.encoders.of(project, lambda: progress(0, len(rows.ids)))
    except ImageError as error:
        _tell(project, services, str(error))
        return None
    missing = (places(services.features, encoder, rows.hashes) < 0) & ~rows.resting
    waiting = None
    if missing.any():
        ids = rows.ids[missing]
        tasks = services.ledger.tasks(project, ids.tolist())
        found = services.encoding.encode(project, encoder, tasks, lambda done: progress(done, len(ids)))
        waiting = _waiting(found)
        rows = services.ledger.pool(project)
    _tell(project, services, waiting)
    services.encoding.kept.pop(project.id, None)
    at = places(services.features, encoder, rows.hashes)
    if not (at >= 0).any():
        return None
    matrix = services.features.matrix(encoder.id)
    return Corpus(rows, at, matrix, encoder, project.schema.labels, project.schema.multiple)


def _waiting(found: Encoded) -> str | None:
    """What is to be told of images that were not even asked for, because their host is away."""
    if not found.untried:
        return None
    reason = found.errors[min(found.untried)]
    return f"{amount(len(found.untried), 'image')} cannot be fetched at present, and will be by itself: {reason}"


def _tell(project: Project, services: Services, waiting: str | None) -> None:
    """Keep with the project why images are not read yet, for its status."""
    if project.settings.get(WAITING) != waiting:
        services.ledger.configure(project, **{WAITING: waiting})
    if waiting:
        logger.warning("%s: %s", project.key, waiting)


def places(features: FeatureStore, encoder: Encoder, hashes: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """(N,) row of each image's vector in the feature store, -1 where it was not encoded yet or has no hash."""
    at = np.full(len(hashes), -1, dtype=np.int64)
    known = np.flatnonzero(hashes != b"")
    at[known] = features.rows(encoder.id, [digest.decode() for digest in hashes[known].tolist()])
    return at


def _stored(folder: Path, trusted: Collection[str]) -> Encoder | None:
    """The encoder that was built before; None where there is none. A damaged one is set aside, to be built again."""
    if not folder.exists():
        return None
    try:
        return load_encoder(folder, trusted)
    except DamagedError:
        aside = folder.with_name(f".damaged-{folder.name}")
        logger.error(  # noqa: TRY400 - where it broke is of no use to anybody
            "The encoder in %s cannot be read: it was moved to %s, and is built again.", folder, aside
        )
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        return None
