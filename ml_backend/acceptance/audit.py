"""What a random sample of a model's labels, looked at by people, says of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml_backend.acceptance.bounds import looks_needed, most_wrong
from ml_backend.acceptance.proposal import Ids, Proposal

RARE = 0.75
"""A class with fewer labels than this share of what each would have, were all alike, has to be vouched for by itself."""
CLASS_ERROR = 2.0
"""A rare class may have so many times the share of wrong labels that all may have together."""
FEWEST = 10
"""Looks that are asked for at a time, at least, or all that are left: each time, people wait for the next ones."""
PRIOR = 100
"""Looks after which what was found counts as much as nothing found, where the next looks are weighed."""

UNSEEN, RIGHT, WRONG = -1, 0, 1
Verdicts = NDArray[np.int8]
"""(n,) of each label: not looked at, right, or wrong; the last, too, where whoever looked could not say."""


@dataclass(frozen=True)
class ClassAudit:
    """A rare class in the part that is certified. labels: how many it has there. looks: how many of its own were looked at.

    wrong: of these. more: further looks that would vouch for it, were they all right; 0: it is vouched for; None: it
    stays with people, as it has too many wrong ones, or would have so few labels left that a single wrong one was too many.
    """

    number: int
    labels: int
    looks: int
    wrong: int
    more: int | None


@dataclass(frozen=True)
class Finding:
    """What a sample has come to.

    size: of the part from the front that is certified; 0 for none. accepted: (n,) bool, may be written without a look.
    wrong: how many of `accepted` may be wrong at most. rare: its rare classes; those not vouched for are not accepted.
    """

    size: int
    accepted: NDArray[np.bool_]
    wrong: int
    rare: tuple[ClassAudit, ...]


@dataclass(frozen=True)
class Audit:
    """error: share of wrong labels that is allowed. risk: of certifying a part that has more. class_risk: the same of a rare class.

    order: (n,) places in `proposal`, in the random order in which they are looked at. The first few are looked at; of a
    rare class, then, the next few of its own in this order: not before the sample of all is ended, or `class_risk` is exceeded.
    """

    proposal: Proposal
    error: float
    risk: float
    class_risk: float
    order: Ids

    @cached_property
    def parts(self) -> Ids:
        return self.proposal.parts(self.error)

    def finding(self, verdicts: Verdicts) -> Finding:
        """The largest part that the sample vouches for, as for all parts before it.

        A fixed sequence of tests, each only once the one before has passed: together they take the risk of one (W. Maurer
        et al., "Multiple comparisons in drug clinical trials and preclinical assays", 1995). verdicts: (n,).
        """
        passed = self._passed(verdicts)
        size = int(self.parts[passed - 1]) if passed else 0
        accepted = (np.arange(len(self.proposal)) < size) & (verdicts == UNSEEN)
        rare = tuple(self._rare(size, verdicts))
        for each in rare:
            if each.more != 0:
                accepted &= self.proposal.labels != each.number
        wrong = most_wrong(self.error, size) - self._found(passed - 1, verdicts) if passed else 0
        return Finding(size, accepted, min(wrong, int(accepted.sum())), rare)

    def worthwhile(self, verdicts: Verdicts) -> int:
        """How many further looks promise to save more looks than they cost; 0 where it is time to stop."""
        passed, drawn = self._passed(verdicts), self.drawn(verdicts)
        sample = np.sort(self.order[:drawn])
        wrong_ones = sample[verdicts[sample] == WRONG]
        looks, wrong = np.searchsorted(sample, self.parts), np.searchsorted(wrong_ones, self.parts)
        everywhere = len(self.proposal)
        # In all, were this part certified: what is behind it, and the sample.
        to_look_at = everywhere - self.parts + looks
        now = to_look_at[passed - 1] if passed else everywhere
        best, more = 0.0, 0
        for part in range(passed, len(self.parts)):
            needed, found = self._needed(part), int(wrong[part])
            if found + 1 >= len(needed):
                continue
            missing = max(needed[found] - int(looks[part]), 1)
            again = (needed[found + 1] - needed[found]) * (found + 0.5) / (int(looks[part]) + PRIOR)
            size = int(self.parts[part])
            gain = now - to_look_at[part] - missing * (1 + again) * everywhere / size
            if gain > best:
                best, more = gain, int(np.ceil(missing * everywhere / size))
        return min(max(more, FEWEST), everywhere - drawn) if more else 0

    def drawn(self, verdicts: Verdicts) -> int:
        """How many, from the front of the order, have been looked at."""
        unseen = np.flatnonzero(verdicts[self.order] == UNSEEN)
        return int(unseen[0]) if len(unseen) else len(self.order)

    def _needed(self, part: int) -> tuple[int, ...]:
        size = int(self.parts[part])
        return looks_needed(size, most_wrong(self.error, size), self.risk)

    def _passed(self, verdicts: Verdicts) -> int:
        """How many of `parts`, from the first on, the sample vouches for; without the last in which too many were found since."""
        sample, passed = self.order[: self.drawn(verdicts)], 0
        for part, size in enumerate(self.parts.tolist()):
            mine = sample[sample < size]
            if _vouched(verdicts[mine] == WRONG, self._needed(part)) != 0:
                break
            passed = part + 1
        while passed and self._found(passed - 1, verdicts) > most_wrong(self.error, int(self.parts[passed - 1])):
            passed -= 1
        return passed

    def _found(self, part: int, verdicts: Verdicts) -> int:
        return int((verdicts[: self.parts[part]] == WRONG).sum())

    def _rare(self, size: int, verdicts: Verdicts) -> Iterator[ClassAudit]:
        inside = self.order[self.order < size]
        labels = self.proposal.labels[inside]
        counts = np.bincount(labels, minlength=self.proposal.classes)
        for number in np.flatnonzero((counts > 0) & (counts < RARE * size / self.proposal.classes)).tolist():
            yield self._class(number, verdicts[inside[labels == number]])

    def _class(self, number: int, own: Verdicts) -> ClassAudit:
        """own: of all its labels in the part, in the random order."""
        unseen = np.flatnonzero(own == UNSEEN)
        count, looks = len(own), int(unseen[0]) if len(unseen) else len(own)
        wrong, most = own[:looks] == WRONG, most_wrong(CLASS_ERROR * self.error, count)
        more = _vouched(wrong, looks_needed(count, most, self.class_risk)) if wrong.sum() <= most else None
        if more is not None and len(unseen) and CLASS_ERROR * self.error * (count - looks - more) < 1:
            more = None
        return ClassAudit(number, count, looks, int(wrong.sum()), more)


def _vouched(wrong: NDArray[np.bool_], needed: tuple[int, ...]) -> int | None:
    """How many further looks, all right, are needed; 0 where these are enough. wrong: (m,) of the sample, in its order."""
    so_far = np.concatenate([[0], np.cumsum(wrong)])
    if any(looks <= len(wrong) and so_far[looks] <= k for k, looks in enumerate(needed)):
        return 0
    found = int(so_far[-1])
    return needed[found] - len(wrong) if found < len(needed) else None
