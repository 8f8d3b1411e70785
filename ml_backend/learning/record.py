"""What a version learned from, and what it started from, and how it did there on answers it had not seen: beside its weights.

An image is known by its content, since the same images may come back as other tasks, or in another project.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FILE = "record.safetensors"
FOLDS = 5
"""Of the held-out images."""
UNKNOWN = -1


@dataclass(frozen=True)
class Record:
    """Of n labelled images, in the order of `images`; fourteen bytes each.

    images: (n,) uint64, no two alike, see `image_keys`. labels: (n,) uint32, digests of the label names, so that a label
    that was changed since is noticed. right: (n,) int8, 1 or 0, whether a head that had not seen the image answered
    right; UNKNOWN where no fold tells, or where what training started from had seen it. apart: (n,) uint8, 1 for held-out
    images, which the head of their fold has not seen (see `fold_heads`): these it is asked about as they are labelled then,
    and `right` is UNKNOWN.
    """

    images: NDArray[np.uint64]
    labels: NDArray[np.uint32]
    right: NDArray[np.int8]
    apart: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        images: NDArray[np.uint64],
        labels: NDArray[np.uint32],
        right: NDArray[np.bool_],
        apart: NDArray[np.bool_] | None = None,
    ) -> Record:
        """right: (n,), or empty where nothing tells. Of tasks that show the same image the first one counts."""
        known = right.astype(np.int8) if len(right) else np.full(len(images), UNKNOWN, np.int8)
        aside = np.zeros(len(images), np.bool_) if apart is None else apart
        known = np.where(aside, np.int8(UNKNOWN), known)
        images, first = np.unique(images, return_index=True)
        return cls(images, labels[first], known[first], aside[first].astype(np.uint8))

    def save(self, folder: Path) -> None:
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Record | None:
        """None where a folder has none that can be read: a model from a file, or one of an earlier release."""
        try:
            found = load_file(folder / FILE)
            none = np.zeros(found["images"].shape, np.uint8)  # an earlier release learned from no held-out image
            record = cls(found["images"], found["labels"], found["right"], found.get("apart", none))
        except (OSError, KeyError, TypeError, AttributeError, SafetensorError):  # bfloat16, float8: not in numpy
            return None
        arrays = (record.images, record.labels, record.right, record.apart)
        kinds, shapes = [array.dtype.str for array in arrays], {array.shape for array in arrays}
        sound = kinds == ["<u8", "<u4", "|i1", "|u1"] and shapes == {np.unique(record.images).shape}
        return record if sound else None

    def has(self, images: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(m,) whether it is about each of these images."""
        return np.isin(images, self.images)

    def without_apart(self) -> Record:
        """Of the images that all of the version has learned from: its encoder, if that was trained, and each fold head."""
        return self._at(self.apart == 0)

    def of_encoder(self) -> Record:
        """Of the images that its encoder may have learned from: not those that a fold tells of, nor those held out."""
        return self._at((self.apart == 0) & (self.right == UNKNOWN))

    def after(self, before: Record | None) -> Record:
        """With what the model that training started from had learned from: it is in every fold, whatever was held out."""
        if before is None:
            return self
        inside = replace(before, right=np.full_like(before.right, UNKNOWN), apart=np.zeros_like(before.apart))
        _, first = np.unique(np.concatenate([inside.images, self.images]), return_index=True)
        parts = {field.name: [getattr(part, field.name) for part in (inside, self)] for field in fields(self)}
        return Record(**{name: np.concatenate(both)[first] for name, both in parts.items()})

    def _at(self, places: NDArray[Any]) -> Record:
        return Record(self.images[places], self.labels[places], self.right[places], self.apart[places])

    def shared(self, other: Record) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each of the two was right, on the images that both know under the same label."""
        _, mine, theirs = np.intersect1d(self.images, other.images, assume_unique=True, return_indices=True)
        same = self.labels[mine] == other.labels[theirs]
        known = same & (self.right[mine] != UNKNOWN) & (other.right[theirs] != UNKNOWN)
        return self.right[mine][known] > 0, other.right[theirs][known] > 0


def image_keys(hashes: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """(n,) the last 64 bits of each hex SHA-256 of an image's bytes, (n,) of type S64."""
    digits = np.ascontiguousarray(hashes, "S64").view(np.uint8).reshape(-1, 64)[:, -16:]
    return np.frombuffer(bytes.fromhex(digits.tobytes().decode("ascii")), ">u8").astype(np.uint64)


def fold_of(images: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) 0 to FOLDS - 1, by the content of each image: not by the hash that holds images out."""
    return (images % np.uint64(FOLDS)).astype(np.int64)


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
