"""Frozen records that travel between rooms. No behaviour beyond what the fields themselves imply."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Arm = Literal["strategy", "random", "holdout", "audit"]
"""Why a task is in a batch: picked by the strategy, drawn at random to compare with, held out to measure, or to check what
the model would label."""

BLIND: frozenset[Arm] = frozenset({"holdout", "audit"})
"""Of these tasks no guess is shown anywhere."""

Origin = Literal["human", "audited", "accepted", "predicted"]
"""Where an exported label comes from: people, by consensus; people, who looked at it for an acceptance; the model, under a
certificate of how many such labels can be wrong; or the model's guess."""


@dataclass(frozen=True, order=True)
class ProjectKey:
    """A project of one Label Studio host. The id alone is no key: two hosts may both have a project 1."""

    host: str
    project_id: int

    def __str__(self) -> str:
        return f"{self.host}/projects/{self.project_id}"


@dataclass(frozen=True)
class LabelSchema:
    """What a label config asks: one `Choices` about one `Image`. `guess`: where the model's guess is shown in words."""

    from_name: str
    to_name: str
    image_key: str
    labels: tuple[str, ...]
    multiple: bool = False
    guess: str = ""


@dataclass(frozen=True)
class EncoderOrigin:
    """Which encoder a project has and why. source: where its weights are from; licence: "" where nobody states one.

    better: what a better one would take, in a sentence; "" where nothing is to be said.
    """

    name: str
    why: str
    source: str = ""
    sha256: str = ""
    licence: str = ""
    better: str = ""

    @property
    def told(self) -> str:
        """Why, with the licence where there are weights that somebody else trained."""
        published = self.source.startswith(("http://", "https://"))
        return f"{self.why}; licence: {self.licence or 'not stated'}" if published else self.why

    def with_words(self, why: str, better: str) -> EncoderOrigin:
        return replace(self, why=why, better=better)


@dataclass(frozen=True)
class Selection:
    """Which `Choices` and which `Image` of a label config are to be learned, by name; None where there is but one."""

    choices: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Task:
    """A Label Studio task, as far as this service cares. `image` is the reference, not the bytes."""

    id: int
    image: str | None
    data: dict[str, Any] = field(default_factory=dict, compare=False)
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Annotation:
    """One annotator's answer to one task. `labels` is empty for a skip, and where nothing was chosen. Times are aware, in UTC.

    editor: who changed anything of it last, marks as ground truth included. answered_by: who made it say what it says,
    as far as is known: the annotator, or whoever changed the labels since.
    none_of: the `Choices` of which it ticks none, where it says nothing else either; None for every other answer.
    accepted: the certificate under which a model's label was accepted here, as long as nobody has touched it; None for
    every answer of a person.
    seconds: that it took, as Label Studio's page measured it; None where it does not say.
    """

    id: int
    task_id: int
    labels: tuple[str, ...]
    was_cancelled: bool
    ground_truth: bool
    annotator: int | None
    created_at: datetime
    updated_at: datetime
    editor: int | None = field(default=None, compare=False)
    answered_by: int | None = field(default=None, compare=False)
    none_of: str | None = field(default=None, compare=False)
    accepted: str | None = None
    seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Label:
    """The one label of a task, after consensus. `labels` holds one name; with `choice="multiple"` any number, also none."""

    task_id: int
    labels: tuple[str, ...]
    annotation_id: int
    annotators: tuple[int, ...]
    agreement: float
    conflict: bool
    ground_truth: bool
    labelled_at: datetime


@dataclass(frozen=True)
class AcceptedLabel:
    """A model's label that was accepted for a task under a certificate. annotator: by whose token it was written."""

    task_id: int
    labels: tuple[str, ...]
    certificate: str
    annotation_id: int
    annotator: int | None
    accepted_at: datetime


@dataclass(frozen=True)
class Pool:
    """What a strategy sees: one row per task, labelled rows included.

    features: (N, d) float16 or float32, finite, may be memory-mapped; rows of unit length. Read by slices and by arrays
    of row numbers alone.
    labelled: (N,) bool.
    labels: (N,) int64, class index of labelled rows, -1 elsewhere; and, if multilabel, for the label that is none of them.
    n_classes: number of classes of the label config, seen or not.
    probabilities: (N, C) float32 rows summing to one (multi-label: each in 0..1), or None before any model.
    ids: (N,) int64, distinct; ties are broken by id, so that the order of the rows does not matter.
    groups: (N,) int64, equal for near-duplicates, or None.
    multilabel: whether `probabilities` are independent per class.
    candidates: (N,) bool, rows that may be picked (labelled and skipped ones never are), or None for every such row.
    class_names: names for the reasons a person reads; empty for the bare class numbers.
    skipped: (N,) bool, shown to a person who gave no label, or None for none. They count as covered, and what resembles
    them is picked last.
    pairs: (M, 2) int64, one line (row, class index) for every label of every labelled row, or None where `labels` has
    them all.
    """

    features: NDArray[np.floating[Any]]
    labelled: NDArray[np.bool_]
    labels: NDArray[np.int64]
    n_classes: int
    ids: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None = None
    groups: NDArray[np.int64] | None = None
    multilabel: bool = False
    candidates: NDArray[np.bool_] | None = None
    class_names: tuple[str, ...] = ()
    skipped: NDArray[np.bool_] | None = None
    pairs: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Ranking:
    """A strategy's answer: pool row numbers, best first, with why.

    rows: (b,) int64 distinct unlabelled rows. acquisition: (b,) float64, finite, higher = label sooner.
    reasons: b short sentences for a person.
    """

    rows: NDArray[np.int64]
    acquisition: NDArray[np.float64]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """One task of a round. Three numbers kept apart: rank (when served), acquisition (why), confidence (belief)."""

    task_id: int
    rank: int
    arm: Arm
    acquisition: float
    reason: str
    confidence: float | None = None
    prediction: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditQueue:
    """What an audit asks people for. number: of the acceptance. tasks: those without an answer, in the order they were drawn."""

    number: int
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image. `labels` may be empty (held out, or nothing above threshold)."""

    labels: tuple[str, ...]
    confidence: float
    probabilities: tuple[float, ...] = ()
    error: str | None = None
