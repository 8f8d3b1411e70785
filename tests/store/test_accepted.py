"""Labels accepted of a model in the ledger: known, and in nobody's way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_backend.records import Annotation
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import Counts, LedgerRow
from tests.conftest import SCHEMA, full, known, names
from tests.fakes import FakeLabelStudio

WRITER, PERSON = 9, 2


def accept(studio: FakeLabelStudio, task: int, label: str, certificate: str = "c1") -> Annotation:
    return studio.annotate(task, label, annotator=WRITER, accepted=certificate)


def rows(ledger: Ledger, project: Project) -> dict[int, LedgerRow]:
    return {row.task.id: row for row in ledger.rows(project)}


def counts(ledger: Ledger, project: Project) -> Counts:
    return ledger.counts(project)


def test_an_accepted_label_is_counted_apart_and_its_task_waits_no_more(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    mine, theirs, _ = (studio.create_task(1).id for _ in range(3))
    accepted = accept(studio, mine, "cat")
    studio.annotate(theirs, "dog")
    before = ledger.label_digest(project)
    report = full(ledger, project, studio)
    assert report.labels_touched == 1
    assert names(ledger, project) == {theirs: ("dog",)}
    found = counts(ledger, project)
    assert (found.labelled, found.accepted, found.waiting, found.conflicts) == (1, 1, 1, 0)
    told = rows(ledger, project)[mine].accepted
    assert told is not None
    assert (told.labels, told.certificate, told.annotation_id, told.annotator) == (("cat",), "c1", accepted.id, WRITER)
    pool = ledger.pool(project)
    assert pool.accepted.tolist() == [True, False, False]
    assert (pool.labelled.tolist(), pool.waiting.tolist()) == ([False, True, False], [False, False, True])
    studio.delete_annotation(next(a.id for a in studio.annotations_of(theirs)))
    full(ledger, project, studio)
    assert ledger.label_digest(project) == before, "no model learns of it"


@pytest.mark.parametrize("label", ["cat", "dog"], ids=["confirmed", "changed"])
def test_a_person_who_saves_one_turns_it_into_their_label(
    ledger: Ledger, project: Project, studio: FakeLabelStudio, label: str
) -> None:
    task = studio.create_task(1).id
    accepted = accept(studio, task, "cat")
    full(ledger, project, studio)
    studio.update(accepted.id, label, by=PERSON)
    full(ledger, project, studio)
    (label_of,) = ledger.labels(project)
    assert (label_of.labels, label_of.annotators, label_of.conflict) == ((label,), (PERSON,), False)
    assert (rows(ledger, project)[task].accepted, counts(ledger, project).accepted) == (None, 0)


def test_taken_back_or_with_its_task_it_leaves_nothing_behind(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    one, other = studio.create_task(1).id, studio.create_task(1).id
    accepted = accept(studio, one, "cat")
    accept(studio, other, "cat")
    full(ledger, project, studio)
    studio.delete_annotation(accepted.id)
    studio.delete_task(other)
    full(ledger, project, studio)
    found = counts(ledger, project)
    assert (found.tasks, found.accepted, found.waiting) == (1, 0, 1)
    assert rows(ledger, project)[one].accepted is None


def test_a_label_that_the_config_no_longer_has_is_no_accepted_one_until_it_comes_back(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    task = studio.create_task(1).id
    accept(studio, task, "cat")
    full(ledger, project, studio)
    for labels, accepted in ((("dog", "owl"), 0), (("cat", "dog"), 1)):
        changed = known(ledger, schema=replace(SCHEMA, labels=labels))
        full(ledger, changed, studio)
        found = ledger.counts(changed)
        assert (found.accepted, found.quarantined, found.waiting) == (accepted, 1 - accepted, 0)
        assert ledger.pool(changed).open.tolist() == [True], "no person has answered"


def test_it_does_not_take_a_skip_away(ledger: Ledger, project: Project, studio: FakeLabelStudio) -> None:
    task = studio.create_task(1).id
    studio.annotate(task, skip=True)
    accept(studio, task, "cat")
    full(ledger, project, studio)
    pool = ledger.pool(project)
    assert (pool.skipped.tolist(), pool.open.tolist(), pool.waiting.tolist()) == ([True], [False], [False])
    row = rows(ledger, project)[task]
    assert row.skipped
    assert row.accepted is not None
