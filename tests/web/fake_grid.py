"""A project with a model and a Label Studio in memory, which knows people by their tokens."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from fastapi.testclient import TestClient
from PIL import Image

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError, NotFoundError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.records import Annotation, Task
from ml_backend.store.projects import Project
from ml_backend.web import app as web_app
from ml_backend.web.app import create_app
from ml_backend.web.persons import TOKEN_HEADER, Persons
from tests.bench import Bench
from tests.imports.fake_project import NOW, FakeProject

ANNA, BEN, STRANGER = "anna's-token", "ben's-token", "stranger's-token"
USERS = {ANNA: 7, BEN: 8, STRANGER: 9}


@dataclass
class Studio(FakeProject):
    """What Label Studio has, shared by all who look at it. away: it does not answer. goes_at: nor after this is asked. rights: answer to who asks for them. users: who else there is."""

    label_config: str = ""
    created_at: str = "2026-01-01T00:00:00Z"
    away: bool = False
    goes_at: str = ""
    rights: int = 200
    asked: list[str] = field(default_factory=list)
    users: list[dict[str, Any]] = field(default_factory=list)

    def seen_by(self, token: str) -> Visit:
        self.asked.append(token)
        return Visit(self, token)


class Visit(LabelStudio):
    """The same as one person sees it, by their token."""

    def __init__(self, studio: Studio, token: str) -> None:
        self._studio, self._token = studio, token

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "close":
            return super().__getattribute__(name)
        self._studio.away = self._studio.away or name == self._studio.goes_at
        if self._studio.away:
            raise LabelStudioUnavailableError("Label Studio cannot be reached: check that it is running.")
        if name in {"whoami", "projects", "get_project", "create_annotation", "act", "listing", "transport", "send"}:
            return super().__getattribute__(name)
        return getattr(self._studio, name)

    def close(self) -> None:
        """Nothing is open."""

    def whoami(self) -> dict[str, Any]:
        if self._token not in USERS:
            raise LabelStudioError("Label Studio refused the token: it is wrong.")
        return {"id": USERS[self._token], "first_name": self._token.partition("'")[0].title(), "email": "a@b.c"}

    def projects(self) -> Iterator[dict[str, Any]]:
        self.whoami()
        made = {"created_at": self._studio.created_at}
        yield from [] if self._token == STRANGER else [{"id": number, **made} for number in range(1, 6)]

    def get_project(self, project_id: int) -> dict[str, Any]:
        if self._token == STRANGER:
            raise NotFoundError("Label Studio does not know GET /api/projects/1/.")
        return {"id": project_id, "label_config": self._studio.label_config, "created_at": self._studio.created_at}

    @property
    def transport(self) -> Any:  # type: ignore[override]
        return self

    def send(self, method: str, path: str, **body: Any) -> requests.Response:
        """Whether one may change the project; Ben may only look. Or who else there is, which Ben may not know."""
        answer = requests.Response()
        if path == "/api/users/":
            answer.status_code = 403 if self._token == BEN else 200
            answer._content = json.dumps(self._studio.users).encode()
            return answer
        assert (method, path, body) == (
            "POST",
            "/api/projects/1/validate/",
            {"json": {"label_config": self._studio.label_config}},
        )
        answer.status_code = 403 if self._token == BEN else self._studio.rights
        return answer

    def create_annotation(self, task_id: int, result: list[dict[str, Any]], *, lead_time: float = 1.0) -> Any:
        return self._mine(lambda: self._studio.create_annotation(task_id, result, lead_time=lead_time))

    def act(self, *arguments: Any, **fields: Any) -> Any:
        return self._mine(lambda: self._studio.act(*arguments, **fields))

    def listing(self, project_id: int, include: str, query: dict[str, Any], **more: Any) -> dict[str, Any]:
        wanted = query.get("selectedItems", {}).get("included", [])
        if wanted and query["filters"]["items"][0]["value"] is True:  # those that nobody has answered
            there = self._studio.existing(project_id, wanted)
            return {"tasks": [{"id": task} for task in wanted if task in there and not self._studio.given.get(task)]}
        return self._studio.listing(project_id, include, query, **more)

    def _mine(self, do: Any) -> Any:
        """Do it, and have what came of it be this person's."""
        before = {a.id for given in self._studio.given.values() for a in given}
        found = do()
        for given in self._studio.given.values():
            for place, answer in enumerate(given):
                if answer.id not in before:
                    given[place] = _by(answer, USERS[self._token])
        return found


def _by(answer: Annotation, user: int) -> Annotation:
    object.__setattr__(answer, "annotator", user)
    return answer


@dataclass
class Grid:
    """The service with a grid, as seen over HTTP."""

    bench: Bench
    studio: Studio
    http: TestClient

    @property
    def project(self) -> Project:
        return self.bench.project

    def post(self, what: str, body: Any = None, token: str | None = ANNA) -> Any:
        headers = {TOKEN_HEADER: token} if token else {}
        return self.http.post(f"/projects/{self.project.id}/grid/{what}", json=body or {}, headers=headers)

    def page(self, label: str | None = None, token: str = ANNA) -> dict[str, Any]:
        answer = self.post("page", {"label": label}, token)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def shown(self, label: str | None = None, token: str = ANNA) -> list[int]:
        return [task["id"] for task in self.page(label, token)["tasks"]]

    def thumbnail(self, task: int, token: str | None = ANNA, **headers: str) -> Any:
        named = {TOKEN_HEADER: token} if token else {}
        return self.http.get(f"/projects/{self.project.id}/tasks/{task}/thumbnail", headers=named | headers)

    def answers(self) -> dict[int, tuple[tuple[str, ...], int | None]]:
        """By task, what it says and whose it is, of those tasks that have one answer."""
        return {task: (a.labels, a.annotator) for task, (a,) in self.studio.given.items()}

    def answered_by_somebody(self, task: int) -> None:
        self.studio.given[task] = [Annotation(10_000 + task, task, ("owl",), False, False, 99, NOW, NOW)]

    def changed(self, task: int) -> None:
        """Somebody has another look at the answer."""
        self.studio.given[task] = [
            Annotation(a.id, task, ("owl",), False, False, a.annotator, NOW, NOW + timedelta(hours=1))
            for a in self.studio.given[task]
        ]


def learned(folder: Path, labelled: Iterable[int], **project: Any) -> Bench:
    """v1, which has learned from these tasks of such a project; the store is closed, so that it can be copied."""
    made = Bench(folder, **project)
    made.label(*labelled)
    made.turn()
    made.services.database.close()
    return made


def grid_of(bench: Bench, monkeypatch: Any) -> Grid:
    """The grid of a bench that has a model, over HTTP."""
    studio = Studio(rows=[Task(i, f"/{i}.png", {"image": f"/{i}.png"}) for i in bench.ids])
    studio.label_config = bench.project.label_config
    persons = Persons(lambda _host, token: studio.seen_by(token))
    monkeypatch.setattr(web_app, "Persons", lambda: persons)
    monkeypatch.setattr(bench.services.encoding, "read", lambda _project, task: picture(task.id))
    return Grid(
        bench, studio, TestClient(create_app(bench.services), "http://localhost", raise_server_exceptions=False)
    )


def sentence(answer: Any, status: int) -> str:
    """What a refusal says."""
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


def picture(task: int, size: tuple[int, int] = (400, 300)) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, (task * 37 % 256, task * 91 % 256, task * 53 % 256)).save(made, "PNG")
    return made.getvalue()


def folder_texts(folder: Path) -> bytes:
    """All that lies below a folder."""
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
