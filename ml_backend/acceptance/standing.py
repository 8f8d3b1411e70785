"""How far an audit is: what was looked at, what that says, and what is to be looked at next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.acceptance.audit import UNSEEN, WRONG, Audit, ClassAudit, Finding, Verdicts
from ml_backend.acceptance.looks import Looks, fault
from ml_backend.acceptance.proposal import Ids, Proposal
from ml_backend.records import LabelSchema
from ml_backend.store.acceptances import Acceptance, Frozen
from ml_backend.store.rows import PoolRows
from ml_backend.wording import amount


@dataclass(frozen=True)
class Sample(Audit):
    """An audit as it was frozen, whose sample of all may have been ended.

    asked: (m,) `parts`, as they were before anybody looked, whatever a later release makes of them. ended: looks that the sample
    has, whatever else is looked at since; None while it goes on.
    """

    asked: Ids
    ended: int | None

    @cached_property
    def parts(self) -> Ids:
        return self.asked

    def drawn(self, verdicts: Verdicts) -> int:
        drawn = super().drawn(verdicts)
        return drawn if self.ended is None else min(drawn, self.ended)


@dataclass(frozen=True)
class Standing:
    """An acceptance beside what people say of its labels.

    looks: without what counts as wrong because nobody can look at it any more. fault: why nothing can be decided now.
    """

    acceptance: Acceptance
    frozen: Frozen
    looks: Looks
    fault: str | None

    @classmethod
    def at(cls, acceptance: Acceptance, frozen: Frozen, rows: PoolRows, schema: LabelSchema) -> Standing:
        looks = Looks.at(frozen, acceptance.classes, rows, schema)
        return cls(acceptance, frozen, looks, fault(frozen, acceptance.classes, schema))

    @cached_property
    def audit(self) -> Sample:
        mine, kept = self.acceptance, self.frozen
        proposal = Proposal(kept.ids, kept.labels, kept.doubt, len(mine.classes))
        return Sample(proposal, mine.error, mine.risk, mine.class_risk, mine.order, kept.parts, mine.sample)

    @cached_property
    def sampled(self) -> Ids:
        """Places of the sample of all, as far as it is asked for."""
        mine = self.acceptance
        return self.audit.order[: mine.drawn if mine.sample is None else mine.sample]

    @property
    def verdicts(self) -> Verdicts:
        """(n,) with what is asked for, and cannot be looked at any more, as WRONG: nobody makes it better by deleting."""
        return self._settled[0]

    @cached_property
    def finding(self) -> Finding:
        return self.audit.finding(self.verdicts)

    @cached_property
    def accepted(self) -> NDArray[np.bool_]:
        """(n,) may be written without a look: vouched for, without an answer, and with the image that the model saw."""
        return np.asarray(self.finding.accepted & self.looks.waiting)

    @property
    def unwritten(self) -> Ids:
        """Places of what was certified and still waits for an answer, with the image that the model saw."""
        certified = self.frozen.accepted
        return self.sampled[:0] if certified is None else np.flatnonzero(certified & self.looks.waiting)

    @property
    def wrong_at_most(self) -> int:
        """How many of `accepted` may be wrong."""
        return min(self.finding.wrong, int(self.accepted.sum()))

    @property
    def to_ask(self) -> Ids:
        """Places of what people are to look at now, in this order: first the sample of all; once it is ended, rare classes."""
        missing = self.sampled[self.verdicts[self.sampled] == UNSEEN]
        return missing if len(missing) else self._settled[1]

    @property
    def asked_tasks(self) -> list[int]:
        """Tasks of `to_ask` in the order drawn: not class by class, as rare ones are there, for that would tell the guess."""
        order = self.audit.order
        return [int(task) for task in self.frozen.ids[order[np.isin(order, self.to_ask)]]]

    @property
    def answered_tasks(self) -> set[int]:
        """Tasks that people have answered or skipped, whether they were asked for or not."""
        return set(self.frozen.ids[self.looks.verdicts != UNSEEN].tolist())

    @property
    def next_in_words(self) -> str:
        """What there is to do while the audit is on: a part of a sentence."""
        if count := len(self.to_ask):
            return f"{amount(count, 'task')} in the queue to answer"
        if self.acceptance.sample is None:
            return "the next turn says whether more is to be looked at (`ml-backend sync run`)"
        if self.accepted.any():
            return "complete: run `ml-backend accept certify`; no guess is shown before"
        return "complete, and nothing is vouched for: `ml-backend accept stop`, label on, and audit again"

    @property
    def looked_at(self) -> Ids:
        """Places of the labels that were asked for and looked at, those of rare classes included."""
        own = [self._own(each.number)[: each.looks] for each in self.rare_asked]
        places: Ids = np.unique(np.concatenate([self.sampled[self.verdicts[self.sampled] != UNSEEN], *own]))
        return places

    @property
    def looked(self) -> int:
        return len(self.looked_at)

    @property
    def wrong(self) -> int:
        """How many of the sample of all were found wrong."""
        return int((self.verdicts[self.sampled] == WRONG).sum())

    @property
    def rare_asked(self) -> tuple[ClassAudit, ...]:
        """Rare classes for which looks of their own are, or were, worth it; none before the sample of all is ended."""
        return self.finding.rare if self.acceptance.sample is not None else ()

    @property
    def found(self) -> int | None:
        """Wrong ones found in the part that was certified; 0 before that. None: labels have other names now, so nobody can tell."""
        if self.fault:
            return None
        part = (self.acceptance.certificate or {}).get("part", 0)
        return int((self.looks.verdicts[:part] == WRONG).sum())

    @property
    def broken(self) -> str | None:
        """What to say where more wrong ones were found than the certificate says there are; None where there were not."""
        certificate = self.acceptance.certificate
        found = self.found
        if certificate is None or found is None or found <= certificate["wrong_in_part_at_most"]:
            return None
        return (
            f"Certificate {self.acceptance.certificate_id} is broken: {found:,} wrong labels were found among the "
            f"{certificate['part']:,} that it is about, and it says that there are {certificate['wrong_in_part_at_most']:,} at "
            "most. Take back what was accepted by it, and label on."
        )

    def progress(self) -> dict[str, Any]:
        """What is told of it until the next turn."""
        certificate = self.acceptance.certificate
        if certificate is not None:
            return {
                "found_wrong": self.found,
                "wrong_at_most": certificate["wrong_in_part_at_most"],
                "broken": self.broken,
            }
        return {
            "asked": self.looked + len(self.to_ask),
            "looked": self.looked,
            "wrong": self.wrong,
            "would_accept": int(self.accepted.sum()),
            "problem": self.fault,
        }

    @cached_property
    def _settled(self) -> tuple[Verdicts, Ids]:
        """`verdicts`, and the places of the next looks of rare classes."""
        verdicts = self.looks.verdicts.copy()
        verdicts[self.sampled[self.looks.lost[self.sampled]]] = WRONG
        if self.acceptance.sample is None or (verdicts[self.sampled] == UNSEEN).any():
            return verdicts, self.sampled[:0]
        while True:
            finding = self.audit.finding(verdicts)
            asked = self._next_of_rare(finding)
            lost = asked[self.looks.lost[asked] & (verdicts[asked] == UNSEEN)]
            if not len(lost):
                return verdicts, asked[verdicts[asked] == UNSEEN]
            verdicts[lost] = WRONG

    def _next_of_rare(self, finding: Finding) -> Ids:
        """Those that would vouch for rare classes, where there are fewer than people would have to label else.

        In the order of all: class by class, they would tell what the model says of them.
        """
        worth = [each for each in finding.rare if each.more and each.looks + each.more < each.labels]
        parts = [self._own(each.number, finding.size)[each.looks : each.looks + (each.more or 0)] for each in worth]
        order = self.audit.order
        return np.asarray(order[np.isin(order, np.concatenate([self.sampled[:0], *parts]))])

    def _own(self, number: int, size: int | None = None) -> Ids:
        """Places of a rare class in the certified part, in the order in which they are looked at."""
        order = self.audit.order
        own = order[order < (self.finding.size if size is None else size)]
        return np.asarray(own[self.frozen.labels[own] == number])
