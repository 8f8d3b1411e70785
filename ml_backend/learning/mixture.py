"""Two linear heads joined to one, by how well each does on rows that neither has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ml_backend.learning.tempering import mean_loss, temperature_of

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the head that learned from the unlabelled, in the mixture."""
JUDGED = 1 << 20
"""Logits by which a share is chosen, at most."""


@dataclass(frozen=True)
class Mixture:
    """share: of the spread head. alone, spread: what the logits of each are multiplied by before, so that they are tempered."""

    share: float
    alone: float
    spread: float

    @classmethod
    def of(
        cls,
        alone: torch.Tensor,
        spread: torch.Tensor,
        targets: torch.Tensor,
        rows: torch.Tensor,
        expected: tuple[float, float],
        *,
        multilabel: bool,
    ) -> Mixture:
        """The share that does best on these rows (n,), asked by folds; few of them are hardly heard."""
        usual, doubt = expected
        best = cls(usual, 1.0, 1.0)
        if not bool(rows.any()):
            return best
        decisions = int(rows.sum()) * (len(targets) if multilabel else 1)
        judged = torch.nonzero(rows)[:, 0]
        most = max(JUDGED // len(targets), 1)
        if len(judged) > most:
            judged = judged[torch.linspace(0, len(judged) - 1, most).round().long()]
        targets, own, spread = targets[:, judged], alone[:, judged], spread[:, judged]
        factors = [1 / temperature_of(each, targets, multilabel=multilabel) for each in (own, spread)]
        lowest = float("inf")
        for share in SHARES:
            mixture = cls(share, *factors)
            logits = mixture.joined(own, spread)
            tempered = logits / temperature_of(logits, targets, multilabel=multilabel)
            cost = decisions * float(mean_loss(tempered, targets, multilabel=multilabel)) + doubt * (share - usual) ** 2
            if cost < lowest:
                lowest, best = cost, mixture
        return best

    def joined(self, alone: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        return torch.lerp(alone * self.alone, spread * self.spread, self.share)


def mixed(mixtures: Sequence[Mixture], alone: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Weights or biases (B, ...) of both kinds of heads, joined head by head: the geometric mean of what they say is a linear head."""
    return torch.stack([each.joined(*both) for each, *both in zip(mixtures, alone, spread, strict=True)])
