"""A person's own queue: which tasks are meant, in which order, and how long it stays."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_backend.errors import InvalidInputError, NothingToAskError
from ml_backend.priorities import MANUAL, Batch, by_hand, priorities_from_csv, resolve
from ml_backend.records import Annotation, Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps.batch import BY_HAND, choose
from ml_backend.store.projects import Project

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", holdout_share=0.0))
    yield opened
    opened.database.close()


def known(services: Services, project: Project, labelled: int) -> None:
    """Ten tasks, the first `labelled` of them labelled."""
    rows = []
    for i in range(1, 11):
        task = Task(i, f"/i/{i}.png", {"image": f"/i/{i}.png", "filename": f"{i}.png", "path": f"sub/{i % 5}.png"}, NOW)
        answers = [Annotation(i, i, ("cat",), False, False, 1, NOW, NOW)] if i <= labelled else []
        rows.append((task, answers))
    services.ledger.reconcile(project, rows, full=True)


@pytest.fixture
def project(services: Services) -> Project:
    project = services.register("http://localhost:8080", 1, CONFIG, created=1)
    known(services, project, labelled=2)
    return project


def order(batch: Batch) -> list[int]:
    return [query.task_id for query in sorted(batch.queries, key=lambda query: query.rank)]


def test_tasks_are_named_by_number_filename_path_or_address(services: Services, project: Project) -> None:
    assert resolve(project, services, ["4", "3.png", "/i/5.png"]) == [4, 3, 5]


def test_unknown_and_ambiguous_names_are_all_told_and_nothing_is_done(services: Services, project: Project) -> None:
    with pytest.raises(InvalidInputError) as told:
        resolve(project, services, ["3.png", "nobody.png", "sub/1.png", "99"])
    assert "'nobody.png', '99'" in str(told.value)
    assert "several tasks are called 'sub/1.png'" in str(told.value)


def test_the_highest_priority_comes_first_and_ties_as_given(services: Services, project: Project) -> None:
    batch = by_hand(project, services, {5: 1.0, 6: 3.0, 7: 1.0})
    assert order(batch) == [6, 5, 7]
    assert batch.strategy == MANUAL


def test_labelled_and_missing_tasks_are_left_out_with_the_reason(services: Services, project: Project) -> None:
    batch = by_hand(project, services, {1: 9.0, 5: 1.0, 77: 5.0})
    assert order(batch) == [5]
    assert batch.skipped == {1: "labelled already", 77: "not in this project"}
    with pytest.raises(NothingToAskError):
        by_hand(project, services, {1: 9.0})


def test_a_held_out_task_stays_held_out_and_gets_no_prelabel(services: Services, project: Project) -> None:
    services.ledger.draw_holdout(project, [8])
    batch = by_hand(project, services, {8: 2.0, 9: 1.0})
    assert [query.arm for query in batch.queries] == ["holdout", "strategy"]


def test_a_csv_may_have_priorities_or_only_an_order(services: Services, project: Project, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filename,priority\n5.png,1\n6.png,2.5\n")
    (tmp_path / "b.csv").write_text("task_id\n5\n6\n")
    (tmp_path / "c.csv").write_text("filename,priority\n5.png,soon\n")
    assert order(by_hand(project, services, priorities_from_csv(project, services, tmp_path / "a.csv"))) == [6, 5]
    assert order(by_hand(project, services, priorities_from_csv(project, services, tmp_path / "b.csv"))) == [5, 6]
    with pytest.raises(InvalidInputError, match="row 1: the priority 'soon'"):
        priorities_from_csv(project, services, tmp_path / "c.csv")


def test_a_queue_made_by_hand_stays_until_half_of_it_is_answered(services: Services, project: Project) -> None:
    queries = [Query(task, rank, "strategy", 1.0, "asked for by hand") for rank, task in enumerate([3, 4, 5, 6])]
    mine = services.ledger.open_round(
        project, version=0, strategy=MANUAL, seed=0, queries=queries, params={BY_HAND: True}
    )
    known(services, project, labelled=3)
    assert choose(project, services, None, None).number == mine.number
    known(services, project, labelled=4)
    with pytest.raises(NothingToAskError):  # no vectors in this test: there is nothing to make a new queue from
        choose(project, services, None, None)
