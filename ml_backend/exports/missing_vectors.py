"""The images that a version cannot be asked about yet, and encoding them, in memory that does not grow with the project."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ml_backend.chunks import chunks
from ml_backend.encoding import Encoding
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import STREAM
from ml_backend.store.vectors import FeatureStore
from ml_backend.task_names import printable
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder

PART = 20_000
"""Images after which what became of them is forgotten: the store knows it."""


def without_vector(project: Project, encoder_id: str, ledger: Ledger, features: FeatureStore) -> array[int]:
    """Ids of the tasks whose image has no vector of this encoder and can be read now, as far as is known."""
    found = array("q")
    for part in chunks(ledger.images(project), STREAM):
        known = [(task_id, content) for task_id, content in part if content is not None]
        rows = features.rows(encoder_id, [content for _, content in known])
        there = {task_id for (task_id, _), row in zip(known, rows.tolist(), strict=True) if row >= 0}
        found.extend(task_id for task_id, _ in part if task_id not in there)
    return found


def encode_tasks(
    project: Project,
    encoder: Encoder,
    task_ids: Sequence[int],
    ledger: Ledger,
    encoding: Encoding,
    advance: Callable[[int], None],
) -> str | None:
    """Read and encode the images of these tasks. Call it in `foreground.alone`.

    advance: told how many more are through. Returns a sentence on those that were not even asked for as their host is away, if
    there are any. Raises LabelStudioUnavailableError where Label Studio is; nothing done is lost.
    """
    untried, reason = 0, ""
    for part in chunks(task_ids, PART):
        told = 0

        def on_done(done: int) -> None:
            nonlocal told
            advance(done - told)
            told = done

        found = encoding.encode(project, encoder, ledger.tasks(project, part), on_done)
        untried += len(found.untried)
        reason = reason or next((found.errors[task] for task in sorted(found.untried)), "")
    return f"{amount(untried, 'image')} cannot be fetched at present: {printable(reason)}" if untried else None
