"""Where each image of a project lies on its map: kept in a file a project, for the encoder that its vectors are of.

A cache, written whole or not at all: without it, or where it cannot be read, the map is made anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ml_backend.errors import ConflictError
from ml_backend.learning.projection import Method, Plane
from ml_backend.store.project_files import ProjectFiles
from ml_backend.tabular import atomic_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """plane: places what is not here. ids: (n,) int64, ascending. rows: (n,) int64, row of each one's vector then.

    places: (n, 2) uint16. size: tasks that the project had then, with vectors or without.
    """

    encoder_id: str
    plane: Plane
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    places: NDArray[np.uint16]
    size: int

    def known(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.uint16]]:
        """Which of these tasks (m,), with these rows, lie here; and where, (m, 2), 0 for the others."""
        at = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        if not len(self.ids):
            return np.zeros(len(ids), np.bool_), np.zeros((len(ids), 2), np.uint16)
        here = (self.ids[at] == ids) & (self.rows[at] == rows)
        return here, np.where(here[:, None], self.places[at], 0).astype(np.uint16)


class MapFiles:
    """The layouts of all projects of one store."""

    def __init__(self, files: ProjectFiles) -> None:
        self.files = files

    def stamp(self, project_id: int) -> tuple[int, int] | None:
        """Another one for another file; None where there is none."""
        try:
            found = self.files.path(project_id).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def read(self, project_id: int, encoder_id: str) -> Layout | None:
        """None where there is none for this encoder, or it cannot be read."""
        path = self.files.path(project_id)
        try:
            with safe_open(path, "numpy") as file:
                told = file.metadata() or {}
                if told.get("encoder") != encoder_id:
                    return None
                return _layout(told, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            logger.warning("%s cannot be read, and is made anew: %s", path, error)
            return None

    def write(self, project_id: int, layout: Layout) -> None:
        """Keep it, in place of what was there. Where that fails, it is made again the next time."""
        plane = layout.plane
        tensors = {
            "ids": layout.ids,
            "rows": layout.rows,
            "places": layout.places,
            "low": plane.low,
            "high": plane.high,
        }
        try:
            with atomic_file(self.files.path(project_id)) as path:
                whole = {name: np.ascontiguousarray(each) for name, each in (tensors | plane.about).items()}
                save_file(whole, path, {"encoder": layout.encoder_id, "method": plane.method, "size": str(layout.size)})
        except (OSError, SafetensorError, ConflictError) as error:
            logger.warning("The map of project %d is not kept: %s", project_id, error)


def _layout(told: dict[str, str], tensors: dict[str, NDArray[np.generic]]) -> Layout:
    method = next((each for each in get_args(Method) if each == told["method"]), None)
    if method is None:
        raise ValueError(f"it is made by {told['method']}")
    ids, rows, places, low, high = (tensors.pop(name) for name in ("ids", "rows", "places", "low", "high"))
    if not (ids.shape == rows.shape == places.shape[:1] and places.shape[1:] == (2,) and places.dtype == np.uint16):
        raise ValueError(f"it has {places.shape} places of {ids.shape} tasks")
    plane = Plane(method, low, high, dict(tensors))  # type: ignore[arg-type]
    needed = ("mean", "directions") if method == "pca" else ("sample", "placed")
    if missing := [name for name in needed if name not in tensors]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return Layout(told["encoder"], plane, ids, rows, places, int(told["size"]))  # type: ignore[arg-type]
