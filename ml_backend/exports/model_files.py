"""A version as a file to take away: checked on images of the project before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_backend.encoding import Encoding
from ml_backend.image_sample import sample_images
from ml_backend.learning.export_formats import Export, Format, export_model
from ml_backend.learning.record import Record
from ml_backend.predictor import Predictor
from ml_backend.store.model_versions import Version
from ml_backend.store.projects import Project

SAMPLE = 64


@dataclass(frozen=True)
class ModelExporter:
    """Writes versions to files. store_id: where they come from."""

    predictor: Predictor
    encoding: Encoding
    store_id: str
    seed: int

    def save(self, project: Project, version: Version, kind: Format, path: Path) -> Export:
        """Write a version to `path`, read it back and compare it on images of the project; then it gets its name.

        Raises InvalidInputError where no image of the project can be read, BackendError where the copy does not agree.
        """
        model = self.predictor.stored(project, version.number)
        record = Record.load(version.folder)
        images = sample_images(project, self.encoding, SAMPLE, np.random.default_rng(self.seed))
        origin = {"store": self.store_id, "project": str(project.key)}
        return export_model(
            model.encoder, model.head, path, kind, version=version.name, images=images, origin=origin, record=record
        )
