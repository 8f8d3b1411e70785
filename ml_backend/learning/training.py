"""Train the head: cold, in about a second, with its penalty and its temperature chosen on folds it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from ml_backend.learning.cross_validation import cross_validate, is_long, without
from ml_backend.learning.head import Head
from ml_backend.learning.hearsay import Hearsay
from ml_backend.learning.logistic import FEW_CLASSES, Design, Problems, solve
from ml_backend.learning.mixture import Mixture, mixed
from ml_backend.learning.record import FOLDS
from ml_backend.learning.spreading import Unlabelled, fit_spread_head, too_many
from ml_backend.learning.tempering import HEARD_CLOSELY, mean_loss, temperature_of

ClassWeight = Literal["balanced"] | None
PENALTIES = (1e-2, 3e-3, 1e-3, 1e-4, 1e-5)
"""L2 penalties tried, on mean cross-entropy of unit rows: scikit-learn's C is 1 / (n * penalty)."""
PRIOR_PENALTIES = (1e2, 1e1, 1.0, 1e-1, *PENALTIES)
"""From a head that is there already: also stronger ones, that leave it nearly as it is."""


EXPECTED, PRIOR_EXPECTED = (0.75, 2.0), (0.0, 4.0)
"""The share expected before any label, and how many nats of evidence speak for it against a share of one more or less.

The second where the other head starts from one that is there already, and so need not be poor while there are few labels.
"""
TOLERANCE, LONG_TOLERANCE = 1e-4, 1e-3
"""How exactly the heads are fitted; the second where there are many classes, or one pass over the rows is long work."""
OTHERS = 80.0
"""Rows that somebody chose, a strategy say, count together as so many held-out ones where the temperature is fitted."""


@dataclass(frozen=True)
class TrainingReport:
    """What was chosen, and how well it did on held-out folds.

    fold_probabilities: (n, C) float32, each row by a head that has not seen it; None with fewer than two labels a
    fold can be made of. accuracy: share of these that name the label (multi-label: share of right decisions).
    """

    n: int
    counts: tuple[int, ...]
    penalty: float
    temperature: float
    folds: int
    accuracy: float | None
    log_loss: float | None
    fold_probabilities: NDArray[np.float32] | None


@dataclass(frozen=True)
class TrainedHead:
    """fold_heads: FOLDS, each of all labels but the held-out ones of its fold; none where no row is held out.

    blind: of all labels but the held-out ones; `head` where no row is held out, None where all are.
    """

    head: Head
    report: TrainingReport
    fold_heads: tuple[Head, ...]
    blind: Head | None


def train_head(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.int64] | NDArray[np.bool_],
    classes: Sequence[str],
    *,
    seed: int,
    class_weight: ClassWeight = None,
    folds: int | None = None,
    penalties: Sequence[float] | None = None,
    prior: Head | None = None,
    guess: Head | None = None,
    pool: Unlabelled | None = None,
    apart: NDArray[np.int64] | None = None,
) -> TrainedHead:
    """Fit a linear head on features (n, d), any float type, rows of about unit length.

    labels: (n,) int64 class index, or (n, C) bool for multi-label. Classes without a label keep a (small)
    probability. prior: a head for the same classes to start from; only the difference to it is penalised, so few
    labels correct it rather than replace it.
    guess: a head for the same classes that nobody has measured, as one from their names: it is heard beside what was learned
    as far as the labels bear it out (`hearsay`).
    pool: what the rows are part of; then the unlabelled teach as well: beside a prior once every class has a label and they
    show that it does better.
    apart: (n,) the fold, 0 to FOLDS - 1, of each held-out row, -1 for the others; then FOLDS more heads are fitted, each
    without the held-out rows of its fold, and one without any of them; and they count for more in the temperature.
    Deterministic on one machine: same rows, same seed, same number of threads -> same weights. Raises ValueError for no rows,
    mismatched shapes, or labels outside `classes`.
    """
    targets, multilabel = _targets(features, labels, len(classes))
    rows = torch.from_numpy(np.array(features, np.float32))
    design = Design.of(rows)
    weights = _row_weights(targets, class_weight, multilabel=multilabel)
    grid = torch.tensor(sorted(penalties or (PENALTIES if prior is None else PRIOR_PENALTIES), reverse=True))
    base, base_bias = _prior(prior, tuple(classes), rows.shape[1])
    offset = None if prior is None else torch.addmm(base_bias[:, None], base, rows.T)
    problem = Problems(design, targets, (weights / weights.sum(1, keepdim=True))[None], grid[:1], multilabel, offset)
    n = len(rows)
    folds = folds or (5 if n < 2000 else 3)  # many labels estimate as well with fewer folds
    by = (
        targets.T.numpy() if multilabel else -labels.astype(np.int64)[:, None]
    )  # the order of its one-hot rows, without sorting them
    fold = assign_folds(by, min(folds, n), np.random.default_rng(seed))
    kept_apart = _Apart.of(np.full(n, -1) if apart is None else apart)
    validated = cross_validate(problem, weights, fold, grid) if fold.max() else None
    seen = kept_apart.seen()
    chosen = [validated.best(each) if validated else 0 for each in seen]
    weight, bias = _fitted(problem, weights, kept_apart, grid[chosen])
    weight, bias = weight + base, bias + base_bias
    logits, temperature = None, 1.0
    if validated is not None:
        asked = (validated.logits(penalty) for penalty in chosen)  # one at a time: many classes take much memory
        # What spreads takes nothing for a class without a label; a prior may know it. Fewest classes are in the rows seen last.
        known_to_all = prior is None or bool(targets[:, seen[-1]].any(1).all())
        if pool is not None and known_to_all and not too_many(n, len(classes), int(fold.max()) + 1):
            spread = fit_spread_head(pool, targets, fold, kept_apart.fold, multilabel=multilabel, seed=seed)
            expected = PRIOR_EXPECTED if prior else EXPECTED
            mixtures = [
                Mixture.of(validated.logits(penalty), spread.logits, targets, each, expected, multilabel=multilabel)
                for penalty, each in zip(chosen, seen, strict=True)
            ]
            asked = (each.joined(own, spread.logits) for each, own in zip(mixtures, asked, strict=True))
            weight, bias = mixed(mixtures, weight, spread.weight), mixed(mixtures, bias, spread.bias)
        if guess is None:
            logits = next(asked)
        else:
            said = Hearsay.of(guess, classes, rows, targets, seen[-1])
            weight, bias, logits = said.beside(weight, bias, asked, targets, seen)
        logits = kept_apart.answered(rows, weight, bias, logits)
        temperature = temperature_of(logits, targets, kept_apart.hearing(), multilabel=multilabel, heard=HEARD_CLOSELY)
    heads = [
        Head(tuple(classes), w.contiguous().numpy(), b.numpy(), temperature, multilabel)
        for w, b in zip(weight, bias, strict=True)
    ]
    report = _report(targets, logits, float(grid[chosen[0]]), temperature, int(fold.max()) + 1, multilabel)
    return TrainedHead(heads[0], report, kept_apart.of_each_fold(heads), kept_apart.blind(heads))


@dataclass(frozen=True)
class _Apart:
    """fold: (n,) place in `folds`, of the held-out rows; -1 for the others. folds: those that have a row, ascending."""

    fold: NDArray[np.int64]
    folds: NDArray[np.int64]

    @classmethod
    def of(cls, apart: NDArray[np.int64]) -> _Apart:
        if len(apart) and not -1 <= apart.min() <= apart.max() < FOLDS:
            raise ValueError(f"folds kept apart must be -1 to {FOLDS - 1}")
        folds = np.unique(apart[apart >= 0])
        return cls(np.where(apart < 0, -1, np.searchsorted(folds, apart)), folds)

    def seen(self) -> list[torch.Tensor]:
        """(n,) of each head, the rows that it has learned from: all, then all but a fold, at last all but the held-out ones.

        What is chosen for a head, by how folds of all labels do, is chosen by these alone.
        """
        fold = torch.from_numpy(self.fold)
        if not len(self.folds):
            return [fold < 0]
        return [fold >= -1, *(fold != number for number in range(len(self.folds))), fold < 0]

    def answered(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """The logits (C, n) that folds of all rows gave; for the held-out ones, those of the head without their fold."""
        result = logits.clone()
        for number in range(len(self.folds)):
            mine = torch.from_numpy(self.fold == number)
            result[:, mine] = torch.addmm(bias[1 + number][:, None], weight[1 + number], rows[mine].T)
        return result

    def hearing(self) -> torch.Tensor | None:
        """(n,) how much each row counts for the temperature; None where none is held out, so that all count the same."""
        if not len(self.folds):
            return None
        held_out = torch.from_numpy(self.fold >= 0)
        return torch.where(held_out, 1.0, min(1.0, OTHERS / max(int((~held_out).sum()), 1)))

    def of_each_fold(self, heads: Sequence[Head]) -> tuple[Head, ...]:
        """heads: the first of all rows, then one for each of `folds`. Where a fold has no row, the first is without it."""
        if not len(self.folds):
            return ()
        own = dict(zip(self.folds.tolist(), heads[1:-1], strict=True))
        return tuple(own.get(number, heads[0]) for number in range(FOLDS))

    def blind(self, heads: Sequence[Head]) -> Head | None:
        """heads: the last one is of the rows that are not held out."""
        return heads[-1] if (self.fold < 0).any() else None


def _fitted(
    problem: Problems, weights: torch.Tensor, apart: _Apart, penalties: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (B, C, d) and biases (B, C): of all rows; then, where folds are kept apart, of all but each and but all."""
    if is_long(problem):
        solutions = _one_by_one(problem, apart, penalties)
    else:
        kept, tolerance = problem.weights, TOLERANCE if len(problem.targets) <= FEW_CLASSES else LONG_TOLERANCE
        if len(apart.folds):
            others = without(weights, np.minimum(apart.fold, 0), 1)
            kept = torch.cat([kept, without(weights, apart.fold, len(apart.folds)), others])
        solutions = solve(replace(problem, weights=kept, penalties=penalties), tolerance=tolerance)
    return problem.design.unrotate(solutions)


def _one_by_one(problem: Problems, apart: _Apart, penalties: torch.Tensor) -> torch.Tensor:
    """The same (B, C, p), each from what comes of the rows that are not held out: a few passes more and never one too many.

    None of them can know an image of its fold then, even though it is not searched for to the end.
    """
    solutions: list[torch.Tensor] = []
    for penalty, seen in reversed([*zip(penalties, apart.seen(), strict=True)]):
        rows = torch.nonzero(seen)[:, 0]
        own = replace(problem.at(rows), penalties=penalty[None])
        solutions.append(solve(own, tolerance=LONG_TOLERANCE, start=solutions[0] if solutions else None))
    return torch.cat(solutions[::-1])


def _prior(prior: Head | None, classes: tuple[str, ...], dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    if prior is None:
        return torch.zeros(len(classes), dim), torch.zeros(len(classes))
    if prior.classes != classes or prior.weight.shape[1] != dim:
        raise ValueError("the prior head is for other classes or other features")
    return torch.from_numpy(prior.weight) / prior.temperature, torch.from_numpy(prior.bias) / prior.temperature


def _targets(features: NDArray[np.floating[Any]], labels: NDArray[Any], n_classes: int) -> tuple[torch.Tensor, bool]:
    """(C, n) float32, 0 or 1, and whether there may be several a row."""
    if features.ndim != 2 or len(features) == 0 or len(features) != len(labels):
        raise ValueError(f"need features (n, d) and n labels, n > 0, not {features.shape} and {labels.shape}")
    if labels.ndim == 2:
        if labels.shape[1] != n_classes:
            raise ValueError(f"multi-label labels must be (n, {n_classes}), not {labels.shape}")
        return torch.from_numpy(labels.T.astype(np.float32, order="C")), True
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must be class indices in 0..{n_classes - 1}")
    return F.one_hot(torch.from_numpy(labels.astype(np.int64)), n_classes).T.float().contiguous(), False


def _row_weights(targets: torch.Tensor, class_weight: ClassWeight, *, multilabel: bool) -> torch.Tensor:
    """(1, n), or (C, n) for balanced multi-label: each class (or each side of a class) gets the same total weight."""
    c, n = targets.shape
    if class_weight is None:
        return targets.new_ones(1, n)
    counts = targets.sum(1, keepdim=True).clamp_min(1)
    if multilabel:
        negatives = (n - targets.sum(1, keepdim=True)).clamp_min(1)
        return torch.where(targets > 0, n / (2 * counts), n / (2 * negatives))
    return (targets * (n / (c * counts))).sum(0, keepdim=True)


def assign_folds(targets: NDArray[Any], folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Fold numbers (n,): stratified by label (multi-label: by label set), sizes differing by one at most."""
    order = generator.permutation(len(targets))
    strata = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
    order = order[np.argsort(strata[order], kind="stable")]
    fold = np.empty(len(targets), np.int64)
    fold[order] = np.arange(len(targets)) % folds
    return fold


def _report(
    targets: torch.Tensor, logits: torch.Tensor | None, penalty: float, temperature: float, folds: int, multilabel: bool
) -> TrainingReport:
    n, counts = targets.shape[1], tuple(int(count) for count in targets.sum(1))
    if logits is None:
        return TrainingReport(n, counts, penalty, temperature, folds, None, None, None)
    logits = logits / temperature
    probabilities = torch.sigmoid(logits) if multilabel else torch.softmax(logits, 0)
    right = ((probabilities > 0.5) == (targets > 0.5)) if multilabel else logits.argmax(0) == targets.argmax(0)
    loss = float(mean_loss(logits, targets, multilabel=multilabel))
    accuracy = float(right.float().mean())
    fold_probabilities = probabilities.T.float().contiguous().numpy()
    return TrainingReport(n, counts, penalty, temperature, folds, accuracy, loss, fold_probabilities)
