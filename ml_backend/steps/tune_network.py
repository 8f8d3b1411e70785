"""Train the network itself on a project's labels, in step 3; and tell whether that is better than the head alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoders.encoder import Encoder
from ml_backend.encoders.networks import NetworkEncoder
from ml_backend.encoders.pipeline import Encoded, encode_all
from ml_backend.encoding import Encoding
from ml_backend.errors import ImageAwayError, ImageError
from ml_backend.images.decoding import decode
from ml_backend.learning.finetuning import FineTuned, Refitted, finetune, refit, tunable
from ml_backend.learning.head import Head
from ml_backend.learning.prepared_pictures import AWAY, PreparedPictures
from ml_backend.learning.tuning_run import OnProgress, Recipe
from ml_backend.records import Task
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.store.ledger import Ledger
from ml_backend.store.project_files import ProjectFiles
from ml_backend.store.projects import Project

logger = logging.getLogger(__name__)

HeadAlone = Callable[[Examples], Head]
READ, TUNED = 0.1, 0.9
"""How far a fine-tuning is once the pictures are read, and once the network is trained."""


@dataclass(frozen=True)
class Tuned:
    """A network of its own, and a head on top. encoded: content hashes and vectors of all images that it was asked about."""

    encoder: NetworkEncoder
    refitted: Refitted
    held_out: Examples
    encoded: tuple[Sequence[str], NDArray[np.float16]]
    told: Mapping[str, Any]


@dataclass(frozen=True)
class NetworkTuner:
    """Fine-tunes the encoder of a project."""

    ledger: Ledger
    encoding: Encoding
    checkpoints: ProjectFiles
    settings: Settings
    store_id: str

    def tune(
        self, project: Project, corpus: Corpus, examples: Examples, alone: HeadAlone, on_progress: OnProgress
    ) -> Tuned | None:
        """Train on `examples`, none of which is held out; None where too few of their images can be had, or it diverged.

        alone: what would serve without a network of its own, had it learned from some of these: it pays to be better than that.

        An image that went away is left out, and the log says so. Raises ImageAwayError where many cannot be fetched for the
        time being, ConfigError where the encoder is no network, and what `on_progress` raises.
        """
        encoder = tunable(corpus.encoder)
        waiting = corpus.examples(held_out=True)
        tasks = self._tasks(project, corpus, np.concatenate([examples.tasks, waiting.tasks]))
        with self._pictures(project, corpus, encoder, examples, tasks) as pictures:
            pictures.fill(
                lambda n: on_progress(
                    READ * n / len(examples.tasks), f"{n} of {len(examples.tasks)} images to train on"
                )
            )
            _tell(project, pictures.gone, len(examples.tasks))
            learned = examples.at(pictures.rows)
            if len(np.unique(learned.targets, axis=0)) < 2:
                return None
            tuned = finetune(
                encoder,
                pictures,
                learned.targets,
                corpus.classes,
                seed=self.settings.seed,
                recipe=Recipe(part=self.settings.finetune_part, rank=self.settings.lora_rank),
                features=learned.features,
                checkpoint=self.checkpoints.path(project.id),
                owner=f"{self.store_id} {project.key}",
                on_progress=lambda share, doing: on_progress(READ + (TUNED - READ) * share, doing),
            )
        if tuned.diverged:
            return None
        return self._finished(project, corpus, tuned, learned, waiting, tasks, alone, on_progress)

    def _finished(
        self,
        project: Project,
        corpus: Corpus,
        tuned: FineTuned,
        learned: Examples,
        waiting: Examples,
        tasks: Mapping[int, Task],
        alone: HeadAlone,
        on_progress: OnProgress,
    ) -> Tuned:
        """With a head, on vectors as they are made of all images: what serves is what was measured."""

        def encoding(done: int, total: int) -> None:
            on_progress(TUNED + (1 - TUNED) * done / max(total, 1), "encoding with the tuned network")

        vectors = self._encode(
            project, tuned.encoder, {at: tasks[at] for at in (*learned.tasks, *waiting.tasks)}, encoding
        )
        there = np.flatnonzero(vectors.has(learned.tasks))
        refitted = refit(
            vectors.of(learned.tasks[there]),
            learned.features[there],
            learned.targets[there],
            corpus.classes,
            np.flatnonzero(np.isin(there, tuned.validate)),
            seed=self.settings.seed,
            alone=lambda rows: alone(learned.at(there[rows])),
        )
        shown = np.flatnonzero(vectors.has(waiting.tasks))
        held_out = replace(waiting.at(shown), features=vectors.of(waiting.tasks[shown]), undecided=waiting.undecided)
        told = {
            "part": self.settings.finetune_part,
            "epochs": len(tuned.history),
            "best_epoch": tuned.best.number,
            "validation": {"n": refitted.n, "finetuned": refitted.tuned, "head_alone": refitted.frozen},
        }
        return Tuned(tuned.encoder, refitted, held_out, (vectors.hashes, vectors.rows), told)

    def _tasks(self, project: Project, corpus: Corpus, at: NDArray[np.int64]) -> dict[int, Task]:
        """The tasks at these positions of the corpus, by position; not those that are gone by now."""
        ids = corpus.rows.ids[at].tolist()
        found = {task.id: task for task in self.ledger.tasks(project, ids)}
        return {place: found[task] for place, task in zip(at.tolist(), ids, strict=True) if task in found}

    def _pictures(
        self, project: Project, corpus: Corpus, encoder: NetworkEncoder, examples: Examples, tasks: Mapping[int, Task]
    ) -> PreparedPictures:
        places = examples.tasks.tolist()

        def prepare(place: int) -> NDArray[np.uint8]:
            task = tasks.get(places[place])
            if task is None:
                raise ImageError("Its task was deleted.")
            return encoder.prepare(decode(self.encoding.read(project, task), encoder.input_size))

        names = [digest.decode() for digest in corpus.rows.hashes[examples.tasks].tolist()]
        side, most = encoder.preprocessing.crop, self.settings.finetune_cache_gb * 10**9
        return PreparedPictures(names, prepare, (side, side, 3), self.checkpoints.root, most=most)

    def _encode(
        self, project: Project, encoder: Encoder, tasks: Mapping[int, Task], progress: Callable[[int, int], None]
    ) -> _Vectors:
        """Raises what reading raised where it does not concern one image alone."""
        vectors = _Vectors(encoder.dim)
        found: Encoded[int] = encode_all(
            list(tasks), lambda at: self.encoding.read(project, tasks[at]), encoder, vectors.add, progress=progress
        )
        vectors.at = found.hashes
        for error in found.failed.values():
            if not isinstance(error, ImageError):
                raise error
        gone = {at: error for at, error in found.failed.items() if isinstance(error, ImageError)}
        away = [error for error in gone.values() if isinstance(error, ImageAwayError)]
        if len(away) > AWAY * len(tasks):
            raise away[0]
        _tell(project, gone, len(tasks))
        return vectors


class _Vectors:
    """Vectors by content hash, two bytes a number; `at`: hash of the image at each position of the corpus."""

    def __init__(self, dim: int) -> None:
        self.at: Mapping[int, str] = {}
        self.hashes: list[str] = []
        self._parts: list[NDArray[np.float16]] = [np.empty((0, dim), np.float16)]

    def add(self, hashes: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self.hashes += hashes
        self._parts.append(vectors.astype(np.float16))

    @property
    def rows(self) -> NDArray[np.float16]:
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def has(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.array([at in self.at for at in positions.tolist()], np.bool_)

    def of(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        place = {key: row for row, key in enumerate(self.hashes)}
        return self.rows[[place[self.at[at]] for at in positions.tolist()]]


def _tell(project: Project, gone: Mapping[int, ImageError], count: int) -> None:
    if gone:
        first = next(iter(gone.values()))
        logger.warning("%s: %d of %d images are left out of training: %s", project.key, len(gone), count, first)


def no_better(tuned: Tuned | None) -> str:
    """Why the head alone is the version."""
    if tuned is None:
        return "Fine-tuning came to nothing: too few images can be read, or it diverged. The head alone was trained."
    found = tuned.refitted
    return (
        f"Fine-tuning makes it no better ({found.tuned} of {found.n} labels kept aside right, {found.frozen} by the head "
        "alone): the head alone was trained."
    )
