"""The command line as such: help, documentation, scripts, completion, and how it fails."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate_commands import PAGE, page, parsers
from ml_backend import cli
from ml_backend.commands.setup_project import labels_from
from ml_backend.errors import InvalidInputError

ROOT = Path(__file__).parents[2]
TOKEN = "f" * 40


@pytest.fixture
def no_label_studio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "parser"), list(parsers()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_and_option_has_help(name: str, parser: argparse.ArgumentParser) -> None:
    assert parser.format_help()
    for action in parser._actions:
        assert action.help or action.choices, f"{name} {action.option_strings} has no help"


def test_the_page_of_commands_is_that_of_the_parsers() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(written), "docs/commands.md is stale: run `make commands`"


def test_a_page_of_commands_keeps_its_text_and_gets_the_tables_of_today() -> None:
    stale = "# Commands\n\n## doctor\n\nBy hand.\n\n| option | what it does |\n|---|---|\n| `--old` | gone |\n"
    doctor = page(stale).split("## doctor\n")[1].split("\n## ")[0]
    assert "By hand." in doctor
    assert "`--project ID`" in doctor
    assert "--old" not in doctor
    assert "### versions pin\n" in page(stale)
    with pytest.raises(ValueError, match="no command: dactor"):
        page("# Commands\n\n## dactor\n\nBy hand.\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_shown_and_exits_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_the_command_of_its_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0
    assert f"ml-backend {path.stem.replace('_', '-')}" in capsys.readouterr().out


def test_import_labels_may_be_written_as_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["import", "labels", "--help"])
    assert "usage: ml-backend import-labels" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_code_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert "ml-backend" in capsys.readouterr().out


def test_the_shell_is_offered_verbs_and_options(tmp_path: Path) -> None:
    line = "ml-backend sync prioritize --str"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"),
    }
    subprocess.run([sys.executable, "-m", "ml_backend.cli"], env=os.environ | asked, check=True, capture_output=True)
    assert (tmp_path / "out").read_text().strip() == "--strategy"


WRITES_NOTHING = {
    "demo": "runs, and writes below its own folder",
    "serve": "runs",
    "doctor": "looks",
    "completion": "prints",
    "sync status": "looks",
    "accept plan": "looks",
    "accept status": "looks",
    "settings list": "looks",
    "versions list": "looks",
    "versions compare": "looks",
}


@pytest.mark.parametrize(("name", "parser"), list(parsers()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_that_changes_something_has_a_dry_run(name: str, parser: argparse.ArgumentParser) -> None:
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        return  # its verbs are looked at
    options = {option for action in parser._actions for option in action.option_strings}
    assert ("--dry-run" in options) != (name in WRITES_NOTHING)


def test_a_mistyped_option_exits_with_two() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["sync", "query", "--sise", "3"])
    assert ended.value.code == 2


@pytest.mark.usefixtures("no_label_studio")
@pytest.mark.parametrize(
    "arguments",
    [
        ["setup-project", "--project", "1"],
        ["import-images", "."],
        ["sync", "status", "--project", "1"],
        ["export", "labels", "--project", "1"],
        ["doctor"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_label_studio_away_is_one_sentence_and_exit_code_one(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between the retries
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "cannot be reached" in said.out + said.err
    assert "Traceback" not in said.out + said.err
    assert TOKEN not in said.out + said.err


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The only document on standard output: what went wrong."""
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["error"]
    return str(document["error"])


@pytest.mark.usefixtures("no_label_studio")
@pytest.mark.parametrize(
    "arguments",
    [["setup-project", "--project", "1"], ["import-images", "."], ["sync", "run"], ["export", "labels"]],
    ids=lambda arguments: arguments[0],
)
def test_a_program_is_told_what_failed_in_json(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between the retries
    assert cli.main([*arguments, "--json"]) == 1
    assert "cannot be reached" in failure(capsys)


@pytest.mark.parametrize(
    "arguments",
    [["sync", "query", "--sise", "3", "--json"], ["sync", "--json"], ["synk", "--json"], ["doctor", "--js", "x"]],
    ids=" ".join,
)
def test_a_mistyped_command_line_is_told_in_json_as_well(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert failure(capsys)


@pytest.mark.usefixtures("no_label_studio")
@pytest.mark.parametrize(
    "error", [RuntimeError("the wheel came off"), PermissionError(13, "Permission denied", "a.csv")]
)
def test_what_nobody_foresaw_is_a_sentence_too(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_args: object) -> int:
        raise error

    monkeypatch.setattr("ml_backend.commands.doctor.run", fail)
    assert cli.main(["doctor", "--json"]) == 1
    said = capsys.readouterr()
    assert str(error.args[-1]) in json.loads(said.out)["error"]
    assert "Traceback" not in said.err


def test_without_a_token_the_sentence_says_where_it_is_read_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path))
    assert cli.main(["setup-project", "--project", "1"]) == 1
    assert "LABEL_STUDIO_API_KEY_FILE" in capsys.readouterr().err


def test_the_token_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ml_backend.commands.options import read_settings

    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", str(tmp_path / "token"))
    assert read_settings().label_studio_api_key == TOKEN


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a,b", ["a", "b"]),
        ('"a,b", c', ["a,b", "c"]),
        (' a , "say ""hi""",', ["a", 'say "hi"']),
        ("5\" nail,it's", ['5" nail', "it's"]),
    ],
)
def test_labels_are_read_as_csv(text: str, labels: list[str]) -> None:
    assert labels_from(text) == labels


@pytest.mark.parametrize("text", ["a", "a,a", "", ",", '"a,b', '"a"b,c'])
def test_labels_that_are_too_few_or_torn_are_refused_with_what_is_needed(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"separated by commas|double quotes"):
        labels_from(text)
