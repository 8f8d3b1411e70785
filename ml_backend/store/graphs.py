"""The neighbour graph of each project's images: built once, and added to as images come."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ml_backend.encoders.weights import digest
from ml_backend.errors import ConflictError
from ml_backend.learning.neighbours import EXACT_ROWS, AnchorGraph, Graph, NeighbourGraph, graph_of
from ml_backend.store.project_files import ProjectFiles
from ml_backend.tabular import atomic_file

logger = logging.getLogger(__name__)

GONE = 0.2
"""Share of a graph's images that may have left the project before the graph is built anew."""


@dataclass(frozen=True)
class ImageGraph:
    """images: (N,) uint64, keys of the images that the rows of the graph show. places: (N,) row of each vector, -1 if gone."""

    images: NDArray[np.uint64]
    places: NDArray[np.int64]
    graph: Graph

    def rows_of(self, images: NDArray[np.uint64]) -> NDArray[np.int64]:
        """(n,) the row of each image; all must be in the graph."""
        order = np.argsort(self.images, kind="stable")
        return np.asarray(order[np.searchsorted(self.images, images, sorter=order)])


class GraphStore:
    """A file a project, for the encoder it used last. Only a cache: what cannot be read, or kept, is built anew.

    keeps: whether what was built is written.
    """

    def __init__(self, files: ProjectFiles, *, keeps: bool = True) -> None:
        self.files, self.keeps = files, keeps

    def of(
        self, project_id: int, encoder_id: str, images: NDArray[np.uint64], places: NDArray[np.int64],
        features: NDArray[np.float16],
    ) -> ImageGraph:  # fmt: skip
        """The graph of a project's images (n,), whose vectors are the rows `places` (n,) of `features`; kept for the next time.

        An image may be there more than once. Rows of a few images that left the project may be among the graph's.
        """
        images, first = np.unique(images, return_index=True)
        places = places[first]
        known = self._read(project_id, encoder_id)
        if known is None or _outgrown(*known, images):
            found = ImageGraph(images, places, graph_of(features, places))
        else:
            before, graph = known
            new = ~np.isin(images, before)
            everywhere = np.concatenate([_places_now(before, images, places), places[new]])
            if not new.any():
                return ImageGraph(before, everywhere, graph)
            found = ImageGraph(np.concatenate([before, images[new]]), everywhere, graph.extended(features, everywhere))
        if self.keeps:
            self._write(project_id, encoder_id, found)
        return found

    def _read(self, project_id: int, encoder_id: str) -> tuple[NDArray[np.uint64], Graph] | None:
        path = self.files.path(project_id)
        try:
            file = path.stat()
            return _load(path, encoder_id, (file.st_ino, file.st_mtime_ns, file.st_size))
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            logger.warning("%s cannot be read, and is built anew: %s", path, error)
            return None

    def _write(self, project_id: int, encoder_id: str, found: ImageGraph) -> None:
        tensors = {"images": found.images, **found.graph.arrays()}
        try:
            with atomic_file(self.files.path(project_id)) as path:
                save_file(tensors, path, {"encoder": encoder_id, "digest": _digest(encoder_id, tensors)})
        except (OSError, SafetensorError, ConflictError) as error:
            logger.warning(
                "The graph of project %d is not kept, and is built again the next time: %s", project_id, error
            )


def _places_now(before: NDArray[np.uint64], images: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the images `before`, -1 for those that are not among the ascending `images` any more."""
    at = np.minimum(np.searchsorted(images, before), len(images) - 1)
    return np.where(images[at] == before, places[at], -1)


def _outgrown(before: NDArray[np.uint64], graph: Graph, images: NDArray[np.uint64]) -> bool:
    """Whether the graph was made for far fewer images, for another size, or for many that are gone."""
    both = int(np.isin(before, images).sum())
    total = len(before) + len(images) - both
    return (
        both < (1 - GONE) * len(before)
        or total > 2 * len(before)
        or (isinstance(graph, NeighbourGraph) and total > EXACT_ROWS)
    )


@lru_cache(maxsize=1)
def _load(path: Path, encoder_id: str, _file: tuple[int, ...]) -> tuple[NDArray[np.uint64], Graph] | None:
    """Keys of the images and their graph; None where it is of another encoder.

    The last one stays in memory, with what it has computed of itself, until a turn finds another file.
    """
    with safe_open(path, "numpy") as file:
        if (file.metadata() or {}).get("encoder") != encoder_id:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if file.metadata().get("digest") != _digest(encoder_id, tensors):
            raise ValueError("its digest is another")
    images = tensors.pop("images")
    graph: Graph = AnchorGraph(**tensors) if "anchors" in tensors else NeighbourGraph(**tensors)
    if images.dtype != np.uint64 or images.shape != (len(graph),):
        raise ValueError(f"it has {len(graph)} rows for images of shape {images.shape}")
    return images, graph


def _digest(encoder_id: str, tensors: dict[str, NDArray[Any]]) -> str:
    kinds = {name: [tensor.dtype.str, *tensor.shape] for name, tensor in tensors.items()}
    return digest({"encoder": encoder_id, **kinds}, {name: torch.from_numpy(each) for name, each in tensors.items()})
