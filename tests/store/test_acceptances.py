"""What is kept of an audit: the labels as they were frozen, one audit at a time, and risk that is never given back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ml_backend.errors import ConflictError
from ml_backend.store.acceptances import Acceptance, Acceptances, Frozen
from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from tests.fakes import FakeClock


@pytest.fixture
def acceptances(database: Database, clock: FakeClock) -> Acceptances:
    return Acceptances(database, clock=clock)


def frozen(n: int = 6) -> Frozen:
    hashes = np.array([f"{i * 7919:064x}" for i in range(n)], "S64")
    return Frozen(np.arange(n) + 10, np.arange(n) % 2, np.arange(n) / 60.0, hashes, np.array([3, n]))


def begun(acceptances: Acceptances, project: Project, **changed: Any) -> Acceptance:
    values: dict[str, Any] = {
        "classes": ("cat", "dog"), "version": 3, "error": 0.02, "confidence": 0.95, "risk": 0.04, "drawn": 2, "seed": 2**62,
        "by": "ann@example.org",
    }  # fmt: skip
    return acceptances.begin(project, frozen(), **{**values, **changed})


def test_what_was_frozen_comes_back_as_it_was(acceptances: Acceptances, project: Project) -> None:
    made = begun(acceptances, project)
    kept, given = acceptances.frozen(made), frozen()
    for name in ("ids", "labels", "doubt", "hashes", "parts"):
        assert getattr(kept, name).tolist() == getattr(given, name).tolist(), name
    assert kept.accepted is None
    assert (made.classes, made.size, made.created_by, made.sample) == (("cat", "dog"), 6, "ann@example.org", None)
    assert sorted(made.order.tolist()) == list(range(6))
    again = acceptances.last(project)
    assert again == made
    assert again.order.tolist() == made.order.tolist()


def test_there_is_one_audit_of_a_project_at_a_time(acceptances: Acceptances, project: Project) -> None:
    first = begun(acceptances, project)
    with pytest.raises(ConflictError, match="is on: `ml-backend accept status`"):
        begun(acceptances, project, risk=0.001)
    acceptances.mark(first, "ended")
    second = begun(acceptances, project, risk=0.008)
    assert (second.number, acceptances.auditing(project)) == (2, second)
    assert second.certificate_id != first.certificate_id


def test_of_two_who_begin_at_once_one_is_told_so(acceptances: Acceptances, project: Project) -> None:
    told: list[str] = []

    def begin() -> None:
        try:
            begun(acceptances, project)
        except ConflictError as error:
            told.append(str(error))

    both = [threading.Thread(target=begin) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert (len(told), len(acceptances.all(project))) == (1, 1)


def test_no_ending_gives_back_the_risk_that_an_attempt_took(acceptances: Acceptances, project: Project) -> None:
    acceptances.mark(begun(acceptances, project), "ended")
    with pytest.raises(ConflictError, match="meanwhile: run the command again"):
        begun(acceptances, project)
    made = begun(acceptances, project, risk=0.008)
    certified = acceptances.certify(made, frozen(), np.ones(6, np.bool_), 2, {"certificate": "x"})
    acceptances.mark(acceptances.mark(certified, "written"), "certified")
    assert acceptances.spent(project) == pytest.approx(0.048)


def test_what_is_over_is_not_drawn_from_or_ended_any_more(acceptances: Acceptances, project: Project) -> None:
    made = begun(acceptances, project)
    acceptances.mark(made, "ended")
    changes: list[Callable[[], object]] = [
        lambda: acceptances.draw(made, 4),
        lambda: acceptances.end_sample(made, 2),
        lambda: acceptances.note(made, {}),
        lambda: acceptances.certify(made, frozen(), np.ones(6, np.bool_), 2, {}),
        lambda: acceptances.mark(made, "ended"),
    ]
    for change in changes:
        with pytest.raises(ConflictError, match="is ended by now"):
            change()


def test_a_certificate_is_kept_with_what_it_accepts(acceptances: Acceptances, project: Project) -> None:
    accepted = np.array([True, False, True, True, False, True])
    made = acceptances.certify(
        begun(acceptances, project), frozen(), accepted, 3, {"certificate": "x", "title": "Köter"}
    )
    kept = acceptances.frozen(made)
    assert kept.accepted is not None
    assert kept.accepted.tolist() == accepted.tolist()
    assert (made.state, made.sample, made.certificate) == ("certified", 3, {"certificate": "x", "title": "Köter"})
    assert acceptances.vouched(project) == [made]


def test_guesses_are_hidden_from_the_beginning_until_the_audit_is_over(
    acceptances: Acceptances, project: Project
) -> None:
    assert not acceptances.is_blind(project)
    made = begun(acceptances, project)
    assert acceptances.is_blind(project)
    made = acceptances.note(made, {"looked": 2}, complete=True)
    assert acceptances.is_blind(project), "what was answered may still be changed"
    acceptances.mark(made, "ended")
    assert not acceptances.is_blind(project)
