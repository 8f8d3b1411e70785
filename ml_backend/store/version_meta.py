"""What is known of a model version: its meta.json, which the database has as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from ml_backend.store.json_record import JsonRecord

UNCALIBRATED = 0.9
"""A version that no answer has measured yet, as an imported one, is taken at its word from this confidence on."""
FROM_NAMES = "names"
"""Mode of a version that guesses from the names of the classes, and has learned from no label."""


class EncoderMeta(JsonRecord):
    name: str | None = None
    id: str = ""
    dim: int | None = None


class Metrics(JsonRecord):
    """holdout: as `learning.metrics.measured`. random: as `steps.random_arm.told`, of the versions for which it was measured."""

    holdout: dict[str, Any] | None = None
    random: dict[str, Any] | None = None


class VersionMeta(JsonRecord):
    """Every field may be missing in an older version.

    classes: in the order of the head's outputs. multiple: whether an image may have several of them.
    confident_from: the confidence from which on guesses are ticked; None: none is.
    labels: how many it was trained on. mode: "head", "finetune", "import" or FROM_NAMES.
    trained_on: all that decides what a training comes to; a digest of it in older versions.
    reserved_share: images whose place in the split is below this were held out.
    knows_labels: whether an imported model may have learned from this project's labels. labels_matched: ours to its own.
    origin: the store and project of an imported bundle.
    version, project, store: its number, and what it was made for and by.
    """

    classes: Sequence[str] | None = None
    multiple: bool | None = None
    encoder: EncoderMeta = EncoderMeta()
    metrics: Metrics = Metrics()
    confident_from: float | None = UNCALIBRATED
    labels: int | None = None
    training: dict[str, Any] | None = None
    mode: str | None = None
    seed: int | None = None
    trained_on: dict[str, Any] | str | None = None
    reserved_share: float | None = None
    imported_from: str | None = None
    labels_matched: Mapping[str, str] | None = None
    knows_labels: bool = False
    origin: Any = None
    version: int | None = None
    project: str | None = None
    store: str | None = None

    def signed(self, number: int, project: str, store: str) -> Self:
        """As it is entered under a number."""
        return self.model_copy(update={"version": number, "project": project, "store": store})
