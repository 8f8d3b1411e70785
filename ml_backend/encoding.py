"""From a task to its vector: read the image, hash it, decode it, encode it, keep it. Each image is encoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_backend.chunks import chunks
from ml_backend.errors import ImageAwayError, ImageError
from ml_backend.hosts import Hosts
from ml_backend.images.decoding import content_hash, decode
from ml_backend.records import Task
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.task_names import Unreadable, printable

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder

logger = logging.getLogger(__name__)

CHUNK = 4_096
"""Tasks whose hashes are noted at once: so many images are read again, but not encoded again, after a kill."""
LOGGED = 20
"""Newly unreadable images with a line each in the log, of one chunk."""
READERS = 8
KEPT_BYTES = 256 * 2**20
"""Of the samples' files kept in memory until they are encoded; those beyond are fetched once more."""


@dataclass
class Encoded:
    """What became of some tasks: the content hash of each readable image, and why the others are not.

    passing: those of the others that may be read later. untried: those whose host is known to be away.
    """

    hashes: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    passing: set[int] = field(default_factory=set)
    untried: set[int] = field(default_factory=set)

    def add(self, task: Task, error: ImageError) -> None:
        self.errors[task.id] = str(error)
        if isinstance(error, ImageAwayError):
            (self.passing if error.tried else self.untried).add(task.id)

    def join(self, other: Encoded) -> None:
        self.hashes |= other.hashes
        self.errors |= other.errors
        self.passing |= other.passing
        self.untried |= other.untried


@dataclass
class Kept:
    """Files read to fit an encoder on, and why some could not be, so that encoding need not fetch them once more."""

    all: Mapping[int, Kept] = field(default_factory=dict)  # of every project: they share the room there is
    outcomes: dict[int, tuple[str | None, bytes | ImageError]] = field(default_factory=dict)
    size: int = 0
    attempts: int = 0  # to fit an encoder; in vain, as hosts of images were away

    @property
    def full(self) -> bool:
        return sum(kept.size for kept in list(self.all.values())) >= KEPT_BYTES

    def keep(self, task: Task, outcome: bytes | ImageError) -> None:
        if isinstance(outcome, ImageAwayError) and not outcome.tried:
            return
        if not self.full:
            self.outcomes[task.id] = task.image, outcome
            self.size += len(outcome) if isinstance(outcome, bytes) else 0

    def drop(self, task_ids: Iterable[int]) -> None:
        for task_id in task_ids:
            _, outcome = self.outcomes.pop(task_id, (None, None))
            self.size -= len(outcome) if isinstance(outcome, bytes) else 0

    def of(self, task: Task) -> bytes | ImageError | None:
        """What reading the task's image came to; None where it has not been read."""
        reference, outcome = self.outcomes.get(task.id, (None, None))
        return outcome if reference == task.image else None


@dataclass
class Encoding:
    """Reads and encodes the images of projects, and notes in the ledger what each is or why it cannot be read."""

    ledger: Ledger
    features: FeatureStore
    hosts: Hosts
    kept: dict[int, Kept] = field(default_factory=dict)  # by project, until its images are encoded

    def encode(
        self,
        project: Project,
        encoder: Encoder,
        tasks: Iterable[Task],
        done: Callable[[int], None] = lambda _: None,
    ) -> Encoded:
        """Encode the images of `tasks` into the feature store; what is stored already is not encoded again.

        done: told from time to time how many tasks are through; what it raises ends the work, and nothing done is lost.
        Raises LabelStudioUnavailableError where images could not be read because Label Studio was away.
        """
        everything = Encoded()
        away: dict[str, str] = {}
        for chunk in chunks(_reachable(tasks, away, everything), CHUNK):
            before = len(everything.hashes) + len(everything.errors)

            def on_done(count: int, before: int = before) -> None:
                done(before + count)

            part = self._encode_chunk(project, encoder, chunk, on_done)
            everything.join(part)
            if len(part.untried) == len(chunk):
                away |= {_host(task): part.errors[task.id] for task in chunk}
        return everything

    def read(self, project: Project, task: Task) -> bytes:
        """The image file of a task; raises what `read_image` does."""
        return read_image(project, task, self.hosts)

    def look_at(self, project: Project, tasks: Sequence[Task]) -> dict[int, str]:
        """Read and decode images that nobody has read yet, without encoding them; notes their hashes and faults.

        Returns why those that cannot be read cannot. Raises LabelStudioUnavailableError to try again later.
        """
        found = Encoded()
        with ThreadPoolExecutor(READERS) as readers:
            for task, outcome in readers.map(lambda task: self._decoded(project, task), tasks):
                if isinstance(outcome, ImageError):
                    found.add(task, outcome)
                else:
                    found.hashes[task.id] = outcome
        self.note(project, tasks, found)
        return found.errors

    def note(self, project: Project, tasks: Iterable[Task], found: Encoded) -> None:
        """Keep hashes, and why images cannot be read; log those that were not known to be so.

        A host that is away is left alone, which is nothing new about the images that were not even asked for.
        """
        self.ledger.set_content_hash(project, found.hashes)
        errors = {task: error for task, error in found.errors.items() if task not in found.untried}
        if not errors:
            return
        before = self.ledger.image_errors(project)
        self.ledger.set_image_errors(project, errors, passing=found.passing)
        new = [Unreadable(task, errors[task.id]) for task in tasks if task.id in errors and task.id not in before]
        for image in new[:LOGGED]:
            logger.warning("%s: %s cannot be read: %s", project.key, image.name, printable(image.reason))
        if len(new) > LOGGED:
            rest = "%s: %d more images cannot be read; GET /projects/%d/unreadable-images lists them."
            logger.warning(rest, project.key, len(new) - LOGGED, project.id)

    def _encode_chunk(
        self, project: Project, encoder: Encoder, tasks: Sequence[Task], done: Callable[[int], None]
    ) -> Encoded:
        """Vectors are stored before the hashes are noted, so that a kill in between only means to look again."""
        kept = self.kept.get(project.id)
        from ml_backend.encoders.pipeline import Encoded as Outcomes  # noqa: PLC0415 - torch
        from ml_backend.encoders.pipeline import encode_all  # noqa: PLC0415

        result: Outcomes[Task] = Outcomes()

        def read(task: Task) -> bytes:
            outcome = kept.of(task) if kept else None
            if isinstance(outcome, ImageError):
                raise outcome
            return outcome or self.read(project, task)

        try:
            encode_all(
                tasks,
                read,
                encoder,
                lambda hashes, vectors: self.features.append(encoder.id, hashes, vectors),
                known=lambda digest: bool(self.features.rows(encoder.id, [digest])[0] >= 0),
                progress=lambda count, _total: done(count),
                into=result,
            )
        finally:  # also where the turn is cancelled or makes room for another: nothing is read twice
            part = Encoded({task.id: digest for task, digest in result.hashes.items()})
            for task, error in result.failed.items():
                if isinstance(error, ImageError):
                    part.add(task, error)
            self.note(project, tasks, part)
            if kept:
                kept.drop(part.hashes.keys() | part.errors.keys())
        away = next((e for e in result.failed.values() if not isinstance(e, ImageError)), None)
        if away is not None:
            raise away
        return part

    def _decoded(self, project: Project, task: Task) -> tuple[Task, str | ImageError]:
        """Content hash of an image that can be decoded, or the reason why it cannot."""
        try:
            data = self.read(project, task)
            decode(data, 1)
        except ImageError as error:
            return task, error
        return task, content_hash(data)


def _reachable(tasks: Iterable[Task], away: Mapping[str, str], found: Encoded) -> Iterator[Task]:
    """All but those whose host was away for a whole chunk, with the reason why: asking a million times takes minutes."""
    for task in tasks:
        why = away.get(_host(task)) if away else None
        if why is None:
            yield task
        else:
            found.errors[task.id] = why
            found.untried.add(task.id)


def _host(task: Task) -> str:
    """Where the image is, roughly: scheme and host of its address, or the start of its path."""
    return "/".join((task.image or "").split("/", 3)[:3])


def read_image(project: Project, task: Task, hosts: Hosts) -> bytes:
    """The image file of a task. Raises ImageError with the fix, LabelStudioUnavailableError to try again later."""
    if not task.image:
        raise ImageError(no_image(project, task))
    return hosts.images(project.key.host).read(task)


def no_image(project: Project, task: Task) -> str:
    return f"Task {task.id} has no image: put its address into the task data as `{project.schema.image_key}`."
