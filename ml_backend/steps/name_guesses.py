"""Before and beside labels: what an encoder that reads text makes of the names of the classes.

Before the first label that is a version of its own, so that people see guesses; from then on training hears it as far as the labels
bear it out. Nobody has measured such guesses: none is ticked, no version is held against them, and they are evidence of nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.labelstudio.choice_texts import choice_texts
from ml_backend.learning.class_names import NEUTRAL, ClassName, head_of, sentences, text_vectors
from ml_backend.learning.head import Head
from ml_backend.learning.record import Record
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_files import ProjectFiles
from ml_backend.store.projects import Project
from ml_backend.store.version import Verdict, Version
from ml_backend.store.version_meta import FROM_NAMES, EncoderMeta, VersionMeta
from ml_backend.tabular import atomic_file
from ml_backend.wording import encodable, shortened

logger = logging.getLogger(__name__)

SAMPLE = 1_000
"""Images by which it is found how sure the guesses may be."""
OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class NameGuess:
    """vectors: (C + 1, d), as `text_vectors` returns them. digest: of what was asked of the text side."""

    vectors: NDArray[np.float32]
    digest: str

    def head(self, corpus: Corpus) -> Head:
        """The head that guesses from the names. Which images the corpus has decides how sure it is, and nothing else."""
        encoded = np.flatnonzero(corpus.encoded)
        first = np.sort(encoded[np.argsort(corpus.rows.hashes[encoded], kind="stable")[:SAMPLE]])
        return head_of(self.vectors, corpus.classes, corpus.vectors(first), multilabel=corpus.multiple)


@dataclass(frozen=True)
class NameGuesses:
    """Asks the text side of a project's encoder, once for each encoder and wording; a file a project keeps the answer.

    keeps: whether what was asked is written.
    """

    ledger: Ledger
    versions: Versions
    files: ProjectFiles
    settings: Settings
    keeps: bool = True

    def of(self, project: Project, corpus: Corpus, on_progress: OnProgress = lambda *_: None) -> NameGuess | None:
        """None where the encoder reads no text, its text side fails, the project started from a model, or the setting says no.

        Where it fails the log says why.
        """
        try:
            return self._asked(project, corpus, on_progress)
        except InvalidInputError as error:
            logger.warning("%s: the class names give no guesses: %s", project.key, error)
            return None

    def head(self, project: Project, corpus: Corpus) -> Head | None:
        """What `of` guesses, for who trains beside the turn."""
        guess = self.of(project, corpus)
        return guess.head(corpus) if guess else None

    def noted(self, project: Project, corpus: Corpus, on_progress: OnProgress) -> NameGuess | None:
        """As `of`; why a text side fails is kept with the project, for its status."""
        try:
            guess, problem = self._asked(project, corpus, on_progress), None
        except InvalidInputError as error:
            guess, problem = None, shortened(encodable(str(error)), 300)
            logger.warning("%s: the class names give no guesses: %s", project.key, error)
        if project.state.names_problem != problem:
            self.ledger.configure(project, names_problem=problem)
        return guess

    def publish(self, project: Project, corpus: Corpus, guess: NameGuess, trained_on: dict[str, Any]) -> Version:
        """Make the guesses a version, and serve it unless another one is pinned. It has learned from no image."""
        head, encoder = guess.head(corpus), corpus.encoder
        nothing = Record.of(np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.bool_))

        def write(folder: Path) -> None:
            head.save(folder)
            encoder.save(folder)
            nothing.save(folder)

        meta = VersionMeta(
            classes=head.classes,
            multiple=head.multilabel,
            encoder=EncoderMeta(name=encoder.name, id=encoder.id, dim=encoder.dim),
            confident_from=None,
            labels=0,
            mode=FROM_NAMES,
            seed=self.settings.seed,
            trained_on=trained_on,
            reserved_share=project.reserved_share,
        )
        return self.versions.publish(project, self.versions.next_number(project), write, meta, verdict=Verdict())

    def _asked(self, project: Project, corpus: Corpus, on_progress: OnProgress) -> NameGuess | None:
        encoder: Any = corpus.encoder
        wanted = self.settings.start_from_names == "yes" and not project.state.imported
        if not wanted or not getattr(encoder, "reads_text", False):
            return None
        digest = names_digest(project)
        vectors = self._kept(project, encoder.id, digest)
        if vectors is None or vectors.shape != (len(corpus.classes) + 1, encoder.dim):
            vectors = text_vectors(
                encoder,
                class_names(project),
                lambda done, total: on_progress(done / total, f"{done} of {total} sentences about the classes"),
            )
            self._keep(project, encoder.id, digest, vectors)
        return NameGuess(vectors, digest)

    def _kept(self, project: Project, encoder_id: str, digest: str) -> NDArray[np.float32] | None:
        path = self.files.path(project.id)
        try:
            with safe_open(path, "numpy") as file:
                known = file.metadata() or {}
                if (known.get("encoder"), known.get("sentences")) != (encoder_id, digest):
                    return None
                vectors = np.asarray(file.get_tensor("vectors"), np.float32)
        except FileNotFoundError:
            return None
        except (OSError, TypeError, ValueError, SafetensorError) as error:
            logger.warning("%s cannot be read, and is made anew: %s", path, error)
            return None
        return vectors if np.isfinite(vectors).all() else None

    def _keep(self, project: Project, encoder_id: str, digest: str, vectors: NDArray[np.float32]) -> None:
        if not self.keeps:
            return
        try:
            with atomic_file(self.files.path(project.id)) as path:
                save_file({"vectors": vectors}, path, {"encoder": encoder_id, "sentences": digest})
        except (OSError, SafetensorError, ConflictError) as error:
            logger.warning("%s: what the class names mean is not kept, and is asked again: %s", project.key, error)


def guesses_so(version: Version, trained_on: Mapping[str, Any]) -> bool:
    """Whether a version guesses from the names of the classes, and these, the question and the encoder are what they were."""
    before = version.meta.trained_on
    if version.meta.mode != FROM_NAMES or not isinstance(before, dict):
        return False
    return all(before.get(name) == trained_on.get(name) for name in ("names", "multiple", "encoder"))


def class_names(project: Project) -> Sequence[ClassName]:
    """What the label config says of each label, in the order of the labels."""
    return [ClassName(name, description) for name, description in choice_texts(project.label_config, project.schema)]


def names_digest(project: Project) -> str:
    """Of all that is asked of a text side about the labels: another name, hint or wording of ours, and it is another."""
    asked = [
        NEUTRAL,
        *([label, *sentences(name)] for label, name in zip(project.schema.labels, class_names(project), strict=True)),
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
