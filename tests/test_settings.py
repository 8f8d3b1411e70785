"""Settings: defaults work, mistakes are told all at once, every knob is documented."""

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


def test_several_hosts_each_have_their_key() -> None:
    settings = Settings.from_environ(
        {
            "LABEL_STUDIO_API_KEY": "a",
            "LABEL_STUDIO_API_KEYS": "http://one:8080=b, http://two:8080/=c",
        }
    )
    assert settings.hosts() == {"http://localhost:8080": "a", "http://one:8080": "b", "http://two:8080": "c"}


def test_every_setting_is_documented() -> None:
    text = Path("docs/settings.md").read_text()
    missing = [knob.metadata["env"] for knob in fields(Settings) if f"`{knob.metadata['env']}`" not in text]
    assert missing == []
