"""What people did is kept in order, for each project by itself, and not without end."""

from __future__ import annotations

import pytest

from ml_backend.store import acts as module
from ml_backend.store.acts import Acts
from ml_backend.store.database import Database
from ml_backend.store.projects import Project


def test_acts_are_told_newest_first_with_who_and_what(database: Database, project: Project) -> None:
    acts = Acts(database)
    for number in range(3):
        acts.record(project, "pin", account="ann@example.org", person="Ann <b>", detail={"version": number})
    found = acts.list(project)
    assert [act.detail["version"] for act in found] == [2, 1, 0]
    assert {(act.account, act.person, act.what) for act in found} == {("ann@example.org", "Ann <b>", "pin")}
    assert [act.id for act in acts.list(project, before=found[0].id)] == [act.id for act in found[1:]]


def test_the_oldest_are_forgotten(database: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    acts = Acts(database)
    for number in range(4):
        acts.record(project, "pause", account="a", person="A", detail={"n": number})
    assert [act.detail["n"] for act in acts.list(project)] == [3, 2]
