"""A version as a file to take away: checked on images of the project before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_backend.encoding import Encoding
from ml_backend.exports.finished_head import FinishedHead, Finisher
from ml_backend.image_sample import sample_images
from ml_backend.learning.export_formats import Export, Format, export_model
from ml_backend.learning.record import Record
from ml_backend.predictor import Predictor
from ml_backend.store.projects import Project
from ml_backend.store.version import Version

SAMPLE = 64


@dataclass(frozen=True)
class ModelExporter:
    """Writes versions to files. finisher: trains on accepted labels, where that is asked for. store_id: where they come from."""

    predictor: Predictor
    encoding: Encoding
    finisher: Finisher
    store_id: str
    seed: int

    def finished(self, project: Project, version: Version) -> FinishedHead:
        """What `save` writes in place of the version's own head, where accepted labels are to teach it, too.

        Raises InvalidInputError where the project has none.
        """
        return self.finisher.head(project, self.predictor.stored(project, version.number).encoder)

    def save(
        self, project: Project, version: Version, kind: Format, path: Path, finished: FinishedHead | None = None
    ) -> Export:
        """Write a version to `path`, read it back and compare it on images of the project; then it gets its name.

        Raises InvalidInputError where no image of the project can be read, BackendError where the copy does not agree.
        """
        model = self.predictor.stored(project, version.number)
        head, record = (finished.head, finished.record) if finished else (model.head, Record.load(version.folder))
        images = sample_images(project, self.encoding, SAMPLE, np.random.default_rng(self.seed))
        origin = {"store": self.store_id, "project": str(project.key)}
        name = f"{version.name}-accepted" if finished else version.name
        return export_model(model.encoder, head, path, kind, version=name, images=images, origin=origin, record=record)
