"""Between features and training: ask for the held-out tasks whose turn has come, in the order of the split.

The first so many of them, by place, are a random sample of the whole project, whatever anybody has labelled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_backend import split
from ml_backend.settings import Settings
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rows import PoolRows

if TYPE_CHECKING:
    from ml_backend.steps.corpus import Corpus  # torch takes seconds, which who only reads labels has no use for


def reserve(project: Project, ledger: Ledger, versions: Versions, settings: Settings) -> Project:
    """Bring the share of places that are held out up to date: it depends on the settings and on how many tasks there are.

    It only falls once there is a model: above it, answers are then given with a guess in sight, and models learn from them.
    """
    known = project.state.reserved_share
    share = split.reserved_share(settings.holdout_share, settings.holdout_first, ledger.size(project))
    if share == known or (known is not None and share > known and versions.next_number(project) > 1):
        return project
    return ledger.configure(project, reserved_share=share)


def reach(project: Project, corpus: Corpus | None, ledger: Ledger, settings: Settings) -> Corpus | None:
    """Note the held-out tasks that are to be asked for from the next round on; returns the corpus as it is then.

    What was set aside before it was held out is taken back: it measures. Those answered already somebody has chosen, but for the first order, which was drawn at random as well.
    """
    if corpus is None:
        return None
    rows = corpus.rows
    if len(measuring := rows.ids[rows.aside & rows.holdout]):  # set aside before it was known, or before the share rose
        ledger.take_back(project, measuring.tolist())
    asked = np.zeros(len(rows.ids), dtype=np.bool_)
    asked[in_turn(rows, settings)] = True
    last = ledger.last_round(project)
    number = last.number + 1 if last else 1
    new = np.flatnonzero(asked & (rows.reached == 0))
    former = np.flatnonzero(~asked & (rows.reached > 0) & (_usable(rows) | ~rows.holdout))
    if not len(new) and not len(former):
        return corpus
    chosen = rows.answered & ~rows.accepted & ~np.isin(rows.ids, ledger.first_asked(project))
    found = dict(zip(rows.ids[new].tolist(), chosen[new].tolist(), strict=True))
    ledger.reach(project, found, rows.ids[former].tolist(), round_=number)
    reached, was_found = rows.reached.copy(), rows.found.copy()
    reached[new], was_found[new] = number, chosen[new]
    reached[former], was_found[former] = 0, False
    return replace(corpus, rows=replace(rows, reached=reached, found=was_found))


def in_turn(rows: PoolRows, settings: Settings) -> NDArray[np.int64]:
    """Positions of the held-out tasks to be asked for by now, answered ones included: the first in the order of the split.

    How many depends on how many labels there are, and never on which. Once the strategy has nothing left to ask for, the
    others follow a batch at a time: so many that can be asked for, however many between them have an accepted label.
    """
    order = _in_order(rows, rows.holdout & _usable(rows))
    labels = int(rows.labelled.sum()) + settings.batch_size
    count = split.wanted(settings.holdout_share, settings.holdout_first, len(rows.ids), labels)
    count = max(count, int((rows.reached[order] > 0).sum()))
    if not (rows.waiting & ~rows.holdout & ~np.isnan(rows.places)).any():
        waiting = np.flatnonzero(rows.waiting[order])
        if len(waiting) and waiting[0] >= count:
            count = int(waiting[: settings.batch_size][-1]) + 1
    return order[:count]


def due(rows: PoolRows) -> NDArray[np.int64]:
    """Ids of the held-out tasks that are asked for and have no answer yet, in the order of the split."""
    return rows.ids[_in_order(rows, rows.holdout & (rows.reached > 0) & rows.waiting)]


def _in_order(rows: PoolRows, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions of these tasks by their place in the split; identical images by task id."""
    these = np.flatnonzero(among)
    ordered: NDArray[np.int64] = these[np.lexsort((rows.ids[these], rows.places[these]))]
    return ordered


def _usable(rows: PoolRows) -> NDArray[np.bool_]:
    """Tasks that have a label, or may get one: neither skipped nor unreadable, nor answered with what is no label.

    An accepted label is none here: the order is the one in which people would have been asked.
    """
    return rows.labelled | rows.open
