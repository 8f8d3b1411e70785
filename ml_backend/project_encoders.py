"""The encoder of each project: an imported model's, or one built once for the settings and then kept on disk."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml_backend.encoding import Encoding
from ml_backend.errors import DamagedError, InvalidInputError, NotFoundError
from ml_backend.image_sample import images_to_fit_on
from ml_backend.predictor import Predictor
from ml_backend.settings import Settings
from ml_backend.store.folders import sync_tree
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project

if TYPE_CHECKING:
    from ml_backend.learning.encoders import Encoder

logger = logging.getLogger(__name__)


@dataclass
class ProjectEncoders:
    """Builds encoders, or loads them, and keeps them in memory."""

    versions: Versions
    predictor: Predictor
    encoding: Encoding
    settings: Settings
    built: dict[Path, Encoder] = field(default_factory=dict)  # by the folder they are kept in

    def of(self, project: Project, tick: Callable[[], None] = lambda: None) -> Encoder:
        """Return the project's encoder: an imported model's, or one built once for the settings and then kept.

        tick: called while images are read to learn it from. Raises ImageError while too few of them can be read.
        """
        settings = self.settings
        if (imported := self._imported(project)) is not None:
            return imported
        choice = f"{settings.encoder} {settings.encoder_weights} {settings.seed}"
        slug = hashlib.sha256(choice.encode()).hexdigest()[:12]
        folder = settings.data_dir / "encoders" / str(project.id) / slug
        cached = self.built.get(folder)
        if cached is None:
            cached = _stored(folder, settings.trusted_encoders) or self._build(project, folder, tick)
            self.built[folder] = cached
        return cached

    def _imported(self, project: Project) -> Encoder | None:
        """The encoder of the imported model: from its own files, else from those of a version trained on its vectors.

        None where nothing was imported, or where nobody has the encoder any more: then the images are encoded anew.
        """
        number = project.state.imported
        if not number:
            return None
        versions = self.versions.list(project)
        ids = {version.number: version.meta.encoder.id for version in versions}
        problem = "there is no such version"
        for version in sorted(versions, key=lambda version: version.number != number):
            if ids[version.number] != ids.get(number):
                continue
            if version.folder in self.built:
                return self.built[version.folder]
            try:
                self.built[version.folder] = self.predictor.encoder(project, version.number)
            except (NotFoundError, InvalidInputError) as error:
                problem = str(error)
            else:
                return self.built[version.folder]
        logger.warning(
            "%s: the encoder of v%d, which was imported, is lost (%s). Training goes on with ML_BACKEND_ENCODER.",
            project.key,
            number,
            problem,
        )
        return None

    def _build(self, project: Project, folder: Path, tick: Callable[[], None]) -> Encoder:
        from ml_backend.learning.encoders import build_encoder  # noqa: PLC0415 - torch

        settings = self.settings
        weights = Path(settings.encoder_weights) if settings.encoder_weights else None
        rng = np.random.default_rng([settings.seed, project.id])
        encoder = build_encoder(
            settings.encoder,
            weights=weights,
            sample=lambda size: images_to_fit_on(project, self.encoding, size, rng, tick),
            seed=settings.seed,
        )
        temporary = folder.with_name(f".writing-{folder.name}")
        temporary.mkdir(parents=True, exist_ok=True)
        encoder.save(temporary)
        sync_tree(temporary)  # a power cut must not leave an encoder that cannot be read
        temporary.rename(folder)
        return encoder


def _stored(folder: Path, trusted: Collection[str]) -> Encoder | None:
    """The encoder that was built before; None where there is none. A damaged one is set aside, to be built again."""
    from ml_backend.learning.encoders import load_encoder  # noqa: PLC0415 - torch

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
