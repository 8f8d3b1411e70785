"""Images that `/predict` names and the store does not know: read and encoded in memory, with nothing noted anywhere.

What lies in Label Studio is read only for a task that has it, by our store or by Label Studio's own word. What a
reference carries itself (data:) and what any task may name (listed hosts) needs no such word.
docs/decisions/images-from-listed-hosts.md says against what.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_backend.chunks import chunks
from ml_backend.encoding import read_image
from ml_backend.errors import ImageError, NotFoundError
from ml_backend.host_lists import split
from ml_backend.hosts import Hosts
from ml_backend.labelstudio.client import PAGE
from ml_backend.labelstudio.results import task_from_json
from ml_backend.records import Task
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder


@dataclass
class EncodedTasks:
    """What came of some tasks, by their place: vector and content hash of each, or why there is none."""

    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UnlistedImages:
    """Encodes what the store does not know."""

    ledger: Ledger
    features: FeatureStore
    hosts: Hosts

    def encode(self, project: Project, encoder: Encoder, tasks: Sequence[Task]) -> EncodedTasks:
        """Encode images without noting anything. Raises LabelStudioUnavailableError where Label Studio is away."""
        from ml_backend.encoders.pipeline import encode_all  # noqa: PLC0415 - torch

        unknown = self._not_shown(project, tasks)
        new: dict[str, NDArray[np.float32]] = {}

        def read(place: int) -> bytes:
            if place in unknown:
                raise ImageError(
                    f"Task {tasks[place].id} of this project does not show this image in Label Studio, so it is not read: send "
                    "the task as Label Studio has it."
                )
            return read_image(project, tasks[place], self.hosts)

        result = encode_all(
            range(len(tasks)),
            read,
            encoder,
            lambda hashes, vectors: new.update(zip(hashes, vectors, strict=True)),
            known=lambda digest: bool(self.features.rows(encoder.id, [digest])[0] >= 0),
        )
        away = next((error for error in result.failed.values() if not isinstance(error, ImageError)), None)
        if away is not None:
            raise away
        stored = sorted(set(result.hashes.values()) - new.keys())
        if stored:
            at = self.features.rows(encoder.id, stored)
            new |= zip(stored, self.features.matrix(encoder.id)[at], strict=True)
        return EncodedTasks(
            {place: new[digest] for place, digest in result.hashes.items()},
            dict(result.hashes),
            {place: str(error) for place, error in result.failed.items()},
        )

    def _not_shown(self, project: Project, tasks: Sequence[Task]) -> set[int]:
        """Places of the tasks whose image lies in Label Studio, and is not theirs by the ledger or by Label Studio.

        Label Studio waits for this answer. So it is asked by its list of tasks: reading a single task, it would ask for a
        prediction of it first, that is call here again.
        """
        known = {task.id: task.image for task in self.ledger.tasks(project, sorted({task.id for task in tasks}))}
        doubtful = {
            place: task
            for place, task in enumerate(tasks)
            if task.image and known.get(task.id) != task.image and self._lies_in_label_studio(project, task.image)
        }
        client, number = self.hosts.client(project.key.host), project.key.project_id
        ids, shown = sorted({task.id for task in doubtful.values()}), set()
        for part in chunks(ids, PAGE):
            with suppress(NotFoundError):  # then it shows none of them
                listed = (task_from_json(project.schema, raw) for raw in client.listed(number, part, "id,data"))
                shown |= {(task.id, task.image) for task in listed}
        return {place for place, task in doubtful.items() if (task.id, task.image) not in shown}

    def _lies_in_label_studio(self, project: Project, image: str) -> bool:
        """Whether it is read from Label Studio, or through it; a reference that is none is refused when it is read."""
        if image.startswith("data:"):
            return False
        return split(image).scheme not in {"http", "https"} or self.hosts.images(project.key.host).is_ours(image)
