"""A label under another name, or merged into another one: in the label config, in every answer, and here.

In an order in which nothing is lost wherever it stops: the new name is put beside the old one, everything that has the old
name gets the new one until nothing is left, the old name is taken out, and who answered while it was done is seen to. The
same command again does what is missing.
"""

from __future__ import annotations

import difflib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_backend.errors import (
    ConflictError,
    InvalidInputError,
    LabelStudioError,
    NotFoundError,
)
from ml_backend.hosts import Hosts, selected
from ml_backend.labelstudio.choices import shown_as, with_label, without_label
from ml_backend.labelstudio.going_on import goes_on
from ml_backend.labelstudio.relabelling import Left, Relabelling
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project

logger = logging.getLogger(__name__)

A_SECOND = 5
"""Annotations changed a second, on Label Studio's SQLite."""
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_VARIABLE = re.compile(r"\$[\w[\].{}]")


@dataclass(frozen=True)
class RelabelPlan:
    """What is to be changed. adds: whether the label config gets the new name. conflicts: tasks whose annotators differ, before."""

    old: str
    new: str
    adds: bool
    annotations: int
    drafts: int
    predictions: int
    conflicts: int

    @property
    def total(self) -> int:
        return self.annotations + self.drafts + self.predictions

    @property
    def seconds(self) -> float:
        return self.total / A_SECOND


@dataclass(frozen=True)
class Relabeller:
    """Renames and merges labels. Call it in `foreground.alone`: a turn in between would train on half of it."""

    hosts: Hosts
    ledger: Ledger
    jobs: Jobs
    label_sync: LabelSync

    def plan(self, project: Project, old: str, new: str) -> tuple[Project, RelabelPlan]:
        """Look what there is to do; changes nothing in Label Studio. Returns the project as it is now, too.

        Raises InvalidInputError for a name that cannot be given, and where nothing has the old one.
        """
        if old == new:
            raise InvalidInputError(f"{old!r} is the same name twice: give the label and its new name.")
        project, _ = self.label_sync.sync(project, full=False, lazily=True)
        labels, shown = project.schema.labels, shown_as(project.label_config, project.schema.from_name)
        for name in (old, new):
            if name not in labels and name in shown:
                raise InvalidInputError(f"{name!r} is how the label {shown[name]!r} is shown: use {shown[name]!r}.")
        if new not in labels:
            _check_name(new)
        left = self._relabelling(project, old, new).left()
        unfinished = list(project.state.relabelling or ()) == [old, new]
        if old not in labels and not len(left) and not unfinished:
            raise InvalidInputError(_nothing_has(old, labels))
        if old not in labels and new not in labels:
            raise InvalidInputError(
                f"Neither {old!r} nor {new!r} is in the label config, so nothing says where {new!r} would go: choose one of "
                f"{_listed(labels)}."
            )
        if old in labels and new in labels and len(labels) == 2:
            raise InvalidInputError(f"{old!r} and {new!r} are the only labels: merged, there is nothing to tell apart.")
        return project, RelabelPlan(
            old, new, new not in labels, len(left.annotations), len(left.drafts), len(left.predictions),
            self.ledger.counts(project).conflicts,
        )  # fmt: skip

    def run(
        self, project: Project, plan: RelabelPlan, on_progress: Callable[[int], None] = lambda _: None
    ) -> tuple[Project, int]:
        """Do it. Returns the project as it is afterwards, and how many annotations, drafts and predictions were changed."""
        old, new = plan.old, plan.new
        with goes_on(f"of {plan.total:,} are done", on_progress) as count:
            project = self.ledger.configure(project, relabelling=[old, new])
            self._configure(
                project, lambda xml, control: with_label(xml, control, old, new), lambda names: new in names
            )
            project = self._until_none_is_left(project, old, new, count)
            self._configure(
                project, lambda xml, control: without_label(xml, control, old), lambda names: old not in names
            )
            project = self._until_none_is_left(project, old, new, count)
        self._recount(project, old, new)
        self.jobs.mark_due(project, immediately=True, reason="relabel")
        return self.ledger.configure(project, relabelling=None), count.done

    def _configure(
        self, project: Project, change: Callable[[str, str], str], fits: Callable[[tuple[str, ...]], bool]
    ) -> None:
        """Change the label config as it is now. Raises ConflictError, with nothing sent, where the labels would not be fit."""
        client, number = self.hosts.client(project.key.host), project.key.project_id
        now = str(client.get_project(number)["label_config"])
        changed = change(now, project.schema.from_name)
        if not fits(self.label_sync.registry.schema(changed, selected(project)).labels):
            raise ConflictError(
                f"The label config of {project.key} was changed at the same time: run the command again."
            )
        if changed != now:
            client.update_project(number, label_config=changed)

    def _recount(self, project: Project, old: str, new: str) -> None:
        """All is done without it, so that it fails nothing."""
        try:
            self._relabelling(project, old, new).recount()
        except (LabelStudioError, NotFoundError) as error:
            logger.warning("%s: Label Studio's settings may say that %r is still used: %s", project.key, old, error)

    def _until_none_is_left(self, project: Project, old: str, new: str, count: Callable[[int], None]) -> Project:
        """Change what has the old name until nothing has, people answering in between; returns the project as it is then.

        Each answer is read into the ledger before it is changed, and after: so it is known who gave it. Raises
        LabelStudioError where the same is left after all of it was changed.
        """
        before: Left | None = None
        while True:
            project, _ = self.label_sync.sync(project, full=False, lazily=True)
            relabelling = self._relabelling(project, old, new)
            left = relabelling.left()
            if not len(left):
                return project
            known = _read_before(left, project.reconciled_at)
            if not len(known):
                time.sleep(0.5)
            elif known == before:
                raise LabelStudioError(f"Label Studio still shows {old!r} in {len(known)} of what was changed.")
            else:
                relabelling.write(known, count)
                before = known

    def _relabelling(self, project: Project, old: str, new: str) -> Relabelling:
        return Relabelling(self.hosts.client(project.key.host), project.key.project_id, project.schema, old, new)


def _read_before(left: Left, reconciled_at: datetime | None) -> Left:
    """Without the answers that were given or changed since the ledger was brought up to date."""
    known = [item for item in left.annotations if reconciled_at is not None and item[2] < reconciled_at]
    return Left(known, left.drafts, left.predictions)


def _check_name(new: str) -> None:
    """Raise InvalidInputError for what cannot be a choice as it is."""
    if not new.strip() or new != new.strip():
        raise InvalidInputError(f"{new!r} cannot be a label: a label has a letter or a sign, and no blank at its ends.")
    if found := _NO_TEXT.search(new):
        raise InvalidInputError(f"{new!r} cannot be a label: {found[0]!r} has no place in a label config.")
    if _VARIABLE.search(new):
        raise InvalidInputError(
            f"{new!r} cannot be a label: Label Studio replaces a $ and what follows it with task data. Remove the $."
        )


def _nothing_has(old: str, labels: tuple[str, ...]) -> str:
    by_case = [label for label in labels if label.casefold() == old.casefold()]
    near = by_case or difflib.get_close_matches(old, labels)
    meant = f" Do you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"No label is called {old!r}, and no answer has it.{meant} The labels are {_listed(labels)}."


def _listed(labels: tuple[str, ...], most: int = 30) -> str:
    shown = ", ".join(map(repr, labels[:most]))
    return f"{shown} and {len(labels) - most} more" if len(labels) > most else shown


def document(plan: RelabelPlan) -> dict[str, Any]:
    """The plan for a program."""
    return {**vars(plan), "seconds": round(plan.seconds)}
