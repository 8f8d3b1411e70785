"""The page for accepting the rest over HTTP: a project with a model, and a Label Studio in memory that takes what is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ml_backend.acceptance import auditing, writing
from ml_backend.labelstudio import bulk_annotations
from ml_backend.labelstudio.bulk_annotations import Written
from ml_backend.labelstudio.withdrawing import Withdrawn
from ml_backend.web.persons import TOKEN_HEADER
from tests.acceptance.audited import accept, take_back
from tests.bench import Bench, without_label_studio
from tests.web.fake_grid import ANNA, Grid, grid_of

PATIENCE_S = 120.0


@dataclass
class Desk:
    """gate: what is written waits for it, after `reached` is set. trouble: raised while it is written, once half of it is."""

    grid: Grid
    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    trouble: list[Exception] = field(default_factory=list)

    @property
    def bench(self) -> Bench:
        return self.grid.bench

    def get(self, what: str = "", token: str | None = ANNA) -> Any:
        headers = {TOKEN_HEADER: token} if token else {}
        return self.grid.http.get(f"/projects/{self.bench.project.id}/accept{what}", headers=headers)

    def post(self, what: str, body: Any = None, token: str | None = ANNA) -> Any:
        headers = {TOKEN_HEADER: token} if token else {}
        return self.grid.http.post(f"/projects/{self.bench.project.id}/accept/{what}", json=body or {}, headers=headers)

    def state(self, token: str = ANNA) -> str:
        answer = self.get("/state", token)
        assert answer.status_code == 200, answer.text
        return str(answer.text)

    def would(self, act: str, **more: Any) -> str:
        answer = self.post("would", {"act": act, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["says"])

    def begin(self, act: str, **more: Any) -> None:
        answer = self.post("acts", {"act": act, **more})
        assert answer.status_code == 200, answer.text

    def do(self, act: str, **more: Any) -> str:
        """Ask for it, and wait until it is over; returns what came of it."""
        self.begin(act, **more)
        return self.ended()

    def ended(self) -> str:
        self.until(lambda: self.asked["process"] == "" and 'id="at-work"' not in self.state())
        return str(self.asked["said"])

    def until(self, so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not so():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.02)

    @property
    def asked(self) -> dict[str, Any]:
        """The last act, as it is kept."""
        act = self.bench.project.state.act
        assert act is not None
        return act.model_dump()

    def write(
        self,
        _project: Any,
        certificate: str,
        labels: Mapping[int, str],
        _client: Any,
        _jobs: Any,
        advance: Any,
        tidied: Any,
        *,
        until: Any,
    ) -> Written:
        """In place of Label Studio; half of it, if there is trouble."""
        advance(len(labels) // 2)
        self.reached.set()
        assert self.gate.wait(PATIENCE_S)
        done = list(labels)[: len(labels) // 2] if self.trouble else list(labels)
        accept(self.bench, {task: labels[task] for task in done}, certificate)
        if self.trouble:
            raise self.trouble.pop()
        tidied(1)
        return Written(written=done)

    def undo(self, _project: Any, certificate: str, *_: Any, task_ids: Any = None) -> Withdrawn:
        mine = [task for task, name in self.bench.accepted.items() if name == certificate]
        take_back(self.bench, *mine)
        return Withdrawn(withdrawn=mine)


@contextmanager
def desk_of(bench: Bench) -> Iterator[Desk]:
    """The page of a bench, over HTTP."""
    with pytest.MonkeyPatch.context() as patch, without_label_studio(bench):
        desk = Desk(grid_of(bench, patch))
        desk.gate.set()
        patch.setattr(auditing, "drawn_seed", lambda: 1)
        patch.setattr(bulk_annotations, "settle", lambda *_, **__: None)
        patch.setattr(writing, "write", desk.write)
        patch.setattr(writing, "undo", desk.undo)
        yield desk
        desk.gate.set()
