"""A guess that nobody has measured, heard beside heads that learned from labels: as far as labels bear it out, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ml_backend.learning.head import Head
from ml_backend.learning.mixture import JUDGED
from ml_backend.learning.tempering import mean_loss, temperature_of

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of a guess beside what was learned."""
UNHEARD = 4.0
"""How many nats of evidence speak for a weight of zero: heads of folds know fewer labels than the one that is served, and so
make the guess look better than it is."""


@dataclass(frozen=True)
class Hearsay:
    """A guess, as sure as rows bear it out that no head keeps apart. weight: (C, d). bias: (C,). logits: (C, n) of the rows."""

    weight: torch.Tensor
    bias: torch.Tensor
    logits: torch.Tensor
    multilabel: bool

    @classmethod
    def of(
        cls, guess: Head, classes: Sequence[str], rows: torch.Tensor, targets: torch.Tensor, among: torch.Tensor
    ) -> Hearsay:
        """rows: (n, d). among: (n,) those that may say how sure it is. Raises ValueError for a head of other classes or features."""
        if guess.classes != tuple(classes) or guess.weight.shape[1] != rows.shape[1]:
            raise ValueError("the guess is about other classes or in other features")
        weight, bias = (torch.from_numpy(part) / guess.temperature for part in (guess.weight, guess.bias))
        logits, factor = torch.addmm(bias[:, None], weight, rows.T), 1.0
        if bool(among.any()):
            factor = 1 / temperature_of(logits[:, among], targets[:, among], multilabel=guess.multilabel)
        return cls(weight * factor, bias * factor, logits * factor, guess.multilabel)

    def beside(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        asked: Iterable[torch.Tensor],
        targets: torch.Tensor,
        seen: Iterable[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights (B, C, d), biases (B, C), and the logits (C, n) of the first head, each with as much of the guess as it bears.

        asked: of each head, the logits (C, n) that folds of all rows gave. seen: (n,) of each head, the rows that it may know of.
        """
        weights, biases = [], []
        firsts: list[torch.Tensor] = []
        for place, (logits, rows) in enumerate(zip(asked, seen, strict=True)):
            factors = self._factors(logits, targets, rows)
            weights.append(_added(weight[place], self.weight, factors))
            biases.append(_added(bias[place], self.bias, factors))
            firsts = firsts or [_added(logits, self.logits, factors)]
        return torch.stack(weights), torch.stack(biases), firsts[0]

    def _factors(self, own: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> tuple[float, float]:
        """What the logits of a head and of the guess are multiplied by, before they are added; few rows are hardly heard."""
        if not bool(rows.any()):
            return 1.0, 0.0
        judged = torch.nonzero(rows)[:, 0]
        decisions = len(judged) * (len(targets) if self.multilabel else 1)
        most = max(JUDGED // len(targets), 1)
        if len(judged) > most:
            judged = judged[torch.linspace(0, len(judged) - 1, most).round().long()]
        own, said, targets = own[:, judged], self.logits[:, judged], targets[:, judged]
        factor = 1 / temperature_of(own, targets, multilabel=self.multilabel)
        costs = []
        for weight in WEIGHTS:
            logits = _added(factor * own, said, (1.0, weight))
            tempered = logits / temperature_of(logits, targets, multilabel=self.multilabel)
            cost = decisions * float(mean_loss(tempered, targets, multilabel=self.multilabel))
            costs.append(cost + UNHEARD * (weight > 0))
        best = WEIGHTS[int(np.argmin(costs))]
        return (factor, best) if best else (1.0, 0.0)


def _added(own: torch.Tensor, said: torch.Tensor, factors: tuple[float, float]) -> torch.Tensor:
    """Without the guess it is what it was, to the bit."""
    return factors[0] * own + factors[1] * said if factors[1] else own
