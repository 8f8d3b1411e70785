"""The demo's ports, and what it tells of itself."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ml_backend.demo import run
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import ConfigError
from ml_backend.settings import Settings


def test_of_a_taken_port_the_demo_says_which_it_took_instead_unless_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        port = run._port(None, taken, "--port")
        assert port != taken
        assert f"Port {taken} is in use; using {port} instead" in capsys.readouterr().out
        with pytest.raises(ConfigError, match="--port"):
            run._port(taken, 8080, "--port")


def test_the_demo_tells_what_commands_beside_it_need(tmp_path: Path) -> None:
    studio = EmbeddedLabelStudio(tmp_path / "no-binary", tmp_path / "label-studio", port=8081)
    settings = Settings(data_dir=tmp_path / "backend", port=9091)
    said = run.welcome(studio, settings, 1, tmp_path)
    for needed in (
        f"LABEL_STUDIO_URL={studio.url}",
        f"LABEL_STUDIO_API_KEY={studio.token}",
        f"ML_BACKEND_DATA_DIR={tmp_path / 'backend'}",
        "ML_BACKEND_PORT=9091",
    ):
        assert needed in said
