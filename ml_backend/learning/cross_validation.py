"""What heads say of labelled rows that they have not seen, and the penalty that does best there.

Where there are few rows and classes, all folds and penalties are solved side by side. Where one pass over the rows is long
work, the penalties are tried on one fold, from the strongest to the weakest, each from where the last one ended, and the
other folds are fitted with the penalty that is wanted: a third of the passes, and never more than one problem in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ml_backend.learning.logistic import Problems, solve
from ml_backend.learning.tempering import row_losses, temperature_of

LONG = 200_000_000
"""Rows times classes times dimensions from which on a pass over them is long work."""
TOLERANCE = 1e-2
ASKED = 1 << 21
"""Logits that the penalty is chosen by, at most, where a pass is long."""


class Validated(Protocol):
    """Heads of several penalties, asked about rows that they have not seen."""

    def best(self, rows: torch.Tensor) -> int:
        """Index of the penalty that does best on these rows (n,) bool; 0 where none of them was asked about."""
        ...

    def logits(self, penalty: int) -> torch.Tensor:
        """(C, n) of all rows, each by a head with this penalty that has not seen its fold."""
        ...


def is_long(problem: Problems) -> bool:
    """Whether one pass over the rows is long work."""
    rows, dim = problem.design.rows.shape
    return is_long_work(rows, problem.targets.shape[-2], dim)


def is_long_work(rows: int, classes: int, dim: int) -> bool:
    return rows * classes * dim > LONG


def cross_validate(problem: Problems, weights: torch.Tensor, fold: NDArray[np.int64], grid: torch.Tensor) -> Validated:
    """problem: of all rows. weights: (1, n) or (C, n). fold: (n,) from 0, two at least. grid: penalties, strongest first."""
    return _Path.of(problem, fold, grid) if is_long(problem) else _SideBySide.of(problem, weights, fold, grid)


def without(weights: torch.Tensor, fold: NDArray[np.int64], folds: int) -> torch.Tensor:
    """(folds, c, n) of row weights (c, n), each without the rows of a fold, summing to one."""
    kept = torch.from_numpy(fold) != torch.arange(folds)[:, None]
    left = weights * kept[:, None]
    return left / left.sum(2, keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True)
class _SideBySide:
    """of_folds: (penalties, C, n)."""

    problem: Problems
    of_folds: torch.Tensor

    @classmethod
    def of(cls, problem: Problems, weights: torch.Tensor, fold: NDArray[np.int64], grid: torch.Tensor) -> _SideBySide:
        folds, targets = int(fold.max()) + 1, problem.targets
        kept = without(weights, fold, folds).repeat_interleave(len(grid), 0)
        problems = replace(problem, weights=kept, penalties=grid.repeat(folds))  # number fold * len(grid) + penalty
        solution = solve(problems, tolerance=TOLERANCE)
        logits = targets.new_empty(len(grid), *targets.shape)
        for k in range(folds):
            rows = torch.from_numpy(fold == k)
            block = solution[k * len(grid) : (k + 1) * len(grid)]
            logits[:, :, rows] = block @ problem.design.rows[rows].T
        if problem.offset is not None:
            logits += problem.offset
        return cls(problem, logits)

    def best(self, rows: torch.Tensor) -> int:
        return best_penalty(self.problem, self.of_folds, rows)

    def logits(self, penalty: int) -> torch.Tensor:
        return self.of_folds[penalty]


@dataclass(frozen=True)
class _Path:
    """solutions: (1, C, p) of each penalty, without fold 0. asked: (m,) rows of that fold. told: (penalties, C, m), of these."""

    problem: Problems
    fold: torch.Tensor
    grid: torch.Tensor
    solutions: list[torch.Tensor]
    asked: torch.Tensor
    told: torch.Tensor
    known: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problems, fold: NDArray[np.int64], grid: torch.Tensor) -> _Path:
        own = torch.from_numpy(fold)
        seen = problem.at(torch.nonzero(own != 0)[:, 0])
        solutions: list[torch.Tensor] = []
        for penalty in grid:
            start = solutions[-1] if solutions else None
            solutions.append(solve(replace(seen, penalties=penalty[None]), tolerance=TOLERANCE, start=start))
        asked = torch.nonzero(own == 0)[:, 0]
        most = max(ASKED // problem.targets.shape[0], 1)
        asked = asked[torch.linspace(0, len(asked) - 1, min(most, len(asked))).round().long()]
        told = torch.stack([_asked(problem, each, asked) for each in solutions])
        return cls(problem, own, grid, solutions, asked, told)

    def best(self, rows: torch.Tensor) -> int:
        return best_penalty(self.problem.at(self.asked), self.told, rows[self.asked])

    def logits(self, penalty: int) -> torch.Tensor:
        if penalty not in self.known:
            self.known[penalty] = self._of_all_folds(penalty)
        return self.known[penalty]

    def _of_all_folds(self, penalty: int) -> torch.Tensor:
        result = torch.empty_like(self.problem.targets)
        for number in range(int(self.fold.max()) + 1):
            mine = torch.nonzero(self.fold == number)[:, 0]
            solution = self.solutions[penalty] if number == 0 else self._fitted_without(number, penalty)
            result[:, mine] = _asked(self.problem, solution, mine)
        return result

    def _fitted_without(self, number: int, penalty: int) -> torch.Tensor:
        seen = self.problem.at(torch.nonzero(self.fold != number)[:, 0])
        return solve(replace(seen, penalties=self.grid[penalty : penalty + 1]), tolerance=TOLERANCE)


def _asked(problem: Problems, solution: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(C, m) what a solution (1, C, p) says of these rows (m,)."""
    logits = solution[0] @ problem.design.rows[rows].T
    return logits if problem.offset is None else logits + problem.offset[:, rows]


def best_penalty(problem: Problems, of_folds: torch.Tensor, rows: torch.Tensor) -> int:
    """Index of the penalty with the lowest log loss on these rows (n,), asked by folds (penalties, C, n) and tempered."""
    if not bool(rows.any()):
        return 0
    targets, multilabel = problem.targets[:, rows], problem.multilabel
    losses = torch.stack([_tempered(each[:, rows], targets, multilabel=multilabel) for each in of_folds])
    best = int(losses.mean(1).argmin())
    return best if problem.offset is None else _strongest_as_good(losses, best)


def _tempered(logits: torch.Tensor, targets: torch.Tensor, *, multilabel: bool) -> torch.Tensor:
    temperature = temperature_of(logits, targets, multilabel=multilabel)
    return row_losses(logits / temperature, targets, multilabel=multilabel)


def _strongest_as_good(losses: torch.Tensor, best: int) -> int:
    """The strongest penalty whose losses (penalties, n) are within a standard error of the best's, row by row.

    A head that is there already is left alone until the labels show that it is wrong.
    """
    excess = losses - losses[best]
    error = excess.std(1, correction=0) / losses.shape[1] ** 0.5
    return int(torch.nonzero(excess.mean(1) <= error)[0, 0])
