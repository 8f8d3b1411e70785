"""Tasks by a part of their image's name."""

from __future__ import annotations

from itertools import islice

import pytest

from ml_backend.records import Task
from ml_backend.store import task_search
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.task_search import tasks_named

NAMES = {
    1: {"image": "/data/a/Robin_01.JPG", "filename": "Robin_01.JPG"},
    2: {"image": "/data/local-files/?d=birds%2Fgr%C3%BCn%20specht.png"},
    3: {"image": "/data/b/x100%_done.png", "other": "robin"},
    4: {"image": "/data/b/日本.png", "path": "asia/日本.png"},
}


@pytest.fixture
def named(ledger: Ledger, project: Project) -> Ledger:
    rows = [(Task(task, data["image"], data), None) for task, data in NAMES.items()]
    ledger.reconcile(project, rows, full=True)
    return ledger


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("robin", [1]),
        ("ROBIN_0", [1]),
        ("grün s", [2]),
        ("birds/", [2]),
        ("%", [3]),
        ("100%_", [3]),
        ("日本", [4]),
        ("asia/日", [4]),
        ("_", [1, 3]),
        (".png", [2, 3, 4]),
        ("'; DROP", []),
    ],
)
def test_a_part_of_the_filename_or_path_finds_the_task_whatever_it_is_made_of(
    named: Ledger, project: Project, text: str, tasks: list[int]
) -> None:
    found = [task.id for task in tasks_named(named.database, project, text)]
    assert found == tasks


def test_the_next_ones_come_after_the_last_id(named: Ledger, project: Project) -> None:
    first = [task.id for task in islice(tasks_named(named.database, project, ".png"), 2)]
    rest = [task.id for task in tasks_named(named.database, project, ".png", after=first[-1])]
    assert (first, rest) == ([2, 3], [4])


def test_a_part_that_every_name_has_is_not_all_that_the_database_looks_for(
    named: Ledger, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(Task(task, f"/i/photograph-{task}.jpg", {}), None) for task in range(10, 60)]
    named.reconcile(project, rows, full=False)
    looked_at: list[int] = []

    def look(task: Task, _text: str) -> bool:
        looked_at.append(task.id)
        return True

    monkeypatch.setattr(task_search, "is_named", look)
    assert [task.id for task in tasks_named(named.database, project, "PHOTOGRAPH-42")] == [42]
    assert looked_at == [42]
