"""Settings: defaults work, mistakes are told all at once, every knob is documented."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ml_backend.errors import ConfigError
from ml_backend.settings import Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environ({})
    assert settings.batch_size == 20
    assert settings.url == "http://localhost:9090"
    assert settings.database.startswith("sqlite:///")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ(
            {
                "ML_BACKEND_PORT": "many",
                "ML_BACKEND_BATCH_SIZE": "0",
                "LABEL_STUDIO_URL": "localhost",
                "ML_BACKEND_USER": "me",
                "ML_BACKEND_BATCHSIZE": "3",
            }
        )
    message = str(caught.value)
    for part in (
        "ML_BACKEND_PORT must be a whole number",
        "ML_BACKEND_BATCH_SIZE must be at least 1",
        "LABEL_STUDIO_URL must be an address",
        "set both or neither",
        "ML_BACKEND_BATCHSIZE is not a setting",
    ):
        assert part in message


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("abc\n")
    assert Settings.from_environ({"LABEL_STUDIO_API_KEY_FILE": str(secret)}).label_studio_api_key == "abc"
    with pytest.raises(ConfigError, match="set twice"):
        Settings.from_environ({"LABEL_STUDIO_API_KEY_FILE": str(secret), "LABEL_STUDIO_API_KEY": "x"})


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("abc\n")
    environment = {"LABEL_STUDIO_API_KEY_FILE": str(secret), "LABEL_STUDIO_API_KEY": "", "ML_BACKEND_DATA_DIR": ""}
    settings = Settings.from_environ(environment)
    assert settings.label_studio_api_key == "abc"
    assert settings.data_dir == Settings().data_dir


def test_the_data_folder_does_not_depend_on_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Settings.from_environ({}).data_dir
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environ({}).data_dir == before
    assert before.is_absolute()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert Settings.from_environ({}).data_dir == tmp_path / "label-studio-active-learning"


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environ({"ML_BACKEND_DATA_DIR": "a/../b", "ML_BACKEND_DATABASE_URL": "sqlite:///state.db"})
    assert settings.data_dir == tmp_path / "b"
    assert settings.database == f"sqlite:///{tmp_path / 'state.db'}"


def test_several_hosts_each_have_their_key() -> None:
    settings = Settings.from_environ(
        {
            "LABEL_STUDIO_API_KEY": "a",
            "LABEL_STUDIO_API_KEYS": "http://one:8080=b, http://two:8080/=c",
        }
    )
    assert settings.hosts() == {"http://localhost:8080": "a", "http://one:8080": "b", "http://two:8080": "c"}


def test_an_encoder_that_the_operator_named_may_run_code() -> None:
    named = {"ML_BACKEND_ENCODER": "mine:Own", "ML_BACKEND_ALLOWED_ENCODERS": "theirs:One, /models/two.pt2"}
    assert Settings.from_environ(named).trusted_encoders == {"mine:Own", "theirs:One", "/models/two.pt2"}


def test_every_setting_is_documented_word_for_word() -> None:
    rows = Path("docs/settings.md").read_text().splitlines()
    for knob in fields(Settings):
        row = next((row for row in rows if row.startswith(f"| `{knob.metadata['env']}` |")), "not there")
        assert row.endswith(f"| {knob.metadata['doc']} |")
