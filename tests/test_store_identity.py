"""Which store a command uses: told beforehand, made by nobody who only looks, and never a second one by mistake."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli, store_identity
from ml_backend.errors import AnotherStoreError, ConfigError
from ml_backend.settings import Settings
from ml_backend.store_identity import Store, look_for_former_folder, refuse_another


@pytest.fixture
def service() -> Iterator[Callable[[Any], str]]:
    """service(document) -> address of a service whose /health answers so."""
    servers = []

    def start(document: Any) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_service_with_the_same_store_is_fine_and_one_with_another_is_refused(
    tmp_path: Path, service: Callable[[Any], str]
) -> None:
    mine = Store.make(Settings(data_dir=tmp_path))
    refuse_another(Settings(data_dir=tmp_path, public_url=service({"status": "UP", "store": mine.id})))
    with pytest.raises(
        AnotherStoreError, match=f"another store.*{tmp_path}.*ML_BACKEND_DATA_DIR.*ML_BACKEND_DATABASE_URL"
    ):
        refuse_another(Settings(data_dir=tmp_path, public_url=service({"status": "UP", "store": "f" * 32})))


def test_a_refused_command_makes_no_store(
    tmp_path: Path, service: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k")
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", "mine")
    monkeypatch.setenv("ML_BACKEND_URL", service({"status": "UP", "store": "f" * 32}))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sync", "status"]) == 1
    assert f"{tmp_path / 'mine'} (still empty)" in capsys.readouterr().err
    assert files(tmp_path) == []


@pytest.mark.parametrize("answer", [{"status": "UP"}, {"hello": "world"}, ["UP"]])
def test_what_tells_no_store_is_no_reason_to_stop(tmp_path: Path, service: Callable[[Any], str], answer: Any) -> None:
    refuse_another(Settings(data_dir=tmp_path, public_url=service(answer), port=9))


def test_without_a_service_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_identity, "ANSWER_SECONDS", (60.0, 60.0))
    began = time.monotonic()
    refuse_another(Settings(data_dir=tmp_path, port=9))
    assert time.monotonic() - began < 30.0


def test_a_database_elsewhere_is_told_without_its_password(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    told = str(Store(None, tmp_path, Store.of(Settings(data_dir=tmp_path, database_url=url)).database))
    assert f"{tmp_path}/state.db" in told
    from ml_backend.store_identity import _without_credentials

    assert (
        _without_credentials("postgresql://me:geheim@host:5432/name?password=geheim") == "postgresql://host:5432/name"
    )


def test_a_moved_store_keeps_its_identity(tmp_path: Path) -> None:
    made = Store.make(Settings(data_dir=tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert Store.of(Settings(data_dir=tmp_path / "there")).id == made.id


def test_a_folder_of_a_former_release_is_not_passed_over_for_an_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, new = tmp_path / "ml-backend-data", Settings(data_dir=tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    assert look_for_former_folder(new, {}) is None
    (former / "versions").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"ML_BACKEND_DATA_DIR={former}"):
        look_for_former_folder(new, {})
    assert look_for_former_folder(new, {"ML_BACKEND_DATA_DIR": str(new.data_dir)}) is None
    Store.make(new)
    assert str(former) in (look_for_former_folder(new, {}) or "")
