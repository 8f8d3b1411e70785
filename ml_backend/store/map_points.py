"""What a map shows, as arrays; and the last map of each project in a file, so that after a restart nobody waits for it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ml_backend.errors import ConflictError
from ml_backend.learning.projection import Method
from ml_backend.store.project_files import ProjectFiles
from ml_backend.store.vectors import read_rows
from ml_backend.tabular import atomic_file

logger = logging.getLogger(__name__)

UNSURE = 255
"""In place of a doubt: there is no guess."""


@dataclass(frozen=True)
class Points:
    """The images that lie on the map, in an order drawn at random: the first ones are a fair sample of all.

    ids: (n,) int64. rows: (n,) int64, each one's row in the vectors of `encoder_id`. places: (n, 2) uint16. label, guess: (n,) uint16, place in
    `labels` or NONE. doubt: (n,) uint8, 100 (1 - confidence), or UNSURE. kind: (n,) uint8 of `store.map_rows`. annotator: (n,) uint16, place in
    `people`, users of Label Studio or SEVERAL, or NONE for nobody. by_id: (n,) the order of ascending ids. version: of the model whose guesses these are, 0 for none. missing: images without a vector.
    share: of the images, that was held out then.
    """

    labels: tuple[str, ...]
    people: tuple[int, ...]
    encoder_id: str
    method: Method
    version: int
    missing: int
    share: float
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    places: NDArray[np.uint16]
    label: NDArray[np.uint16]
    guess: NDArray[np.uint16]
    doubt: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    annotator: NDArray[np.uint16]
    by_id: NDArray[np.int64]

    def at(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(m,) the places here of these tasks, -1 for those that are not on the map."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        found = self.by_id[np.minimum(np.searchsorted(self.ids, ids, sorter=self.by_id), len(self.ids) - 1)]
        return np.where(self.ids[found] == ids, found, -1)

    def alike(self, vector: NDArray[np.floating[Any]], matrix: NDArray[np.float16], count: int) -> NDArray[np.int64]:
        """(<= count,) places here of the images nearest to `vector` (d,), of any length, by cosine, the nearest first; ties by id."""
        import torch  # noqa: PLC0415 - widens half precision several times as fast as numpy

        wanted = torch.from_numpy(
            vector.astype(np.float32) / max(float(np.linalg.norm(vector.astype(np.float64))), 1e-12)
        )
        near = np.empty(len(self.rows), np.float32)
        for places, rows in read_rows(matrix, self.rows):
            near[places] = (torch.from_numpy(rows).float() @ wanted).numpy()
        few = min(count, len(near))
        best = np.argpartition(-near, few - 1)[:few] if few else np.zeros(0, np.int64)
        return np.asarray(best[np.lexsort((self.ids[best], -near[best]))])


class PointFiles:
    """The last map of each project of one store. A cache: one that cannot be read, or kept, is made anew."""

    def __init__(self, files: ProjectFiles) -> None:
        self.files = files

    def read(self, project_id: int, encoder_id: str, rows: int) -> Points | None:
        """The last map, as it was; None where there is none of this encoder, of which there are so many vectors."""
        path = self.files.path(project_id)
        try:
            with safe_open(path, "numpy") as file:
                told = json.loads((file.metadata() or {})["points"])
                values: dict[str, Any] = {name: file.get_tensor(name) for name in _ARRAYS}
                values |= {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
                found = Points(**values)
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            logger.warning("%s cannot be read, and is made anew: %s", path, error)
            return None
        fits = found.encoder_id == encoder_id and bool((found.rows < rows).all())
        return found if fits and len({len(getattr(found, name)) for name in _ARRAYS}) == 1 else None

    def write(self, project_id: int, points: Points) -> None:
        told = {each.name: getattr(points, each.name) for each in fields(Points) if each.name not in _ARRAYS}
        try:
            with atomic_file(self.files.path(project_id)) as path:
                arrays = {name: np.ascontiguousarray(getattr(points, name)) for name in _ARRAYS}
                save_file(arrays, path, {"points": json.dumps(told)})
        except (OSError, SafetensorError, ConflictError) as error:
            logger.warning("The map of project %d is not kept: %s", project_id, error)


_ARRAYS = ("ids", "rows", "places", "label", "guess", "doubt", "kind", "annotator", "by_id")
