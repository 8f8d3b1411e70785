"""An acceptance of made-up labels beside a ledger that says what a test wants people to have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ml_backend.acceptance.proposal import Proposal
from ml_backend.acceptance.standing import Standing
from ml_backend.records import LabelSchema
from ml_backend.store.acceptances import Acceptance, Frozen
from ml_backend.store.rows import PoolRows

CLASSES = ("cat", "dog")
SCHEMA = LabelSchema("choice", "image", "image", CLASSES)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class LookedAt:
    """Tasks 1 to n, which the model calls by `labels`; the most trusted first."""

    labels: Sequence[int]
    error: float = 0.05
    drawn: int = 10
    sample: int | None = None
    seed: int = 7
    classes: tuple[str, ...] = CLASSES
    said: dict[int, str] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    accepted: set[int] = field(default_factory=set)

    @property
    def acceptance(self) -> Acceptance:
        return Acceptance(
            project_id=1, number=1, certificate_id="0" * 12, state="auditing", version=1, error=self.error, confidence=0.95,
            risk=0.04, class_risk=0.04, seed=self.seed, created_at=NOW, created_by="ann", drawn=self.drawn, sample=self.sample,
            complete=False, classes=self.classes, size=len(self.labels), progress=None, certificate=None,
        )  # fmt: skip

    @property
    def frozen(self) -> Frozen:
        n = len(self.labels)
        hashes = np.array([f"{task:064x}" for task in range(1, n + 1)], "S64")
        labels, doubt = np.asarray(self.labels, np.int64), np.arange(n) / (100.0 * n)
        parts = Proposal(np.arange(n), labels, doubt, len(self.classes)).parts(self.error)
        return Frozen(np.arange(1, n + 1), labels, doubt, hashes, parts)

    @property
    def in_order(self) -> list[int]:
        """Tasks in the order in which they are looked at."""
        return [int(task) for task in self.frozen.ids[self.acceptance.order]]

    def say(self, tasks: Sequence[int], name: str | None = None) -> None:
        """Answer what the model says of these tasks, or all of them with this name."""
        for task in tasks:
            self.said[task] = name or self.classes[self.labels[task - 1]]

    def rows(self, schema: LabelSchema = SCHEMA) -> PoolRows:
        ids = np.array([task for task in range(1, len(self.labels) + 1) if task not in self.gone], np.int64)
        none = np.zeros(len(ids), np.bool_)
        names = [self.said.get(task) for task in ids.tolist()]
        labels = np.array([schema.labels.index(name) if name in schema.labels else -1 for name in names], np.int64)
        is_ = {name: np.isin(ids, list(getattr(self, name))) for name in ("skipped", "changed", "failed", "accepted")}
        hashes = np.array(
            [f"{task + 10**6 * bool(other):064x}" for task, other in zip(ids, is_["changed"], strict=True)], "S64"
        )
        return PoolRows(
            ids=ids, hashes=hashes, labelled=labels >= 0, labels=labels, pairs=np.empty((0, 2), np.int64),
            answered=np.array([name is not None for name in names], np.bool_) | is_["accepted"], accepted=is_["accepted"],
            skipped=is_["skipped"] & (labels < 0),
            failed=is_["failed"], resting=none, holdout=none, places=np.zeros(len(ids)), reached=np.zeros(len(ids), np.int64),
            found=none, aside=none,
        )  # fmt: skip

    def standing(self, schema: LabelSchema = SCHEMA, certificate: dict[str, Any] | None = None) -> Standing:
        acceptance = self.acceptance
        if certificate:
            acceptance = replace(acceptance, state="certified", certificate=certificate)
        return Standing.at(acceptance, self.frozen, self.rows(schema), schema)

    def asked(self) -> list[int]:
        standing = self.standing()
        return [int(task) for task in standing.frozen.ids[standing.to_ask]]
