"""Vectors on a plane: by their two main directions, or as t-SNE lays out a sample, and the others beside their likes.

PCA: the eigenvectors of the covariance matrix. t-SNE: van der Maaten and Hinton, 2008, as scikit-learn has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["pca", "t-sne"]
SAMPLE = {"pca": 20_000, "t-sne": 4_000}
"""Vectors that a plane is made of. t-SNE of 4,000 takes about a minute of one core."""
SMALLEST = 30
"""Vectors from which on t-SNE has anything to lay out."""
LIKES = 3
GRID = 65_535
MARGIN = 0.02
"""Of the plane's width, kept free around the sample: what lies further out is put on the edge."""
_BLOCK = 2_048


@dataclass(frozen=True)
class Plane:
    """Places any vector. low, high: (2,) corners. about: what the method needs, by name, as it is kept on disk.

    pca: `mean` (d,), `directions` (d, 2). t-sne: `sample` (s, d) float16 and where each of it lies, `placed` (s, 2).
    """

    method: Method
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    about: dict[str, NDArray[Any]]

    def places(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
        """(n, 2) where the vectors (n, d) lie, each coordinate from 0 to GRID."""
        found = np.empty((len(rows), 2), np.float32)
        for start in range(0, len(rows), _BLOCK):
            found[start : start + _BLOCK] = self._points(rows[start : start + _BLOCK].astype(np.float32))
        share = (found - self.low) / np.maximum(self.high - self.low, 1e-12)
        return np.asarray(np.rint(np.clip(np.nan_to_num(share, nan=0.5), 0, 1) * GRID), np.uint16)

    def _points(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.method == "pca":
            return np.asarray((rows - self.about["mean"]) @ self.about["directions"])
        near = rows @ self.about["sample"].astype(np.float32).T
        few = min(LIKES, near.shape[1])
        which = np.argpartition(-near, few - 1, axis=1)[:, :few]
        # The nearest one counts by far the most: what lies between two heaps is put to one of them, not in between.
        weight = np.maximum(1 - np.take_along_axis(near, which, axis=1), 1e-4) ** -4.0
        weight /= weight.sum(axis=1, keepdims=True)
        return np.asarray((self.about["placed"][which] * weight[:, :, None]).sum(axis=1), np.float32)


def main_directions(sample: NDArray[np.floating[Any]]) -> Plane:
    """The plane of the two directions in which the sample (s, d) varies most; the same sample, the same plane."""
    rows = sample.astype(np.float32)
    mean = rows.mean(axis=0)
    centred = rows - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    directions = np.zeros((rows.shape[1], 2), np.float32)
    found = vectors[:, ::-1][:, :2]
    directions[:, : found.shape[1]] = found * np.where(found.sum(axis=0) < 0, -1, 1)
    return _plane("pca", centred @ directions, {"mean": mean, "directions": directions})


def neighbourhoods(sample: NDArray[np.floating[Any]], seed: int, on_step: Callable[[], None] = lambda: None) -> Plane:
    """The plane on which t-SNE lays out the sample (s, d), of at least SMALLEST vectors. on_step: called before and after."""
    from sklearn.manifold import TSNE  # noqa: PLC0415 - takes a second

    rows = sample.astype(np.float32)
    on_step()
    layout = TSNE(
        init="pca", perplexity=min(30.0, len(rows) / 4), random_state=seed, n_jobs=1, metric="euclidean"
    ).fit_transform(rows)
    on_step()
    return _plane("t-sne", layout, {"sample": sample.astype(np.float16), "placed": np.asarray(layout, np.float32)})


def _plane(method: Method, points: NDArray[np.floating[Any]], about: dict[str, NDArray[Any]]) -> Plane:
    low, high = points.min(axis=0), points.max(axis=0)
    room = MARGIN * np.maximum(high - low, 1e-6)
    return Plane(method, (low - room).astype(np.float32), (high + room).astype(np.float32), about)
