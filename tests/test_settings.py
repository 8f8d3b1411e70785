"""Settings: defaults work, mistakes are told all at once, every knob is documented."""

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from ml_backend.encoders.custom_encoders import SUFFIXES
from ml_backend.encoders.vision import torchvision
from ml_backend.errors import ConfigError
from ml_backend.settings import Settings
from ml_backend.strategies import STRATEGIES


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
                "ML_BACKEND_HOLDOUT_SHARE": "nan",
                "ML_BACKEND_TRAINING": "body",
                "ML_BACKEND_STRATEGY": "best",
                "ML_BACKEND_ENCODER": "resnt18",
                "ML_BACKEND_DATABASE_URL": "mysql://me:hush@host/name",
                "LABEL_STUDIO_API_KEY_FILE": "/not/there",
                "ML_BACKEND_BATCHSIZE": "3",
            }
        )
    message = str(caught.value)
    for part in (
        "ML_BACKEND_PORT must be a valid integer;",
        "ML_BACKEND_BATCH_SIZE must be greater than or equal to 1",
        "LABEL_STUDIO_URL must be an address",
        "set both or neither",
        "ML_BACKEND_HOLDOUT_SHARE must be",
        "ML_BACKEND_TRAINING must be 'head' or 'finetune'",
        "ML_BACKEND_STRATEGY must be one of random, ",
        "ML_BACKEND_ENCODER must be auto, patches, a torchvision network",
        "ML_BACKEND_DATABASE_URL must be postgresql+psycopg://",
        "LABEL_STUDIO_API_KEY [Errno 2]",
        "ML_BACKEND_BATCHSIZE is not a setting (did you mean ML_BACKEND_BATCH_SIZE?)",
    ):
        assert part in message
    assert "hush" not in message


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_of_the_registry_can_be_set(name: str) -> None:
    assert Settings.from_environ({"ML_BACKEND_STRATEGY": name}).strategy == name


def test_every_kind_of_encoder_can_be_set_and_a_misspelt_one_not() -> None:
    models = torchvision().models
    networks = [*models.list_models(module=models), "resnet18@none", "resnet50@IMAGENET1K_V1", "timm:vit_tiny"]
    for name in ["auto", "patches", "mine:Own", *(f"/models/one{suffix}" for suffix in SUFFIXES), *networks]:
        assert Settings.from_environ({"ML_BACKEND_ENCODER": name}).encoder == name
    for name in ("resnet", "resnet18 ", "conv1x1", "list_models", "one.pth", ".*"):
        with pytest.raises(ConfigError, match="ML_BACKEND_ENCODER must be"):
            Settings.from_environ({"ML_BACKEND_ENCODER": name})


def test_a_database_is_sqlite_or_postgresql() -> None:
    for url in ("sqlite:////a/b", "postgres://h/x", "postgresql://h/x", "postgresql+psycopg://u:p@h/x"):
        assert Settings.from_environ({"ML_BACKEND_DATABASE_URL": url}).database == url
    for url in ("oracle://h/x", "state.db"):
        with pytest.raises(ConfigError, match="ML_BACKEND_DATABASE_URL must be"):
            Settings.from_environ({"ML_BACKEND_DATABASE_URL": url})


def test_none_leaves_out_what_may_be_left_out() -> None:
    names = ("ML_BACKEND_POOL_SIZE", "ML_BACKEND_POWER", "ML_BACKEND_URL", "LABEL_STUDIO_MEDIA_ROOT")
    assert Settings.from_environ(dict.fromkeys(names, "None")) == Settings()


def test_settings_by_keyword_do_not_read_the_environment_and_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ML_BACKEND_PORT", "PORT", "port"):
        monkeypatch.setenv(name, "9999")
    settings = Settings(batch_size=7)
    assert (settings.port, settings.batch_size) == (9090, 7)
    with pytest.raises(ValidationError):
        settings.port = 1


def test_secrets_are_not_shown() -> None:
    keys = (("http://two:8080", "hush"),)
    url = "postgresql://me:hush@host/name"
    secret = Settings(
        label_studio_api_key="hush", label_studio_api_keys=keys, database_url=url, user="me", password="hush"
    )
    assert "hush" not in repr(secret) + str(secret)
    with pytest.raises(ValidationError) as refused:
        Settings(password="hush")
    assert "hush" not in str(refused.value)


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
    (definition,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(definition, ast.ClassDef)
    told = {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    assert set(told) == set(Settings.model_fields)
    for field, name in Settings.variables().items():
        row = next((row for row in rows if row.startswith(f"| `{name}` |")), "not there")
        assert row.endswith(f"| {told[field]} |")
