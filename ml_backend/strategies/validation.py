"""What a pool must be before any strategy sees it. Refusals name the row and the fix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError
from ml_backend.records import Pool

BLOCK_BYTES = 4 << 20
EXPONENT = {2: (np.int16, 0x7C00), 4: (np.int32, 0x7F800000), 8: (np.int64, 0x7FF0000000000000)}
"""Bytes of a float -> the integer of that size and its exponent bits, all of which are set in NaN and infinity alone."""

ROUNDING = 1e-4
"""What a probability may be below 0 or above 1."""


def check_pool(pool: Pool) -> None:
    """Raise InvalidInputError where shapes disagree, ids repeat, or a label, feature or probability cannot be one."""
    rows = len(pool.ids)
    columns = {"features": pool.features, "labelled": pool.labelled, "labels": pool.labels}
    optional = {
        "probabilities": pool.probabilities,
        "groups": pool.groups,
        "candidates": pool.candidates,
        "skipped": pool.skipped,
    }
    columns |= {name: column for name, column in optional.items() if column is not None}
    wrong = [f"{name} has {len(column)}" for name, column in columns.items() if len(column) != rows]
    if wrong:
        raise InvalidInputError(f"The pool has {rows} ids, but {', '.join(wrong)} rows: pass one row for each task.")
    if pool.pairs is not None and len(pool.pairs) and not _inside(pool.pairs, (rows, pool.n_classes)):
        raise InvalidInputError(f"pairs must be (row, class), below {rows} and {pool.n_classes}: count both from 0.")
    _check_ids(pool)
    _check_labels(pool)
    _check_numbers("features", pool.features, "encode these images again")
    if pool.probabilities is not None:
        if pool.probabilities.ndim != 2 or pool.probabilities.shape[1] != pool.n_classes:
            shape = pool.probabilities.shape
            raise InvalidInputError(
                f"probabilities have the shape {shape}, not ({rows}, {pool.n_classes}): pass one column per class."
            )
        _check_numbers("probabilities", pool.probabilities, "train the model again", (-ROUNDING, 1 + ROUNDING))


def _inside(pairs: NDArray[np.int64], limits: tuple[int, int]) -> bool:
    return pairs.ndim == 2 and pairs.shape[1] == 2 and bool(((pairs >= 0) & (pairs < limits)).all())


def _check_ids(pool: Pool) -> None:
    ids = pool.ids if (pool.ids[1:] > pool.ids[:-1]).all() else np.sort(pool.ids)
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        raise InvalidInputError(f"Task id {repeated[0]} is in the pool twice: pass each task once.")


def _check_labels(pool: Pool) -> None:
    wrong = np.flatnonzero(pool.labelled & (pool.labels >= pool.n_classes))
    if len(wrong):
        raise InvalidInputError(
            f"The label of row {wrong[0]} is {pool.labels[wrong[0]]}, but there are {pool.n_classes} classes: "
            "count them from 0."
        )


def _check_numbers(name: str, values: Any, fix: str, limits: tuple[float, float] | None = None) -> None:
    """limits: the least and the largest number that may occur; None for any finite one."""
    if values.ndim != 2:
        raise InvalidInputError(f"{name} must be a table with one row per task, not {values.ndim}-dimensional.")
    if not (values.is_floating_point() if isinstance(values, torch.Tensor) else values.dtype.kind == "f"):
        raise InvalidInputError(f"{name} are {values.dtype}, not floating-point numbers: pass them as float32.")
    size = max(1, BLOCK_BYTES // max(1, values.shape[1] * values.itemsize))
    for start in range(0, len(values), size):
        block = values[start : start + size]
        if not _finite(block):
            bad = np.flatnonzero(~np.isfinite(np.asarray(torch.as_tensor(block).cpu())).all(axis=1))
            raise InvalidInputError(f"{name} of row {start + bad[0]} are not finite: {fix}, or leave the row out.")
        if limits and block.size and (block.min() < limits[0] or block.max() > limits[1]):
            bad = np.flatnonzero(((block < limits[0]) | (block > limits[1])).any(axis=1))
            raise InvalidInputError(f"{name} of row {start + bad[0]} are not from 0 to 1: {fix}, or leave the row out.")


def _finite(block: Any) -> bool:
    if isinstance(block, torch.Tensor):
        return bool(torch.isfinite(block).all())
    integer, exponent = EXPONENT[block.itemsize]
    bits = np.ascontiguousarray(block).view(integer)
    return not bits.size or int((bits & integer(exponent)).max()) != exponent
