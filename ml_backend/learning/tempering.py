"""How well logits agree with labels, and the temperature with which they agree best. Logits and targets are (C, n)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

HEARD, HEARD_CLOSELY = 1 << 18, 1 << 22
"""Logits that a temperature is fitted to, at most: where it helps to choose something, and where it is the head's own."""


def row_losses(logits: torch.Tensor, targets: torch.Tensor, *, multilabel: bool) -> torch.Tensor:
    """(n,) of logits and targets (C, n)."""
    if multilabel:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(0)
    return -(targets * torch.log_softmax(logits, 0)).sum(0)


def mean_loss(logits: torch.Tensor, targets: torch.Tensor, *, multilabel: bool) -> torch.Tensor:
    return row_losses(logits, targets, multilabel=multilabel).mean()


def temperature_of(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    multilabel: bool,
    heard: int = HEARD,
) -> float:
    """Temperature in 0.05..20 that minimises held-out log loss, by golden-section search on its logarithm.

    weights: (n,) how much each row counts. C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. One
    undecided example is shared out over the rows, so that a handful of right answers does not make the head certain.
    heard: logits listened to; of more, some rows, as many of each weight as their share is.
    """
    classes, n = targets.shape
    if classes * n > heard:
        some = _some(n, max(heard // classes, 1), weights)
        logits, targets = logits[:, some], targets[:, some]
        weights = None if weights is None else weights[some]
    targets = (n * targets + (0.5 if multilabel else 1.0 / classes)) / (n + 1)

    def loss(log_temperature: float) -> float:
        losses = row_losses(logits / np.exp(log_temperature), targets, multilabel=multilabel)
        return float(losses.mean() if weights is None else weights @ losses)

    low, high, ratio = float(np.log(0.05)), float(np.log(20.0)), 0.6180339887498949
    points = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(t) for t in points]
    for _ in range(16):
        if losses[0] <= losses[1]:
            high, points[1], losses[1] = points[1], points[0], losses[0]
            points[0] = high - ratio * (high - low)
            losses[0] = loss(points[0])
        else:
            low, points[0], losses[0] = points[0], points[1], losses[1]
            points[1] = low + ratio * (high - low)
            losses[1] = loss(points[1])
    return float(np.exp(0.5 * (low + high)))


def _some(n: int, count: int, weights: torch.Tensor | None) -> torch.Tensor:
    """`count` of n rows, evenly spaced in the order of their weights, then of their numbers."""
    order = torch.arange(n) if weights is None else torch.argsort(weights, descending=True, stable=True)
    return order[torch.linspace(0, n - 1, count).round().long()]
