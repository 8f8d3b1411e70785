"""Answers whose label is called something else now: who gave them, whose vote is the last, and what is a conflict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from tests.conftest import SCHEMA, full, known, names
from tests.fakes import FakeLabelStudio

RENAMER = 9
BOTH = replace(SCHEMA, labels=("cat", "lynx", "dog"))
AFTER = replace(SCHEMA, labels=("lynx", "dog"))


def annotators(ledger: Ledger, project: Project) -> dict[int, tuple[int, ...]]:
    return {label.task_id: label.annotators for label in ledger.labels(project)}


@pytest.mark.parametrize("seen_between", [True, False], ids=["killed and read", "at one go"])
def test_who_answered_has_answered_under_the_new_name_too(
    ledger: Ledger, studio: FakeLabelStudio, seen_between: bool
) -> None:
    project = known(ledger, schema=SCHEMA)
    task, other = studio.create_task(1).id, studio.create_task(1).id
    given, changed = studio.annotate(task, "cat", annotator=1), studio.annotate(other, "dog", annotator=2)
    full(ledger, project, studio)
    ledger.configure(project, relabelling=["cat", "lynx"])
    project = known(ledger, schema=BOTH)
    if seen_between:
        full(ledger, project, studio)
    studio.update(given.id, "lynx", by=RENAMER)
    studio.update(changed.id, "lynx", by=3)
    full(ledger, project, studio)
    known(ledger, schema=AFTER)
    project = ledger.configure(project, relabelling=None)
    full(ledger, project, studio)
    assert names(ledger, project) == {task: ("lynx",), other: ("lynx",)}
    assert annotators(ledger, project) == {task: (1,), other: (3,)}, "a real change is another matter"


def test_without_a_relabelling_the_same_change_is_its_editors(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=BOTH)
    given = studio.annotate(studio.create_task(1).id, "cat", annotator=1)
    full(ledger, project, studio)
    studio.update(given.id, "lynx", by=RENAMER)
    full(ledger, project, studio)
    assert annotators(ledger, project) == {given.task_id: (RENAMER,)}


def test_the_last_vote_stays_the_last_and_a_merge_ends_the_conflict(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=BOTH)
    tied, agreed = studio.create_task(1).id, studio.create_task(1).id
    first = studio.annotate(tied, "cat", annotator=1)
    studio.annotate(tied, "dog", annotator=2)
    third = studio.annotate(agreed, "cat", annotator=1)
    studio.annotate(agreed, "lynx", annotator=2)
    full(ledger, project, studio)
    assert ledger.counts(project).conflicts == 2
    ledger.configure(project, relabelling=["cat", "lynx"])
    project = known(ledger, schema=BOTH)
    for annotation in (third, first):
        studio.update(annotation.id, "lynx", by=RENAMER)
    project = known(ledger, schema=AFTER)
    full(ledger, project, studio)
    assert names(ledger, project) == {tied: ("dog",), agreed: ("lynx",)}
    assert (ledger.counts(project).conflicts, ledger.counts(project).quarantined) == (1, 0)
    assert annotators(ledger, project)[agreed] == (1, 2)
