"""Annotators and conflicts, as the consensus sees them: one vote a person, and the model is nobody."""

from __future__ import annotations

from ml_backend.insight.annotators import Share, annotators
from ml_backend.insight.balance import balance
from ml_backend.insight.conflicts import PAGE, conflicts, count
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from tests.conftest import full, known
from tests.fakes import FakeLabelStudio

ANNA, BEN, CLEO = 1, 2, 3


def test_what_people_did_is_counted_for_who_did_it(ledger: Ledger, project: Project, studio: FakeLabelStudio) -> None:
    same, other, alone, skipped, odd = (studio.create_task(1).id for _ in range(5))
    studio.annotate(same, "cat", annotator=ANNA, seconds=4.0)
    studio.annotate(same, "cat", annotator=BEN, seconds=9.0)
    studio.annotate(other, "cat", annotator=ANNA, seconds=6.0)
    studio.annotate(other, "dog", annotator=BEN)
    studio.annotate(alone, "dog", annotator=ANNA, seconds=100.0)
    studio.annotate(alone, "cat", annotator=CLEO, accepted="abc")
    studio.annotate(skipped, annotator=BEN, skip=True, seconds=1.0)
    studio.annotate(odd, "fox", annotator=ANNA)
    studio.annotate(odd, "cat", annotator=BEN)
    full(ledger, project, studio)
    found = {each.who: each for each in annotators(project, ledger.database)}
    assert set(found) == {ANNA, BEN}, "what a model said is nobody's"
    assert (found[ANNA].answers, found[ANNA].skips, found[ANNA].seconds) == (4, 0, 6.0)
    assert (found[BEN].answers, found[BEN].skips, found[BEN].seconds) == (3, 1, 9.0)
    assert found[ANNA].agreement == found[BEN].agreement == Share(1, 2), "what does not fit the config is no vote"
    assert found[ANNA].last_at < found[BEN].last_at


def test_accuracy_is_against_the_ground_truth_of_somebody_else(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    first, second = (studio.create_task(1).id for _ in range(2))
    for task in (first, second):
        studio.annotate(task, "cat", annotator=ANNA)
        studio.annotate(task, "dog", annotator=BEN)
    studio.annotate(first, "cat", annotator=CLEO, ground_truth=True)
    studio.annotate(second, "dog", annotator=CLEO, ground_truth=True)
    full(ledger, project, studio)
    found = {each.who: each.accuracy for each in annotators(project, ledger.database)}
    assert found == {ANNA: Share(1, 2), BEN: Share(1, 2), CLEO: Share(0, 0)}


def test_conflicts_come_with_who_said_what_the_last_answer_first_and_paged(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    tasks = [studio.create_task(1).id for _ in range(PAGE + 3)]
    for task in tasks:
        studio.annotate(task, "cat", annotator=ANNA)
    for task in tasks[:-1]:
        studio.annotate(task, "dog", annotator=BEN)
    studio.annotate(tasks[-1], "cat", annotator=BEN)
    studio.annotate(tasks[0], "cat", annotator=CLEO)
    full(ledger, project, studio)
    first, rest = (conflicts(project, ledger.database, page=page) for page in (1, 2))
    assert count(project, ledger.database) == PAGE + 2
    assert [each.task for each in (*first, *rest)] == [tasks[0], *reversed(tasks[1:-1])]
    assert [(vote.who, vote.labels) for vote in first[0].votes] == [(ANNA, ("cat",)), (BEN, ("dog",)), (CLEO, ("cat",))]
    assert first[0].label == ("cat",)
    assert conflicts(project, ledger.database, page=9) == []


def test_labels_of_people_and_accepted_ones_are_counted_apart(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    tasks = [studio.create_task(1).id for _ in range(4)]
    studio.annotate(tasks[0], "cat")
    studio.annotate(tasks[1], "dog")
    studio.annotate(tasks[2], "dog", accepted="abc")
    full(ledger, project, studio)
    found = balance(project, ledger.database)
    assert (found.people, found.accepted) == ({"cat": 1, "dog": 1}, {"dog": 1})
    assert (found.labelled, found.of_model) == (2, 1)


def test_the_seconds_of_an_answer_come_through_a_reconcile_and_stay_when_it_is_read_again(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    task = studio.create_task(1).id
    studio.annotate(task, "cat", annotator=ANNA, seconds=12.5)
    for _ in range(2):
        full(ledger, project, studio)
        assert annotators(project, ledger.database)[0].seconds == 12.5
