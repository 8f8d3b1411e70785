"""What is set aside waits no more, until it is taken back; nothing that measures or has an answer can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_backend.errors import ConflictError
from ml_backend.records import Query
from ml_backend.store import set_aside
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.ledger import Ledger
from ml_backend.store.map_rows import ASIDE, WAITS, map_rows
from ml_backend.store.projects import Project
from tests.conftest import full
from tests.fakes import FakeLabelStudio
from tests.slices import held_out
from tests.store.test_acceptances import begun


@pytest.fixture
def six(ledger: Ledger, project: Project, studio: FakeLabelStudio) -> list[int]:
    """Six tasks: the fifth is labelled, the sixth skipped."""
    ids = [studio.create_task(1).id for _ in range(6)]
    studio.annotate(ids[4], "cat")
    studio.annotate(ids[5], "cat", skip=True)
    full(ledger, project, studio)
    return ids


def waiting(ledger: Ledger, project: Project) -> list[int]:
    rows = ledger.pool(project)
    found: list[int] = rows.ids[rows.waiting].tolist()
    assert ledger.counts(project).waiting == len(found)
    return found


def test_a_task_that_is_set_aside_waits_no_more_wherever_that_is_asked_until_it_is_taken_back(
    ledger: Ledger, project: Project, six: list[int]
) -> None:
    queries = [Query(task, rank, "strategy", 0.0, "") for rank, task in enumerate(six[:2])]
    round_ = ledger.open_round(project, version=0, strategy="auto", seed=0, queries=queries)
    assert ledger.set_aside(project, six[:1]) == six[:1]
    assert ledger.set_aside(project, six[:1]) == [], "it is already"
    assert waiting(ledger, project) == six[1:4]
    assert (ledger.counts(project).aside, ledger.left(round_).waiting) == (1, 1)
    assert ledger.answered_of(round_) == {six[0]: True, six[1]: False}
    assert [part.kind.tolist() for part in map_rows(ledger.database, project, six[:2])] == [[ASIDE, WAITS]]
    assert ledger.pool(project).open.tolist() == [True] * 4 + [False] * 2, "what is open does not look at it"
    assert ledger.take_back(project, six) == six[:1]
    assert waiting(ledger, project) == six[:4]
    assert (ledger.counts(project).aside, ledger.left(round_).waiting) == (0, 2)


def test_what_has_an_answer_or_a_skip_is_left_alone_and_a_label_that_comes_later_counts(
    ledger: Ledger, project: Project, studio: FakeLabelStudio, six: list[int]
) -> None:
    assert ledger.set_aside(project, six[3:]) == six[3:4]
    studio.annotate(six[3], "dog")
    full(ledger, project, studio)
    assert {label.task_id: label.labels for label in ledger.labels(project)} == {six[3]: ("dog",), six[4]: ("cat",)}
    assert (ledger.counts(project).aside, ledger.aside(project), ledger.aside_waiting(project)) == (0, six[3:4], [])


def test_what_is_held_out_is_not_set_aside_and_waits_though_it_was_before(
    ledger: Ledger, project: Project, six: list[int]
) -> None:
    ledger.set_aside(project, six[:2])
    project = held_out(ledger, project, six[0], six[2])
    assert ledger.set_aside(replace(project, state=project.state.changed(reserved_share=None)), six[:4]) == six[3:4]
    rows = ledger.pool(project)
    assert rows.ids[rows.waiting].tolist() == [six[0], six[2]]
    assert ledger.aside(project) == [six[1], six[3]]


def test_while_an_audit_is_on_nothing_is_set_aside(ledger: Ledger, project: Project, six: list[int]) -> None:
    begun(Acceptances(ledger.database), project)
    with pytest.raises(ConflictError, match="audit is on"):
        ledger.set_aside(project, six)
    assert ledger.aside(project) == []


def test_all_of_them_are_set_aside_or_none_where_it_is_killed_in_the_middle(
    ledger: Ledger, project: Project, six: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(ids: list[int]) -> object:
        yield ids[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(set_aside, "pieces", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.set_aside(project, six)
    monkeypatch.undo()
    assert ledger.aside(project) == []
