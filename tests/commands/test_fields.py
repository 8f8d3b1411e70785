"""`ml-backend fields`: what it says, and what it keeps from happening meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ml_backend import cli
from ml_backend.commands import fields as fields_command
from ml_backend.demo.label_studio import free_port
from tests.bench import HOST, Bench, without_label_studio
from tests.field_desk import Desk, judged


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return judged(tmp_path_factory.mktemp("judged") / "data")


@pytest.fixture
def command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `ml-backend fields`; returns its code and what it says."""
    monkeypatch.setattr(fields_command, "open_services", lambda **_: desk.bench.services)
    monkeypatch.setattr(fields_command, "find_project", lambda *_, **__: desk.bench.project)

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with without_label_studio(desk.bench):
            code = cli.main(["fields", *arguments])
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err

    return run


def test_the_command_says_what_it_found_and_how_to_go_on(desk: Desk, command: Callable[..., tuple[int, str]]) -> None:
    code, said = command("--dry-run")
    assert (code, desk.noted) == (0, None)
    assert re.match(
        r"Would write what v1 thinks: new in \d+ tasks\. It agrees with \d+ labels, doubts \d+, and has a", said
    )
    assert said.endswith("Nothing was changed (--dry-run).\n")
    assert "has no fields of ours" in command("--remove")[1]
    desk.studio.dies = 5
    code, said = command()
    assert code == 1
    assert said.strip().endswith("Nothing is lost: run the same command again to go on.")
    desk.studio.dies = -1
    assert command()[1].startswith("Wrote what v1 thinks: new in ")
    assert command()[1].startswith("Wrote what v1 thinks: new in 0 tasks.")
    assert "Would take the fields from" in command("--remove", "--dry-run")[1]
    assert "Took the fields from" in command("--remove")[1]
    assert desk.noted is None


def test_no_turn_runs_while_the_fields_are_written(desk: Desk, command: Callable[..., tuple[int, str]]) -> None:
    jobs, seen = desk.bench.services.jobs, []
    desk.studio.on_write = lambda: seen.append(jobs.status(desk.bench.project).running is not None)
    command()
    assert seen
    assert all(seen)


def test_prefix_and_remove_do_not_go_together(command: Callable[..., tuple[int, str]]) -> None:
    code, said = command("--remove", "--prefix", "x_")
    assert code == 1
    assert "leave --prefix out" in said


def test_label_studio_away_is_a_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.services.database.close()
    for name, value in {
        "LABEL_STUDIO_URL": HOST, "LABEL_STUDIO_API_KEY": "k" * 40,
        "ML_BACKEND_DATA_DIR": str(bench.settings.data_dir),
        "ML_BACKEND_PORT": str(free_port()),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert cli.main(["fields", "--dry-run"]) == 1
    assert "cannot be reached: check that it is running" in capsys.readouterr().err
