"""A few images of a project, drawn at random: to fit an encoder on, or to compare two copies of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np
from PIL import Image

from ml_backend.encoding import READERS, Encoded, Encoding, Kept
from ml_backend.errors import ImageAwayError, ImageError, TurnPausedError
from ml_backend.images.decoding import decode
from ml_backend.records import Task
from ml_backend.store.projects import Project
from ml_backend.wording import amount

SPARE = 16
"""Images drawn beyond those needed, in place of unreadable ones."""
PATIENCE = 5
"""Turns that wait for the better part of a sample; after them an encoder is learned from what can be read."""
SHORTER_SIDE = 256
"""Pixels of an image of a sample, or up to twice as many: thousands of them are in memory at a time."""


def sample_images(project: Project, encoding: Encoding, size: int, rng: np.random.Generator) -> list[Image.Image]:
    """Up to `size` images of the project, drawn at random. Unreadable ones are left out."""
    tasks = draw_sample(project, encoding, size, rng)
    return open_images(tasks, lambda task: encoding.read(project, task))[:size]


def images_to_fit_on(
    project: Project, encoding: Encoding, size: int, rng: np.random.Generator, tick: Callable[[], None]
) -> list[Image.Image]:
    """A sample to learn an encoder from, once and for good. Its files are kept until they are encoded.

    tick: called while they are read; what it raises ends that, and the next call goes on with what is left.
    Raises ImageError while none can be read, or most are away for the time being; but waits no longer than PATIENCE
    calls for those.
    """
    kept = encoding.kept.setdefault(project.id, Kept(encoding.kept))
    tasks = draw_sample(project, encoding, size, rng)
    read_sample(project, encoding, tasks, kept, tick)
    away = [task for task in tasks if _is_away(kept.of(task), full=kept.full)]
    images = open_images(tasks, lambda task: _kept_or_read(project, encoding, kept, task))[:size]
    if images and (2 * len(away) <= len(tasks) or kept.attempts >= PATIENCE):
        return images
    kept.attempts += 1
    found = note_faults(project, encoding, tasks, kept)
    reason = next(iter(found.errors.values()), "their host is left alone for a while.")
    when = "at present, and are tried again by themselves" if away else "at all"
    raise ImageError(f"{len(tasks) - len(images)} of {amount(len(tasks), 'image')} cannot be read {when}: {reason}")


def _kept_or_read(project: Project, encoding: Encoding, kept: Kept, task: Task) -> bytes:
    """The file, from where it is. Raises ImageError."""
    outcome = kept.of(task)
    if isinstance(outcome, ImageError):
        raise outcome
    if outcome is None and not kept.full:
        raise ImageAwayError("Its host is left alone for a while.", tried=False)
    return outcome or encoding.read(project, task)


def _is_away(outcome: bytes | ImageError | None, *, full: bool) -> bool:
    return isinstance(outcome, ImageAwayError) or (outcome is None and not full)


def draw_sample(project: Project, encoding: Encoding, size: int, rng: np.random.Generator) -> list[Task]:
    """Tasks drawn at random, a few more than `size`, of those whose image can be read for all we know."""
    rows = encoding.ledger.pool(project)
    chosen = rng.permutation(rows.ids[~rows.resting])[: size + SPARE]
    return list(encoding.ledger.tasks(project, chosen.tolist()))


def read_sample(
    project: Project, encoding: Encoding, tasks: Sequence[Task], kept: Kept, tick: Callable[[], None]
) -> None:
    """Read the images of these tasks into `kept`, as far as they are not in it. tick: called all the while; may raise."""
    from ml_backend.encoders.pipeline import TICK_S  # noqa: PLC0415 - torch

    left = [task for task in tasks if kept.of(task) is None]

    def read(task: Task) -> None:
        if kept.full:
            return
        try:
            kept.keep(task, encoding.read(project, task))
        except ImageError as error:
            kept.keep(task, error)

    readers = ThreadPoolExecutor(READERS, "sample")
    try:
        under_way = {readers.submit(read, task) for task in left}
        while under_way:
            done, under_way = wait(under_way, TICK_S, FIRST_COMPLETED)
            for future in done:
                future.result()
            tick()
    except TurnPausedError:
        readers.shutdown(cancel_futures=True)  # what is being read just now is kept, however slow it is
        raise
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def open_images(tasks: Iterable[Task], read: Callable[[Task], bytes]) -> list[Image.Image]:
    """The readable images of `tasks`, in order."""

    def attempt(task: Task) -> Image.Image | None:
        try:
            image = decode(read(task), SHORTER_SIDE)
            return image.reduce(max(1, min(image.size) // SHORTER_SIDE))
        except ImageError:
            return None

    with ThreadPoolExecutor(READERS) as readers:
        return [image for image in readers.map(attempt, tasks) if image is not None]


def note_faults(project: Project, encoding: Encoding, tasks: Sequence[Task], kept: Kept) -> Encoded:
    """Keep why images of a sample could not be read, where no encoding follows that would; they may be tried again."""
    found = Encoded()
    for task in tasks:
        outcome = kept.of(task)
        if isinstance(outcome, ImageError):
            found.add(task, outcome)
    encoding.note(project, tasks, found)
    kept.drop(found.errors)
    return found
