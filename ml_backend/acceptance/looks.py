"""What people say, as of now, of the labels that were proposed: by the ledger, whenever it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.acceptance.audit import RIGHT, UNSEEN, WRONG, Verdicts
from ml_backend.records import LabelSchema
from ml_backend.store.acceptances import Frozen
from ml_backend.store.rows import PoolRows

NONE = -1


@dataclass(frozen=True)
class Looks:
    """verdicts: (n,) by the label that counts; a skip, or an answer that is no label, makes WRONG. Accepted labels are no look.

    lost: (n,) bool, nobody can look at it any more, whatever it was: the task is gone, its image is another one or cannot be
    read. Its verdict is UNSEEN. waiting: (n,) bool, has no answer, and the image that the model saw. labels: (n,) class index of
    what people said, by the project's labels as they are now; NONE.
    """

    verdicts: Verdicts
    lost: NDArray[np.bool_]
    waiting: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @classmethod
    def at(cls, frozen: Frozen, classes: Sequence[str], rows: PoolRows, schema: LabelSchema) -> Looks:
        """rows: of the project now. classes: those of `frozen`, by name: a label is right where it has the same one."""
        n = len(frozen.ids)
        if not len(rows.ids):
            none = np.zeros(n, np.bool_)
            return cls(np.full(n, UNSEEN, np.int8), ~none, none, np.full(n, NONE, np.int64))
        at = np.minimum(np.searchsorted(rows.ids, frozen.ids), len(rows.ids) - 1)
        same = (rows.ids[at] == frozen.ids) & (rows.hashes[at] == frozen.hashes)
        answered = same & ((rows.answered & ~rows.accepted) | rows.skipped | rows.labelled)[at]
        labels = np.where(same & rows.labelled[at], rows.labels[at], NONE)
        now = np.array([schema.labels.index(name) if name in schema.labels else NONE - 1 for name in classes], np.int64)
        verdicts = np.where(answered, WRONG, UNSEEN).astype(np.int8)
        verdicts[labels == now[frozen.labels]] = RIGHT
        return cls(verdicts, ~same | (rows.failed[at] & ~answered), same & rows.waiting[at], labels)


def fault(frozen: Frozen, classes: Sequence[str], schema: LabelSchema) -> str | None:
    """Why what people say now cannot be compared with what was proposed, with the fix; None where it can."""
    if schema.multiple:
        return (
            "The label config lets several labels be chosen by now, and the audit is of one for each image: make it "
            'choice="single" again, or give the audit up with `ml-backend accept stop`.'
        )
    missing = [classes[c] for c in np.unique(frozen.labels) if classes[c] not in schema.labels]
    if not missing:
        return None
    them, is_ = ("it", "is") if len(missing) == 1 else ("them", "are")
    return (
        f"{', '.join(map(repr, missing))} {is_} not in the label config any more, and the model's labels say so of some tasks: "
        f"put {them} back, or give {them} the former name with `ml-backend relabel`, or give the audit up with "
        "`ml-backend accept stop`."
    )
