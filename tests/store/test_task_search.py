"""Tasks by a part of their image's name."""

from __future__ import annotations

from itertools import islice

import pytest

from ml_backend.records import Task
from ml_backend.store.task_search import tasks_named
from tests.bench import Bench

NAMES = {
    1: {"image": "/data/a/Robin_01.JPG", "filename": "Robin_01.JPG"},
    2: {"image": "/data/local-files/?d=birds%2Fgr%C3%BCn%20specht.png"},
    3: {"image": "/data/b/x100%_done.png", "other": "robin"},
    4: {"image": "/data/b/日本.png", "path": "asia/日本.png"},
}


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("names"), tasks=0, measured=0)
    rows = [(Task(task, data["image"], data), None) for task, data in NAMES.items()]
    made.services.ledger.reconcile(made.project, rows, full=True)
    return made


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
    bench: Bench, text: str, tasks: list[int]
) -> None:
    found = [task.id for task in tasks_named(bench.services.database, bench.project, text)]
    assert found == tasks


def test_the_next_ones_come_after_the_last_id(bench: Bench) -> None:
    first = [task.id for task in islice(tasks_named(bench.services.database, bench.project, ".png"), 2)]
    rest = [task.id for task in tasks_named(bench.services.database, bench.project, ".png", after=first[-1])]
    assert (first, rest) == ([2, 3], [4])
