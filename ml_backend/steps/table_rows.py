"""Some rows of a large table, in any order, read when they are asked for: nothing is copied before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TableRows:
    """Rows `at` (n,) of `table` (M, d), as an array (n, d) that is read by slices and by arrays of row numbers."""

    table: NDArray[Any]
    at: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        return _read(self.table, self.at[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.at), self.table.shape[1]

    @property
    def ndim(self) -> int:
        return 2

    @property
    def itemsize(self) -> int:
        return self.table.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.table.dtype


def rows_of(table: NDArray[Any], at: NDArray[np.int64]) -> NDArray[Any] | TableRows:
    """Rows `at` (n,) of `table` (M, d): a slice of it where they are one run."""
    return _read(table, at) if _is_run(at) else TableRows(table, at)


def _read(table: NDArray[Any], at: NDArray[np.int64]) -> NDArray[Any]:
    return table[at[0] : at[-1] + 1] if _is_run(at) else table[at]


def _is_run(at: NDArray[np.int64]) -> bool:
    return len(at) > 0 and bool((np.diff(at) == 1).all())
