"""From a task to its vector: read the image, hash it, decode it, encode it, keep it. Each image is encoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ml_backend.errors import ImageError
from ml_backend.learning.encoders import Encoder
from ml_backend.learning.images import content_hash, decode
from ml_backend.learning.pipeline import encode_all
from ml_backend.names import Unreadable, printable
from ml_backend.records import Task
from ml_backend.store.projects import Project

if TYPE_CHECKING:
    from ml_backend.services import Services

logger = logging.getLogger(__name__)

CHUNK = 4_096
"""Tasks whose hashes are noted at once: so many images are read again, but not encoded again, after a kill."""
LOGGED = 20
"""Newly unreadable images with a line each in the log, of one chunk."""
READERS = 8
SPARE = 16
"""Images sampled beyond those needed, in place of unreadable ones."""


@dataclass
class Encoded:
    """What became of some tasks: the content hash of each readable image, and why the others are not."""

    hashes: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def encode_tasks(
    project: Project,
    services: Services,
    encoder: Encoder,
    tasks: Iterable[Task],
    done: Callable[[int], None] = lambda _: None,
) -> Encoded:
    """Encode the images of `tasks` into the feature store; what is stored already is not encoded again.

    done: told from time to time how many tasks are through; what it raises ends the work, and nothing done is lost.
    Raises LabelStudioUnavailableError where images could not be read because Label Studio was away.
    """
    everything = Encoded()
    for chunk in _chunks(tasks):
        before = len(everything.hashes) + len(everything.errors)

        def told(count: int, before: int = before) -> None:
            done(before + count)

        part = _encode_chunk(project, services, encoder, chunk, told)
        services.ledger.set_content_hash(project, part.hashes)
        _note_errors(project, services, chunk, part.errors)
        everything.hashes |= part.hashes
        everything.errors |= part.errors
    return everything


def read_image(project: Project, services: Services, task: Task) -> bytes:
    """The image file of a task. Raises ImageError with the fix, LabelStudioUnavailableError to try again later."""
    if not task.image:
        raise ImageError(no_image(project, task))
    return services.images(project.key.host).read(task)


def open_images(project: Project, services: Services, tasks: Iterable[Task], size: int | None) -> list[Image.Image]:
    """The readable images of `tasks`, in order, decoded for `size` pixels on the shorter side."""

    def attempt(task: Task) -> Image.Image | None:
        try:
            return decode(read_image(project, services, task), size)
        except ImageError:
            return None

    with ThreadPoolExecutor(READERS) as readers:
        return [image for image in readers.map(attempt, tasks) if image is not None]


def sample_images(project: Project, services: Services, size: int, rng: np.random.Generator) -> list[Image.Image]:
    """Up to `size` images of the project, drawn at random, to fit an encoder on. Unreadable ones are left out."""
    ids = services.ledger.pool(project).ids
    chosen = sorted(int(i) for i in rng.permutation(ids)[: size + SPARE])
    return open_images(project, services, services.ledger.tasks(project, chosen), None)[:size]


def _encode_chunk(
    project: Project, services: Services, encoder: Encoder, tasks: Sequence[Task], done: Callable[[int], None]
) -> Encoded:
    """Vectors are stored before the hashes are noted, so that a kill in between only means to look again."""
    features = services.features
    result = encode_all(
        tasks,
        lambda task: read_image(project, services, task),
        encoder,
        lambda hashes, vectors: features.append(encoder.id, hashes, vectors),
        known=lambda digest: bool(features.rows(encoder.id, [digest])[0] >= 0),
        progress=lambda count, _total: done(count),
    )
    part = Encoded({task.id: digest for task, digest in result.hashes.items()})
    away = next((e for e in result.failed.values() if not isinstance(e, ImageError)), None)
    if away is not None:
        services.ledger.set_content_hash(project, part.hashes)
        raise away
    part.errors = {task.id: str(error) for task, error in result.failed.items()}
    return part


def look_at(project: Project, services: Services, tasks: Sequence[Task]) -> dict[int, str]:
    """Read and decode images that nobody has read yet, without encoding them; notes their hashes and faults.

    Returns why those that cannot be read cannot. Raises LabelStudioUnavailableError to try again later.
    """
    hashes: dict[int, str] = {}
    errors: dict[int, str] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for task, digest, error in readers.map(lambda task: _decoded(project, services, task), tasks):
            if error is None:
                hashes[task.id] = digest
            else:
                errors[task.id] = error
    services.ledger.set_content_hash(project, hashes)
    _note_errors(project, services, tasks, errors)
    return errors


def _decoded(project: Project, services: Services, task: Task) -> tuple[Task, str, str | None]:
    """Content hash of an image that can be decoded, or the reason why it cannot."""
    try:
        data = read_image(project, services, task)
        decode(data, 1)
    except ImageError as error:
        return task, "", str(error)
    return task, content_hash(data), None


def _note_errors(project: Project, services: Services, tasks: Iterable[Task], errors: Mapping[int, str]) -> None:
    """Keep why images cannot be read, and log those that were not known to be so."""
    if not errors:
        return
    before = services.ledger.image_errors(project)
    services.ledger.set_image_errors(project, errors)
    new = [Unreadable(task, errors[task.id]) for task in tasks if task.id in errors and task.id not in before]
    for image in new[:LOGGED]:
        logger.warning("%s: %s cannot be read: %s", project.key, image.name, printable(image.reason))
    if len(new) > LOGGED:
        rest = "%s: %d more images cannot be read; GET /projects/%d/unreadable-images lists them."
        logger.warning(rest, project.key, len(new) - LOGGED, project.id)


def no_image(project: Project, task: Task) -> str:
    return f"Task {task.id} has no image: put its address into the task data as `{project.schema.image_key}`."


def _chunks(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    rest = iter(tasks)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
