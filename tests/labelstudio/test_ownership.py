"""The mark of the store that has a project: who may push, who may not, and two who claim in the same instant."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ml_backend.errors import AnotherStoreError
from ml_backend.labelstudio import ownership
from ml_backend.labelstudio.ownership import Owner, claim, owner_of, require_own

A, B = "a" * 32, "b" * 32


class OneProject:
    """A Label Studio with one project, that a client may read and write."""

    def __init__(self, model_version: str = "") -> None:
        weights = {"choice": {"overall": 1.0, "type": "Choices", "labels": {"cat": 1.0}}}
        self.project: dict[str, Any] = {
            "id": 3,
            "title": "Birds",
            "model_version": model_version,
            "control_weights": weights,
        }

    def get_project(self, _number: int) -> dict[str, Any]:
        return dict(self.project)

    def update_project(self, _number: int, **fields: Any) -> None:
        self.project |= fields


def marked(studio: OneProject, owner: Owner) -> None:
    claim(studio, studio.get_project(3), owner)  # type: ignore[arg-type]


def never(_queue: str) -> bool:
    return False


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SETTLE_SECONDS", 0.0)


def test_a_project_is_its_owners_and_others_are_told_whose_and_how_to_take_it_over() -> None:
    studio = OneProject()
    assert require_own(studio.get_project(3), A, never) is None
    marked(studio, Owner(A, "birds-01", "2026-11-21"))
    assert require_own(studio.get_project(3), A, never) == Owner(A, "birds-01", "2026-11-21")
    with pytest.raises(
        AnotherStoreError, match=r"aaaaaaaa on birds-01, .*2026-11-21.*setup-project --project 3 --take-over"
    ):
        require_own(studio.get_project(3), B, never)
    marked(studio, Owner(B))
    with pytest.raises(AnotherStoreError):
        require_own(studio.get_project(3), A, never)


def test_the_weights_of_the_projects_own_controls_stay() -> None:
    studio = OneProject()
    marked(studio, Owner(A))
    assert studio.project["control_weights"]["choice"]["labels"] == {"cat": 1.0}


def test_without_a_mark_a_queue_that_this_store_did_not_make_is_anothers() -> None:
    project = OneProject("v6-r7").get_project(3)
    assert require_own(project, A, {"v6-r7"}.__contains__) is None
    with pytest.raises(AnotherStoreError, match=r"v6-r7.*--take-over"):
        require_own(project, A, never)
    assert require_own(OneProject("somebody's own model").get_project(3), A, never) is None


def test_of_two_stores_that_claim_in_the_same_instant_one_has_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    studio, both_wrote = OneProject(), threading.Barrier(2)
    found = studio.get_project(3)
    monkeypatch.setattr("time.sleep", lambda _seconds: both_wrote.wait(10))

    def has_it(store: str) -> bool:
        try:
            claim(studio, found, Owner(store))  # type: ignore[arg-type]
        except AnotherStoreError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        got = dict(zip((A, B), pool.map(has_it, (A, B)), strict=True))
    owner = owner_of(studio.get_project(3))
    assert owner is not None
    assert [store for store, has in got.items() if has] == [owner.store]
