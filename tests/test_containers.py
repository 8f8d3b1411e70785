"""The container files, as far as they can be checked without a Docker daemon."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_backend.demo.label_studio import CONNECTED
from ml_backend.errors import ConfigError
from ml_backend.settings import Settings
from ml_backend.web.access import require_closed

ROOT = Path(__file__).parent.parent


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def filled_in(value: str) -> str:
    """With the default where the variable has one; somebody chose the others."""
    return re.sub(r"\$\{\w+(?::-([^}]*)|[^}]*)\}", lambda found: found[1] or "secret", value)


def test_the_settings_of_each_backend_container_are_known() -> None:
    for name in ("ml-backend", "worker", "worker-cpu"):
        given = compose()["services"][name]["environment"]
        filled = {key: filled_in(value) for key, value in given.items()}
        assert Settings.from_environ(filled).url == "http://ml-backend.internal:9090"


def test_what_is_downloaded_outlives_the_container() -> None:
    said = (ROOT / "Dockerfile").read_text()
    for name in ("TORCH_HOME", "HF_HOME"):
        assert re.search(rf"^ENV .*{name}=/data/", said, re.MULTILINE)


def test_label_studio_is_started_with_everything_a_private_backend_needs() -> None:
    environment = compose()["services"]["label-studio"]["environment"]
    assert CONNECTED.items() <= environment.items()
    assert environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"


def test_the_backend_answers_to_the_name_label_studio_calls() -> None:
    services = compose()["services"]
    assert "ml-backend.internal" in services["ml-backend"]["networks"]["default"]["aliases"]


def test_the_worker_reserves_a_gpu_and_every_service_starts_again() -> None:
    services = compose()["services"]
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert all(service["restart"] == "unless-stopped" for service in services.values())


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_PASSWORD", "ML_BACKEND_PASSWORD"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text


def test_the_image_runs_as_nobody_special_and_is_watched() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = [index for index, line in enumerate(lines) if line.startswith("FROM ")]
    last = lines[stages[-1] :]
    assert all("-slim" in lines[index] for index in stages)
    assert any(line.startswith("USER ") and line != "USER root" for line in last)
    assert any(line.startswith("HEALTHCHECK ") for line in last)


def test_the_image_alone_does_not_start_open_and_the_composed_service_has_a_password() -> None:
    (host,) = re.findall(r"ML_BACKEND_HOST=(\S+)", (ROOT / "Dockerfile").read_text())
    with pytest.raises(ConfigError, match="no password"):
        require_closed(Settings(host=host))
    given = compose()["services"]["ml-backend"]["environment"]
    filled = {key: filled_in(value) for key, value in given.items()}
    require_closed(Settings.from_environ({"ML_BACKEND_HOST": host, **filled}))


def test_everything_the_image_copies_is_sent_to_its_build() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for source in " ".join(copies).split():
        assert source.split("/")[0] in sent, source
        assert (ROOT / source).exists(), source
