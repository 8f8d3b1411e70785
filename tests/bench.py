"""A project whose images are vectors made here: turns of the loop with all of it but Label Studio and pictures."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend import cycle
from ml_backend.encoders.encoder import build_encoder
from ml_backend.labelstudio.config import label_config
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.first_order import FirstOrder
from ml_backend.steps.promotion import Promotion
from ml_backend.steps.push_queue import QueuePusher
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.projects import Project
from ml_backend.store.reconcile import ReconcileReport
from ml_backend.store.version import Version
from tests.other_settings import use
from tests.slices import held_out

HOST = "http://127.0.0.1:9"
KINDS = ("cat", "dog", "owl")


class Blobs:
    """An encoder that is never asked: all vectors are there."""

    dim = 8
    version = "1"

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        raise AssertionError(f"{len(images)} images were encoded")


class Wider(Blobs):
    dim = 12


ENCODERS = {"tests.bench:Blobs": 8, "tests.bench:Wider": 12}


class Bench:
    """Tasks 1 to `tasks`, whose truth goes round the kinds; the first `measured` of them are held out."""

    def __init__(
        self,
        folder: Path,
        *,
        kinds: Sequence[str] = KINDS,
        multiple: bool = False,
        tasks: int = 120,
        measured: int = 20,
    ) -> None:
        self.settings = Settings(
            data_dir=folder, label_studio_url=HOST, label_studio_api_key="k" * 40, encoder="tests.bench:Blobs",
            batch_size=5,
        )  # fmt: skip
        self.services = Services.open(self.settings)
        self.ids = list(range(1, tasks + 1))
        self.answers: dict[int, tuple[str, ...]] = {}
        self.answered: dict[int, datetime] = {}
        self.accepted: dict[int, str] = {}  # of the answers, those accepted of a model: the certificate
        self.truth = {i: kinds[i % len(kinds)] for i in self.ids}
        self.configure(kinds, multiple=multiple)
        self._read()
        self.services.ledger.set_content_hash(self.project, {i: self.hash_of(i) for i in self.ids})
        for encoder in ENCODERS:
            self._encode(encoder)
        held_out(self.services.ledger, self.project, *self.ids[:measured])

    def copied(self, folder: Path) -> Bench:
        """The same in a folder of its own, so that the turns up to here are not run again."""
        shutil.copytree(self.settings.data_dir, folder)
        twin = copy.copy(self)
        twin.answers, twin.answered, twin.accepted = dict(self.answers), dict(self.answered), dict(self.accepted)
        twin.settings = self.settings.model_copy(update={"data_dir": folder})
        twin.services = Services.open(twin.settings)
        return twin

    @property
    def project(self) -> Project:
        return self.services.ledger.projects()[0]

    @property
    def versions(self) -> Sequence[Version]:
        return self.services.versions.list(self.project)

    def hash_of(self, task: int) -> str:
        return f"{task * 7919 % 104729:064x}"

    def configure(self, kinds: Sequence[str], *, multiple: bool = False) -> None:
        """Change the label config, as Label Studio's settings would."""
        self.services.registry.register(HOST, 1, label_config(kinds, multiple=multiple), created=None)

    def set(self, **settings: Any) -> None:
        self.settings = use(self.services, **settings)

    def label(self, *tasks: int, as_: str | None = None) -> None:
        """Answer tasks by their truth, or all of them with this name."""
        for task in tasks:
            self.answers[task] = (as_ or self.truth[task],)
            self.answered[task] = datetime.now(UTC)

    def turn(self) -> cycle.Outcome:
        """One turn of the loop."""
        with without_label_studio(self):
            return cycle.run(self.project, self.services, lambda _share, _what: None)

    def corpus(self) -> Corpus:
        corpus = self.services.corpus_builder.encode_missing(self.project, lambda *_: None)
        assert corpus is not None
        return corpus

    @property
    def promotion(self) -> Promotion:
        return self.services.trainer.promotion

    def guesses(self) -> dict[int, str]:
        """What `/predict` says of every task that is not held out, whether it would be ticked or not."""
        self.set(prelabels="always")
        tasks = [{"id": i, "data": {"image": f"/{i}.png"}} for i in self.ids]
        told = self.services.predictor.predict(self.project, tasks)
        return {i: t["result"][0]["value"]["choices"][0] for i, t in zip(self.ids, told, strict=True) if t["result"]}

    def _read(self) -> tuple[Project, ReconcileReport]:
        now = datetime.now(UTC)
        listing = [
            (Task(i, f"/{i}.png", {"image": f"/{i}.png"}, now), [self._annotation(i)] if i in self.answers else [])
            for i in self.ids
        ]
        report = self.services.ledger.reconcile(self.project, listing, full=True)
        return self.project, report

    def _annotation(self, task: int) -> Annotation:
        then = self.answered[task]
        return Annotation(task, task, self.answers[task], False, False, 1, then, then, accepted=self.accepted.get(task))

    def _encode(self, name: str) -> None:
        """Vectors around one centre a kind, so that a linear head can tell them apart."""
        rng = np.random.default_rng(len(name))
        encoder = build_encoder(name, sample=lambda _: [])
        kinds = sorted(set(self.truth.values()))
        vectors = 0.25 * rng.normal(size=(len(self.ids), encoder.dim))
        vectors[np.arange(len(self.ids)), [kinds.index(self.truth[i]) for i in self.ids]] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.services.features.append(encoder.id, [self.hash_of(i) for i in self.ids], vectors)


@contextmanager
def without_label_studio(bench: Bench) -> Iterator[None]:
    """The steps that speak to Label Studio, without one: labels are the bench's, a queue is served as it is pushed."""
    ledger = bench.services.ledger
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FirstOrder, "serve", lambda *_: None)
        patch.setattr(LabelSync, "sync", lambda *_, **__: bench._read())
        patch.setattr(QueuePusher, "tidy", lambda *_, **__: None)
        patch.setattr(QueuePusher, "serve", lambda _self, _project, round_, _spare: ledger.mark_pushed(round_))
        yield
