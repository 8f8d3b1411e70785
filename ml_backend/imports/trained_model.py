"""Start a project from a model trained elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.encoders.encoder import Encoder
from ml_backend.encoders.networks import Preprocessing
from ml_backend.encoding import Encoding
from ml_backend.errors import InvalidInputError
from ml_backend.image_sample import sample_images
from ml_backend.learning.export_formats import load_bundle
from ml_backend.learning.head import Head
from ml_backend.learning.pretrained import LabelMatch, import_classifier, match_labels
from ml_backend.learning.record import Record
from ml_backend.settings import Settings
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.version import Verdict, Version
from ml_backend.store.version_meta import EncoderMeta, VersionMeta

SAMPLE = 64


@dataclass(frozen=True)
class ModelSource:
    """A model trained elsewhere, and what is known of it.

    path: a folder that `export model` wrote, or a state dict of `model_type` (torchvision or `timm:`), read without
    running code. input_size: pixels a side it was trained on, where neither the file nor the model type's weights say so.
    """

    path: Path
    model_type: str | None = None
    class_names: Sequence[str] | None = None
    n_classes: int | None = None
    input_size: int | None = None


@dataclass(frozen=True)
class ModelImporter:
    """Makes a model that was trained elsewhere a version of a project."""

    ledger: Ledger
    jobs: Jobs
    versions: Versions
    encoding: Encoding
    label_sync: LabelSync
    settings: Settings

    def start_from(self, project: Project, source: ModelSource) -> tuple[Version, LabelMatch]:
        """Publish and promote the model, and train on its features from now on.

        Raises InvalidInputError where file, model type and names do not fit; the message lists what differs.
        """
        encoder, head, match = self._read(project, source)
        bundle = _bundle_meta(source.path)
        own = _same_project(project, bundle)
        meta = VersionMeta(
            classes=head.classes,
            encoder=EncoderMeta(name=encoder.name, id=encoder.id, dim=encoder.dim),
            multiple=head.multilabel,
            mode="import",
            imported_from=source.path.name,
            labels_matched=match.matched,
            knows_labels=own,
            origin=bundle.get("origin"),
        )

        record = Record.load(source.path)

        def write(folder: Path) -> None:
            head.save(folder)
            encoder.save(folder)
            if record is not None:
                record.save(folder)

        number = self.versions.next_number(project)
        self.versions.check_pin(project, number)
        version = self.versions.publish(project, number, write, meta, verdict=Verdict())
        self.ledger.configure(project, imported=number)
        self.jobs.mark_due(project, immediately=True, reason=f"started from {source.path.name}")
        return version, match

    def match(self, project: Project, source: ModelSource) -> LabelMatch:
        """How the names of its classes match the project's labels; nothing is published. Raises what `start_from` does."""
        return self._read(project, source)[2]

    def _read(self, project: Project, source: ModelSource) -> tuple[Encoder, Head, LabelMatch]:
        path, size = source.path, source.input_size
        labels, multiple = project.schema.labels, project.schema.multiple
        if not path.exists():
            raise InvalidInputError(f"There is no {path}: name a model file, or a folder written by `export model`.")
        if path.is_dir():
            encoder, head, _ = load_bundle(path, self.settings.trusted_encoders)
            match = match_labels(labels, head.classes)
            if match.labels_without_class or head.multilabel != multiple:
                raise InvalidInputError(f"{path.name} does not predict this project's labels: {match}.")
            order = [head.classes.index(match.matched[label]) for label in labels]
            return encoder, Head(labels, head.weight[order], head.bias[order], head.temperature, multiple), match
        if source.model_type is None:
            raise InvalidInputError(
                f"Say which network {path.name} belongs to, for example with --model-type resnet18."
            )
        if not len(self.ledger.pool(project).ids):
            project, _ = self.label_sync.sync(project, full=True)
        images = sample_images(project, self.encoding, SAMPLE, np.random.default_rng(self.settings.seed))
        imported = import_classifier(
            path,
            model_type=source.model_type,
            labels=labels,
            class_names=source.class_names,
            n_classes=source.n_classes,
            multilabel=multiple,
            preprocessing=Preprocessing(resize=size, crop=size) if size else None,
            sample=images,
        )
        return imported.encoder, imported.head, imported.match


def _bundle_meta(path: Path) -> dict[str, Any]:
    """What a bundle says of itself; nothing for a state dict."""
    return dict(json.loads((path / "meta.json").read_text(encoding="utf-8"))) if path.is_dir() else {}


def _same_project(project: Project, bundle: Mapping[str, Any]) -> bool:
    """Whether the model may have learned from this project's labels: a bundle that names no origin may, a state dict not."""
    origin = bundle.get("origin")
    return bool(bundle) and (not isinstance(origin, dict) or origin.get("project") in (None, str(project.key)))
