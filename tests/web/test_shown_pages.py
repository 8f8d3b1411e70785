"""Who has which images in front of them, in the memory of the service."""

from __future__ import annotations

import pytest

from ml_backend.errors import ConflictError
from ml_backend.web.shown_pages import HELD_S, ShownPages


def test_a_page_that_somebody_left_open_is_given_to_others_after_a_while() -> None:
    now = [0.0]
    shown = ShownPages(clock=lambda: now[0])
    shown.hold(7, [1, 2])
    assert (shown.elsewhere(8, {1, 2, 3}), shown.elsewhere(7, {1, 2, 3})) == ({1, 2}, set())
    shown.hold(7, [3])
    assert shown.elsewhere(8, {1, 2, 3}) == {3}
    now[0] += HELD_S
    assert shown.elsewhere(8, {1, 2, 3}) == set()


def test_nothing_is_remembered_of_tasks_that_the_ledger_knows_to_be_answered() -> None:
    shown = ShownPages()
    shown.answered(range(1_000))
    shown.refuse("cat", range(1_000))
    assert shown.elsewhere(7, {5, 2_000}) == {5}
    assert shown.refused() == {"cat": {5}}


def test_two_tabs_of_one_person_write_one_after_the_other_and_none_waits_for_ever() -> None:
    shown = ShownPages(patience=0.01)
    with shown.alone(7), shown.alone(8), pytest.raises(ConflictError, match="try again in a while"), shown.alone(7):
        raise AssertionError("two at once")
    with shown.alone(7):
        pass
