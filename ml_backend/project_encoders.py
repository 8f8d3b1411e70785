"""The encoder of each project: an imported model's, or one built once for the settings and then kept on disk."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
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
from ml_backend.store.encoder_origins import folder_of, note_origin, slug_of
from ml_backend.store.folders import sync_tree
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_state import ServingEncoder
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder
    from ml_backend.encoders.encoder_choice import Chosen

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Told what is being done, in a few words; may raise."""

WRITING, DAMAGED = ".writing-", ".damaged-"
"""What folders begin with that are no encoder: one on its way, and one that cannot be read."""

ABANDONED_S = 3600.0
IMPORTED = "imported"
"""The choice of a project whose encoder came with a model."""


@dataclass(frozen=True)
class Choice:
    """What the settings say. slug: of all that decides what is built. name: as it was set."""

    slug: str
    name: str


@dataclass
class ProjectEncoders:
    """Builds encoders, or loads them, and keeps them in memory."""

    versions: Versions
    predictor: Predictor
    encoding: Encoding
    settings: Settings
    built: dict[Path, Encoder] = field(default_factory=dict)  # by the folder they are kept in
    patches: dict[Path, Chosen] = field(default_factory=dict)  # why they are, by the folder they will be kept in
    told: set[str] = field(default_factory=set)

    def of(self, project: Project, tick: Callable[[], None] = lambda: None, tell: Tell | None = None) -> Encoder:
        """Return the encoder in service, whose vectors are trained on.

        An imported model's; else the one that has served so far, as long as it can be loaded, whatever was set since; else that of
        the settings, built once and then kept.

        tick: called while weights are downloaded and while images are read to learn it from; what it raises ends that, and the
        next call goes on with what is left. tell: called in its place where there is something to say of a download.
        Raises ImageError while too few images can be read, and what `choose` and `build_encoder` raise.
        """
        if (imported := self._imported(project)) is not None:
            return imported
        before = self.before(project)
        return (before and self.former(project, before)) or self.build(project, tick, tell)

    def noted(self, project: Project, encoder: Encoder) -> ServingEncoder:
        """What is to be known of the encoder in service."""
        choice, before = self.wanted.slug, self.before(project)
        if project.state.imported and encoder is not self.built.get(self._folder(project, choice)):
            choice = IMPORTED
        elif before is not None and before.id == encoder.id:
            choice = before.choice
        return ServingEncoder(choice=choice, name=encoder.name, id=encoder.id)

    @property
    def wanted(self) -> Choice:
        """What the settings ask for."""
        settings = self.settings
        return Choice(slug_of(settings), settings.encoder)

    def before(self, project: Project) -> ServingEncoder | None:
        """What has served so far, where that is another than the settings ask for.

        None where it is not, where nothing has, or where it was an imported model's.
        """
        wanted, known = self.wanted.slug, project.state.encoder
        if known is None and not _is_of_use(self._folder(project, wanted)):
            known = self._of_an_earlier_release(project)
        return None if known is None or known.choice in {wanted, IMPORTED} else known

    def former(self, project: Project, serving: ServingEncoder) -> Encoder | None:
        """The encoder that has served so far: as it was built, else from a version that has it.

        None, which is told, where neither can be loaded: its class may be gone.
        """
        folder = self._folder(project, serving.choice)
        if folder in self.built:
            return self.built[folder]
        found, problem = self._loaded(project, folder, serving.id)
        if found is not None:
            self.built[folder] = found
        elif (key := f"{project.id} {serving.id}") not in self.told:
            self.told.add(key)
            logger.warning(
                "%s: the encoder %s, which has served so far, cannot be loaded, so all images are encoded with %s before "
                "the next version is trained (%s)",
                project.key, serving.name, self.settings.encoder, problem,
            )  # fmt: skip
        return found

    def build(self, project: Project, tick: Callable[[], None] = lambda: None, tell: Tell | None = None) -> Encoder:
        """The encoder that the settings ask for, built unless it was. Raises what `of` does."""
        folder = self._folder(project, self.wanted.slug)
        cached = self.built.get(folder)
        if cached is None:
            cached = _stored(folder, self.settings.trusted_encoders) or self._build(project, folder, tick, tell)
            self.built[folder] = cached
        return cached

    def tidy(self, project: Project, features: FeatureStore) -> None:
        """Delete what nobody needs any more. What another project has stays.

        Encoders of this project that do not serve and are not to, unless a version has them, with their vectors; and vectors of
        encoders that pruned versions had.
        """
        state = project.state
        if state.encoder is None:
            return
        kept = {known.choice for known in (state.encoder, state.next_encoder) if known}
        folders = (self.settings.data_dir / "encoders" / str(project.id)).glob("*")
        doomed = [path for path in folders if path.name.removeprefix(DAMAGED) not in kept and not _on_its_way(path)]
        pruned = features.encoder_ids() & set(self.versions.unused_encoders(project))
        if not (doomed or pruned) or (needed := self._needed(set(doomed))) is None:
            return
        for path in doomed:
            known = _id_of(path)
            if known in needed and not path.name.startswith("."):
                continue  # its versions may be served again, or trained on: then it need not be built anew
            if known and known not in needed:
                features.drop(known)
            shutil.rmtree(path, ignore_errors=True)
            self.built.pop(path, None)
        for known in pruned - needed:
            features.drop(known)

    def _needed(self, but: Collection[Path]) -> set[str] | None:
        """Ids of all encoders that a version on disk or a project has, leaving out these folders.

        None where that cannot be told, as a file cannot be read.
        """
        folders = [path for path in (self.settings.data_dir / "encoders").glob("*/*") if path not in but]
        ids = [_id_of(path) for path in folders if not path.name.startswith(".")]
        of_versions = self.versions.folders.encoder_ids()
        if None in ids or of_versions is None:
            return None
        return {*(known for known in ids if known), *of_versions, *self.encoding.ledger.encoder_ids()}

    def _folder(self, project: Project, slug: str) -> Path:
        return folder_of(self.settings, project, slug)

    def _of_an_earlier_release(self, project: Project) -> ServingEncoder | None:
        """Which did not note what serves: what the newest version was trained on."""
        for version in self.versions.list(project):
            base = version.meta.trained_on.get("encoder") if isinstance(version.meta.trained_on, dict) else None
            if known := base or version.meta.encoder.id:
                folders = (self.settings.data_dir / "encoders" / str(project.id)).glob("[!.]*")
                choice = next((path.name for path in folders if _id_of(path) == known), "")
                return ServingEncoder(choice=choice or known, name=version.meta.encoder.name or known, id=known)
        return None

    def _loaded(self, project: Project, folder: Path, encoder_id: str) -> tuple[Encoder | None, str]:
        """The encoder of that folder, or of a version that has the same; and why there is none."""
        problem = "nobody has its files any more"
        folders = [v.folder for v in self.versions.list(project) if v.meta.encoder.id == encoder_id]
        for path in (folder, *folders):
            if path.exists():
                try:
                    return load_saved(path, self.settings.trusted_encoders), ""
                except Exception as error:  # noqa: BLE001 - a class of somebody's own, gone or broken
                    problem = str(error)
        return None, problem

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

    def _chosen(self, folder: Path, tell: Callable[[str], None]) -> Chosen:
        """What the settings come to. Where that is `patches`, it is kept: no later turn waits once more for nobody to answer."""
        from ml_backend.encoders.encoder_choice import choose  # noqa: PLC0415 - torch
        from ml_backend.encoders.weight_files import Fetching  # noqa: PLC0415

        if (known := self.patches.get(folder)) is not None:
            return known
        settings = self.settings
        weights = Path(settings.encoder_weights) if settings.encoder_weights else None
        found = choose(settings.encoder, weights, Fetching(settings.downloads == "yes", tell))
        if found.name == "patches":
            self.patches[folder] = found
        return found

    def _build(self, project: Project, folder: Path, tick: Callable[[], None], tell: Tell | None) -> Encoder:
        from ml_backend.encoders.encoder import build_encoder  # noqa: PLC0415 - torch

        settings, chosen = self.settings, self._chosen(folder, tell or (lambda _doing: tick()))
        rng = np.random.default_rng([settings.seed, project.id])
        encoder = build_encoder(
            chosen.name,
            weights=chosen.weights,
            sample=lambda size: images_to_fit_on(project, self.encoding, size, rng, tick),
            seed=settings.seed,
            fit=None if settings.fit == "auto" else settings.fit,
        )
        temporary = folder.with_name(f"{WRITING}{folder.name}-{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
        try:
            encoder.save(temporary)
            note_origin(temporary, chosen.origin)
            sync_tree(temporary)  # a power cut must not leave an encoder that cannot be read
            temporary.rename(folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and folder.exists():  # another process was faster: one for all
                return load_saved(folder, settings.trusted_encoders)
            raise
        return encoder


def load_saved(folder: Path, trusted: Collection[str]) -> Encoder:
    """As `load_encoder`, without torch until then."""
    from ml_backend.encoders.encoder import load_encoder  # noqa: PLC0415 - torch

    return load_encoder(folder, trusted)


def _on_its_way(folder: Path) -> bool:
    """Whether somebody may be writing an encoder there; one who was killed is not, an hour later."""
    try:
        return folder.name.startswith(WRITING) and time.time() - folder.stat().st_mtime < ABANDONED_S
    except FileNotFoundError:
        return True


def _id_of(folder: Path) -> str | None:
    """Of a saved encoder; None where that cannot be read, "" where there is none yet."""
    try:
        return str(json.loads((folder / "encoder.json").read_bytes())["id"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_of_use(folder: Path) -> bool:
    """Whether an encoder was built there whose vectors can be kept: releases up to 0.2 gave timm's networks ids that no store took."""
    return folder.exists() and ":" not in (_id_of(folder) or "")


def _stored(folder: Path, trusted: Collection[str]) -> Encoder | None:
    """The encoder that was built before; None where there is none. A damaged one is set aside, to be built again."""
    if not _is_of_use(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    try:
        return load_saved(folder, trusted)
    except DamagedError:
        aside = folder.with_name(f"{DAMAGED}{folder.name}")
        logger.error(  # noqa: TRY400 - where it broke is of no use to anybody
            "The encoder in %s cannot be read: it was moved to %s, and is built again.", folder, aside
        )
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        return None
