"""What it would take to have the rest of a project labelled, before anybody looks at a sample."""

from __future__ import annotations

from dataclasses import dataclass

from ml_backend.acceptance.bounds import enough, most_wrong
from ml_backend.acceptance.proposal import Proposal


@dataclass(frozen=True)
class Forecast:
    """What is to be expected.

    error: share of wrong labels that is allowed. sample: labels of the model that people look at. accepted: that nobody
    looks at. left: tasks that people label because the model is too often wrong on them.
    """

    error: float
    sample: int
    accepted: int
    left: int

    @property
    def looks(self) -> int:
        return self.sample + self.left


def forecast(proposal: Proposal, error: float, risk: float) -> Forecast:
    """The part that would cost the fewest looks in all, with as many wrong ones in its sample as are to be expected.

    proposal: corrected by what held-out answers show. Where no sample would do, or none is worth it, nothing is accepted.
    """
    best = Forecast(error, 0, 0, len(proposal))
    for size in proposal.parts(error).tolist():
        expected, needed = proposal.believed[size - 1], enough(size, most_wrong(error, size), risk)
        sample = next((looks for wrong, looks in enumerate(needed) if expected * looks <= wrong + 0.5), None)
        if sample is None:
            break  # a part passes only after the one before
        found = Forecast(error, sample, size - sample, len(proposal) - size)
        if found.looks < best.looks:
            best = found
    return best
