"""What the rest of a project would take, by its held-out labels alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_backend import cli
from ml_backend.acceptance.planning import Forecast, forecast
from ml_backend.acceptance.project_rest import Plan
from ml_backend.acceptance.proposal import Proposal
from ml_backend.commands import accept
from ml_backend.dry_run import open_copy
from ml_backend.errors import InvalidInputError, NotFoundError
from tests.bench import HOST, Bench, without_label_studio

ERRORS = (0.01, 0.05, 0.2)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data", measured=30)
    yield made
    made.services.database.close()


def planned(bench: Bench) -> Plan:
    with without_label_studio(bench):
        return bench.services.project_rest.plan(bench.project, ERRORS, 0.95)


def test_fewer_wrong_labels_cost_more_looks() -> None:
    asked = Proposal(np.arange(8000), np.zeros(8000, np.int64), np.linspace(0, 0.04, 8000), 1)
    looks = [forecast(asked.corrected(0.2), error, 0.04) for error in ERRORS]
    assert [each.looks for each in looks] == sorted((each.looks for each in looks), reverse=True)
    assert looks[0].accepted > 6000
    assert all(each.sample + each.accepted + each.left == 8000 for each in looks)


def test_a_model_that_people_found_worse_than_it_believes_is_planned_with_less() -> None:
    asked = Proposal(np.arange(8000), np.zeros(8000, np.int64), np.linspace(0, 0.04, 8000), 1)
    assert forecast(asked.corrected(0.2), 0.02, 0.04).looks < forecast(asked.corrected(0.8), 0.02, 0.04).looks
    everywhere = Proposal(np.arange(8000), np.zeros(8000, np.int64), np.full(8000, 0.005), 1)
    assert forecast(everywhere, 0.02, 0.04).accepted > 7000
    assert forecast(everywhere.corrected(20.0), 0.02, 0.04).accepted == 0


def test_a_plan_counts_the_tasks_without_a_label_and_changes_nothing(bench: Bench) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    before = bench.services.ledger.counts(bench.project)
    plan = planned(bench)
    assert plan.tasks == before.waiting
    assert (plan.unread, plan.measured, plan.version) == (0, 30, 1)
    assert [each.error for each in plan.forecasts] == list(ERRORS)
    assert bench.services.ledger.counts(bench.project) == before


def test_tasks_whose_image_was_not_read_yet_are_counted_and_left_out(bench: Bench) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    read = planned(bench)
    bench.ids += [121, 122]
    plan = planned(bench)
    assert (plan.tasks, plan.unread) == (read.tasks + 2, 2)
    assert plan.forecasts == read.forecasts


def test_a_plan_on_a_copy_of_the_store_leaves_the_graph_that_it_builds_unwritten(bench: Bench) -> None:
    """The service keeps it; a copy shares its folder."""
    bench.label(*range(1, 61))
    bench.turn()
    graph = bench.services.graph_files.path(bench.project.id)
    graph.unlink()
    copy = open_copy(bench.settings)
    with without_label_studio(bench):
        assert copy.project_rest.plan(copy.ledger.projects()[0], ERRORS, 0.95).measured == 30
    copy.database.close()
    assert not graph.exists()


def test_without_held_out_labels_there_is_no_plan_and_the_reason_is_told(bench: Bench) -> None:
    bench.label(*range(40, 61))
    bench.turn()
    with pytest.raises(InvalidInputError, match=r"there are 0 of at least 20\. Label on"):
        planned(bench)


def test_without_a_model_there_is_no_plan(bench: Bench) -> None:
    bench.label(1)
    bench.turn()
    with pytest.raises(NotFoundError, match="no model that answers"):
        planned(bench)


def test_the_command_tells_a_plan_and_leaves_the_data_folder_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    for name, value in (("URL", HOST), ("API_KEY", "k" * 40)):
        monkeypatch.setenv(f"LABEL_STUDIO_{name}", value)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(bench.settings.data_dir))
    monkeypatch.setenv("ML_BACKEND_ENCODER", bench.settings.encoder)
    before = contents(bench.settings.data_dir)
    with without_label_studio(bench):
        code = cli.main(["accept", "plan", "--error", "5%", "--error", "0.2", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert cli.main(["accept", "plan"]) == 0
    assert (code, told["measured"], told["tasks"]) == (0, 30, 60)
    assert [each["error"] for each in told["forecasts"]] == [0.05, 0.2]
    assert "wrong at most" in capsys.readouterr().out
    assert contents(bench.settings.data_dir) == before


def contents(folder: Path) -> dict[str, bytes]:
    """All files but SQLite's own, which opening a database moves."""
    files = (path for path in folder.rglob("*") if path.is_file() and "sqlite3-" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def told(bench: Bench, tasks: int, unread: int, confidence: float, *errors: float) -> str:
    forecasts = tuple(Forecast(error, 0, 0, tasks - unread) for error in errors)
    return accept._planned(bench.project, Plan(1, tasks, unread, 30, 0, confidence, forecasts))


def test_shares_are_told_as_they_were_asked_for(bench: Bench) -> None:
    text = told(bench, 5000, 0, 0.999999, 0.0025, 0.0004, 0.07)
    assert "at 99.9999% confidence" in text
    assert [line.split()[0] for line in text.splitlines() if "none" in line] == ["0.25%", "0.04%", "7%"]


def test_where_no_image_was_read_yet_the_model_is_not_blamed(bench: Bench) -> None:
    text = told(bench, 59, 59, 0.95, 0.02)
    assert "No image of the 59 tasks without a label was read yet" in text
    assert "not good enough" not in text
