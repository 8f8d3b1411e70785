"""What tests against a real Label Studio share: a backend that remembers, annotators, pictures."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.checks import MARK, Access
from ml_backend.labelstudio.client import LabelStudio


def webhook_ids(client: LabelStudio, project_id: int) -> tuple[int, int]:
    """Our webhooks of a project: for tasks, and for labels."""
    ours = {hook["headers"].get(MARK): hook["id"] for hook in client.webhooks(project_id)}
    return ours["tasks"], ours["labels"]


class FakeBackend:
    """Speaks the ML backend protocol as Label Studio calls it, and remembers every event and prediction request."""

    def __init__(self, access: Access | None = None) -> None:
        self.access = access
        self.version = "v0-r0"
        self.events: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.predicted: list[int] = []
        self.predict: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {"result": [], "score": 1.5}
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, action: str, timeout: float = 120.0) -> dict[str, Any]:
        with self._arrived:
            found = self._arrived.wait_for(lambda: any(e["action"] == action for e in self.events), timeout)
            assert found, f"no {action} among {[e['action'] for e in self.events]}"
            return next(e for e in self.events if e["action"] == action)

    def answer(self, path: str, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        if path == "/health":
            return 200, {"status": "UP"}
        if self.access and authorization != self.access.header:
            return 401, {"detail": "who are you?"}
        if path == "/setup":
            return 200, {"model_version": self.version}
        if path == "/predict":
            self.predicted += [task["id"] for task in body["tasks"]]
            return 200, {"results": [self.predict(task) | {"model_version": self.version} for task in body["tasks"]]}
        if path.partition("?")[0] == "/webhook":
            with self._arrived:
                self.events.append(body | {"address": path})
                self.authorizations.append(authorization)
                self._arrived.notify_all()
            return 200, {}
        return 404, {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = backend.answer(self.path, json.loads(raw or b"{}"), self.headers.get("Authorization"))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@contextmanager
def fake_backend(access: Access | None = None) -> Iterator[FakeBackend]:
    backend = FakeBackend(access)
    try:
        yield backend
    finally:
        backend.close()


def sign_up(server: EmbeddedLabelStudio, email: str) -> LabelStudio:
    """A further user of the organization, through the invite link, with a legacy token of their own.

    Somebody who is there already is logged in instead, so that tests may ask for the same people.
    """
    invite = requests.get(
        f"{server.url}/api/invite", headers={"Authorization": f"Token {server.token}"}, timeout=30
    ).json()
    session = requests.Session()
    for page in (invite["invite_url"], "/user/login/"):
        csrf = re.search(r'csrfmiddlewaretoken"[^>]*value="([^"]+)"', session.get(server.url + page, timeout=30).text)
        assert csrf is not None
        form = {"email": email, "password": "pass12345", "csrfmiddlewaretoken": csrf[1]}
        session.post(server.url + page, data=form, headers={"Referer": server.url}, timeout=30)
        answer = session.get(f"{server.url}/api/current-user/token", timeout=30)
        if answer.ok:
            return LabelStudio(server.url, answer.json()["token"])
    raise AssertionError(f"{email} could not be signed up: {answer.status_code} {answer.text}")


def add_members(server: EmbeddedLabelStudio, project_id: int, users: list[LabelStudio]) -> None:
    """Make users members of the project. The Community edition has this table, but no page or API that writes it."""
    with sqlite3.connect(server.data_dir / "label_studio.sqlite3", timeout=30) as database:
        for user in users:
            database.execute(
                "INSERT INTO projects_projectmember (user_id, project_id, enabled, created_at, updated_at) "
                "VALUES (?, ?, 1, datetime('now'), datetime('now'))",
                (user.whoami()["id"], project_id),
            )


def png(colour: tuple[int, int, int] = (200, 30, 30), size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_pngs(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:04}.png" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(png((index % 256, 0, 0)))
    return paths
