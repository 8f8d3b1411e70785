"""A person's afternoon in a real browser: no answer is lost, and nobody is told of an error.

The short ones belong to `make test`; `make test-long` runs all, which takes hours. One of them by hand:

    make test-long ARGS="-k three-10s"
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e.afternoon import Cell, afternoon, check_nothing_piles_up, spread
from tests.e2e.annotator import find_chromium

EVENTS = (
    "leave_open", "skip", "go_back_and_update", "retrieve_predictions", "delete_in_quick_view", "roll_back",
    "leave_open_with_a_draft", "prioritize", "correction_by_another", "answer_in_quick_view", "reload", "undo",
    "second_tab",
)  # fmt: skip
SHORT = {
    "one": Cell(34, 0.5, events=spread(EVENTS, 34)),
    "three": Cell(12, 0.5, browsers=3, turnovers=2, batch=40, train_after=8),
}
PACES = (0.5, 2.0, 10.0)
LONG = {
    f"{name}-{pace:g}s": Cell(
        120, pace, browsers=people, turnovers=10, breaks=60, events=spread(EVENTS, 120),
        tasks=300 + 150 * people, batch=20 * people, train_after=10,
    )
    for name, people in (("one", 1), ("three", 3))
    for pace in PACES
}  # fmt: skip
LONG["displayed"] = Cell(60, 0.5, displayed=True, turnovers=5)
LONG["overlap"] = Cell(40, 0.5, browsers=2, overlap=2, batch=40, train_after=8)


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return find_chromium()


@pytest.mark.browser
@pytest.mark.timeout(5_400)
@pytest.mark.parametrize("cell", SHORT.values(), ids=SHORT)
def test_an_afternoon_loses_no_answer_and_shows_no_error(
    request: pytest.FixtureRequest, tmp_path: Path, cell: Cell
) -> None:
    # On SQLite, two submits at once can make Label Studio store an answer and then refuse it (409), if a draft was saved.
    where = "postgresql_label_studio" if cell.browsers > 1 else "label_studio"
    server: EmbeddedLabelStudio = request.getfixturevalue(where)
    with LabelStudio(server.url, server.token) as client:
        with afternoon(server, client, tmp_path, cell) as people:
            people.work()
            people.check()
        check_nothing_piles_up(people.stack)


@pytest.mark.browser
@pytest.mark.long
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("cell", LONG.values(), ids=LONG)
def test_a_long_afternoon_loses_no_answer_and_shows_no_error(
    request: pytest.FixtureRequest, tmp_path: Path, cell: Cell
) -> None:
    test_an_afternoon_loses_no_answer_and_shows_no_error(request, tmp_path, cell)
