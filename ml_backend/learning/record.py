"""What a version learned from, and how it did there on answers it had not seen: kept beside its weights."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FILE = "record.safetensors"
UNKNOWN = -1


@dataclass(frozen=True)
class Record:
    """Of n labelled tasks, by ascending id; thirteen bytes each.

    tasks: (n,) int64, Label Studio's ids. labels: (n,) uint32, digests of the label names, so that a label that was
    changed since is noticed. right: (n,) int8, 1 or 0, whether a head that had not seen the task answered right; UNKNOWN
    where no fold tells.
    """

    tasks: NDArray[np.int64]
    labels: NDArray[np.uint32]
    right: NDArray[np.int8]

    @classmethod
    def of(cls, tasks: NDArray[np.int64], labels: NDArray[np.uint32], right: NDArray[np.bool_]) -> Record:
        """right: (n,), or empty where nothing tells."""
        known = right.astype(np.int8) if len(right) else np.full(len(tasks), UNKNOWN, np.int8)
        order = np.argsort(tasks)
        return cls(tasks[order], labels[order], known[order])

    def save(self, folder: Path) -> None:
        save_file({"tasks": self.tasks, "labels": self.labels, "right": self.right}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Record | None:
        """None where a version has none: an imported one, or one of an earlier release."""
        try:
            found = load_file(folder / FILE)
            return cls(found["tasks"], found["labels"], found["right"])
        except (OSError, KeyError, SafetensorError):
            return None

    def has(self, tasks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(m,) whether it is about each of these tasks."""
        return np.isin(tasks, self.tasks)

    def shared(self, other: Record) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each of the two was right, on the tasks that both know under the same label."""
        _, mine, theirs = np.intersect1d(self.tasks, other.tasks, assume_unique=True, return_indices=True)
        same = self.labels[mine] == other.labels[theirs]
        known = same & (self.right[mine] != UNKNOWN) & (other.right[theirs] != UNKNOWN)
        return self.right[mine][known] > 0, other.right[theirs][known] > 0


def digests(targets: NDArray[Any], classes: Sequence[str]) -> NDArray[np.uint32]:
    """(n,) digest of the label names of each row: targets are (n,) class indices or (n, C) booleans."""
    if targets.ndim == 1:
        of_class = np.array([_digest([name]) for name in classes], np.uint32)
        return np.asarray(of_class[targets])
    sets, which = np.unique(targets, axis=0, return_inverse=True)
    of_set = np.array([_digest([classes[c] for c in np.flatnonzero(row)]) for row in sets], np.uint32)
    return np.asarray(of_set[which.reshape(-1)])


def _digest(names: Sequence[str]) -> int:
    return zlib.crc32(json.dumps(sorted(names)).encode())
