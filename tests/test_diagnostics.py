"""Each check of the doctor, broken on purpose; the connection's own are broken on a real Label Studio in e2e/."""

import http.server
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_backend import diagnostics
from ml_backend.errors import ImageError, LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio.checks import Finding
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.records import Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from tests.labelstudio.test_transport import Host, running

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, tuple[int, str]]], str]]:
    """serve({path: (status, body)}) -> address of a server that answers so, and 404 elsewhere."""
    servers = []

    def start(answers: dict[str, tuple[int, str]]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path.split("?")[0], (404, "{}"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


LABEL_STUDIO = {
    "/health": (200, '{"status": "UP"}'),
    "/api/current-user/whoami": (200, '{"id": 1, "email": "a@example.com"}'),
    "/api/version": (200, '{"release": "1.23.2"}'),
}


def opened(tmp_path: Path, host: str, key: str = "k" * 40, **settings: Any) -> Services:
    return Services.open(Settings(data_dir=tmp_path, label_studio_url=host, label_studio_api_key=key, **settings))


def results(services: Services, host: str, projects: list[Project] | None = None) -> dict[str, Finding]:
    return {result.name: result for result in services.diagnosis.examine(host, lambda: projects or [])}


def test_all_is_well_without_a_project(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "check_addresses", lambda *_: [])
    host, service = serve(LABEL_STUDIO), serve({"/health": (200, '{"status": "UP"}')})
    found = results(opened(tmp_path, host, public_url=service), host)
    assert all(result.ok for result in found.values())
    assert found["project"].state == "note"


def test_label_studio_that_does_not_answer(tmp_path: Path) -> None:
    found = results(opened(tmp_path, "http://127.0.0.1:9"), "http://127.0.0.1:9")
    assert found["Label Studio"].state == "FIX"
    assert "LABEL_STUDIO_URL" in found["Label Studio"].message
    assert "backend address" not in found


def test_a_missing_token(tmp_path: Path, serve: Any) -> None:
    host = serve(LABEL_STUDIO)
    assert "LABEL_STUDIO_API_KEY" in results(opened(tmp_path, host, key=""), host)["token"].message


def test_a_legacy_token_that_is_switched_off(tmp_path: Path, serve: Any) -> None:
    off = '{"detail": "Authentication token no longer valid: legacy token authentication has been disabled."}'
    host = serve(LABEL_STUDIO | {"/api/current-user/whoami": (401, off)})
    found = results(opened(tmp_path, host), host)["token"]
    assert found.state == "FIX"
    assert "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true" in found.message
    assert "k" * 40 not in found.message


def test_a_version_nobody_tested_is_a_note(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "check_addresses", lambda *_: [])
    host = serve(LABEL_STUDIO | {"/api/version": (200, '{"release": "2.0.0"}')})
    assert results(opened(tmp_path, host), host)["version"].state == "note"


@pytest.mark.parametrize("answers", [{}, {"/health": (200, "<html>")}, {"/health": (500, "{}")}])
def test_a_service_that_is_not_there(
    tmp_path: Path, serve: Any, answers: dict[str, tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "check_addresses", lambda *_: [])
    host = serve(LABEL_STUDIO)
    found = results(opened(tmp_path, host, public_url=serve(answers)), host)["this service"]
    assert found.state == "FIX"
    assert "ml-backend serve" in found.message


@pytest.fixture
def project(tmp_path: Path) -> tuple[Services, LabelStudio, Project]:
    services = opened(tmp_path, "http://localhost:8080")
    project = services.registry.register("http://localhost:8080", 1, CONFIG, created=1)
    services.ledger.reconcile(project, [(Task(1, "/a.png", {}), [])], full=True)
    return services, services.hosts.client("http://localhost:8080"), project


def test_an_order_that_is_not_served(
    project: tuple[Services, LabelStudio, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    services, client, known = project
    assert diagnostics._order(known, client, services.ledger).state == "note"
    queries = [Query(1, 0, "strategy", 1.0, "")]
    services.ledger.mark_pushed(services.ledger.open_round(known, version=0, strategy="auto", seed=0, queries=queries))

    def wrong(*_: Any) -> None:
        raise LabelStudioError("At place 1 Label Studio serves task 2, where 1 is due.")

    monkeypatch.setattr(diagnostics, "verify", wrong)
    found = diagnostics._order(known, client, services.ledger)
    assert found.state == "FIX"
    assert "sync run" in found.message


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("/data/upload/1/a.png", "upload"),
        ("/data/local-files/?d=a.png", "local files"),
        ("s3://b/a.png", "s3"),
        ("gs://b/a.png", "gs"),
        ("azure-blob://b/a.png", "azure-blob"),
        ("https://h/a.png", "https"),
        ("data:image/png;base64,x", "data"),
        (None, "none"),
        ("a.png", "unknown"),
    ],
)
def test_one_image_of_each_kind_of_storage_is_looked_at(
    project: tuple[Services, LabelStudio, Project], monkeypatch: pytest.MonkeyPatch, image: str | None, kind: str
) -> None:
    services, client, known = project

    class Broken:
        def read(self, task: Task) -> bytes:
            raise ImageError(f"task {task.id} cannot be read: give the storage its credentials.")

    monkeypatch.setattr(services.hosts, "images", lambda _host: Broken())
    (found,) = diagnostics._images(known, [Task(7, image), Task(8, image)], client, services.hosts)
    assert (found.name, found.state) == (f"images ({kind})", "FIX")
    assert "task 7" in found.message


def test_every_image_that_cannot_be_read_is_named_also_those_that_nobody_has_read_yet(
    project: tuple[Services, LabelStudio, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    services, _, known = project

    whole = io.BytesIO()
    Image.new("L", (4, 4)).save(whole, "PNG")

    class OneIsBroken:
        def read(self, task: Task) -> bytes:
            return b"" if task.id == 3 else whole.getvalue()

    tasks = [Task(i, f"/{i}.png", {}) for i in range(1, 5)]
    services.ledger.reconcile(known, [(task, []) for task in tasks], full=True)
    monkeypatch.setattr(services.hosts, "images", lambda _host: OneIsBroken())
    services.ledger.set_image_errors(known, {2: "The image is truncated."})
    found = diagnostics._every_image(known, tasks, services.ledger, services.hosts)
    assert (found.state, found.message.startswith("2 images cannot be read")) == ("FIX", True)
    assert "2.png (task 2): The image is truncated" in found.message
    assert "3.png (task 3): The image file is empty" in found.message
    services.ledger.set_content_hash(known, dict.fromkeys((1, 2, 3, 4), "a" * 64))
    assert diagnostics._every_image(known, tasks, services.ledger, services.hosts).state == "ok"


def test_local_files_that_only_this_service_can_read(tmp_path: Path, serve: Any) -> None:
    image = "/data/local-files/?d=a.png"
    off = LabelStudio(serve({"/data/local-files/": (403, "")}), "k")
    gone = LabelStudio(serve({}), "k")
    assert "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true" in str(diagnostics._not_served(Task(1, image), off))
    assert "no local storage" in str(diagnostics._not_served(Task(1, image), gone))
    assert diagnostics._not_served(Task(1, image), LabelStudio(serve({"/data/local-files/": (200, "")}), "k")) is None


def test_a_project_that_is_gone_and_a_training_that_stopped(
    project: tuple[Services, LabelStudio, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    services, client, known = project

    def gone(*_: Any, **__: Any) -> list[Any]:
        raise LabelStudioUnavailableError("Label Studio has no such project.")

    monkeypatch.setattr(diagnostics, "check", gone)
    assert [r.state for r in services.diagnosis._project(known, client)] == ["FIX"]
    monkeypatch.setattr(diagnostics, "check", lambda *_, **__: [])
    monkeypatch.setattr(client, "get_project", lambda number: {"id": number, "title": "Pets", "model_version": ""})
    monkeypatch.setattr(client, "tasks", lambda *_, **__: iter([]))
    for _ in range(services.jobs.retry_policy.failures):
        services.jobs.mark_due(known, immediately=True, reason="test")
        job = services.jobs.claim("w", project=known)
        assert job is not None
        services.jobs.fail(job, "the head exploded")
    found = {r.name: r for r in services.diagnosis._project(known, client)}
    assert found["training"].state == "FIX"
    assert "the head exploded" in found["training"].message


def test_memory_is_the_lesser_of_machine_and_container(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    (tmp_path / "memory.current").write_text("1000")
    (tmp_path / "memory.max").write_text("max")
    assert diagnostics.free_memory(tmp_path / "meminfo", tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("5000")
    assert diagnostics.free_memory(tmp_path / "meminfo", tmp_path) == 4000
    assert diagnostics.free_memory(tmp_path / "nothing", tmp_path / "nothing") is None


def test_too_little_memory_or_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "free_memory", lambda: 100 * 2**20)
    monkeypatch.setattr(diagnostics, "LEAST_DISK", 2**80)
    found = {result.name: result for result in diagnostics._machine(Settings(data_dir=tmp_path))}
    assert found["memory"].state == found["disk"].state == "FIX"
    assert "ML_BACKEND_DATA_DIR" in found["disk"].message


def test_a_data_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert diagnostics.disk(tmp_path / "new").state == "FIX"


def test_a_service_that_does_not_know_its_name_is_told_with_the_setting() -> None:
    told = {"error": "add the name to ML_BACKEND_NAMES."}
    with running(Host(reply=lambda *_: (421, told))) as service:
        found = diagnostics._service(service.url)
    assert (found.state, "ML_BACKEND_NAMES" in found.message) == ("FIX", True)
