"""What happens in projects, told to pages that are open: names of events, never what is in them.

One watcher a project looks at the store about once a second, as long as somebody listens. No thread is held for who does.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

from anyio import CapacityLimiter, to_thread

from ml_backend.errors import BackendError, TooManyError
from ml_backend.services import Services
from ml_backend.store.projects import Project

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the store."""
CALM_S = {"labels": 5.0}
"""Between two events of a kind at least. Each answer is one: of many people at work it would have every page ask for most of itself all the time."""
BREATH_S = 15.0
"""Something is written at least this often, so that a reader that is gone is noticed."""
LONGEST_S = 600.0
"""A reader comes again after this, and is asked again who it is."""
MOST = 400
"""Readers at a time, of all projects together."""
Seen = Mapping[str, object]


class Live:
    """The readers and watchers of this process; used from its event loop alone."""

    def __init__(
        self,
        services: Services,
        look_s: float = LOOK_S,
        breath_s: float = BREATH_S,
        calm_s: Mapping[str, float] = MappingProxyType(CALM_S),
    ) -> None:
        self._services, self._look_s, self._breath_s, self._calm_s = services, look_s, breath_s, calm_s
        self._readers: dict[int, set[asyncio.Queue[str]]] = {}
        self.watched: dict[int, asyncio.Task[None]] = {}
        self._looking = CapacityLimiter(2)

    @property
    def readers(self) -> int:
        return sum(map(len, self._readers.values()))

    def stream(self, project: Project) -> AsyncIterator[bytes]:
        """Server-sent events until the reader goes away. Raises TooManyError where there are too many."""
        if self.readers >= MOST:
            raise TooManyError("Too many pages are open at a time: close one, or look again in a while.")
        return self._stream(project)

    async def _stream(self, project: Project) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=64)
        mine = self._readers.setdefault(project.id, set())
        mine.add(queue)
        if project.id not in self.watched:
            self.watched[project.id] = asyncio.create_task(self._watch(project))
        until = asyncio.get_running_loop().time() + LONGEST_S
        try:
            yield b"retry: 2000\n\n"
            while asyncio.get_running_loop().time() < until:
                try:
                    async with asyncio.timeout(self._breath_s):
                        name = await queue.get()
                    yield f"event: {name}\ndata:\n\n".encode()
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            mine.discard(queue)

    async def _watch(self, project: Project) -> None:
        """Look as long as there are readers."""
        try:
            before: Seen | None = None
            told: dict[str, float] = {}
            while self._readers.get(project.id):
                try:
                    seen: Seen = await to_thread.run_sync(self._see, project, limiter=self._looking)
                except BackendError:  # the store is away: look again
                    seen = before or {}
                except Exception:  # whoever listens is told of what comes after it
                    logger.exception("it cannot be seen what happens in %s", project.key)
                    seen = before or {}
                    await asyncio.sleep(self._breath_s)
                if before is not None:
                    self._tell(project, new := self._new(before, seen, told))
                    seen = {name: value if name in new else before.get(name) for name, value in seen.items()}
                before = seen or before
                await asyncio.sleep(self._look_s)
        finally:
            self._readers.pop(project.id, None)
            self.watched.pop(project.id, None)

    def _new(self, before: Seen, seen: Seen, told: dict[str, float]) -> list[str]:
        """The names of what is to be told now; what has its calm is seen again later. told: when each was last, changed here."""
        now = asyncio.get_running_loop().time()
        changed = [name for name, value in seen.items() if before.get(name) != value]
        new = [name for name in changed if now - told.get(name, -math.inf) >= self._calm_s.get(name, 0.0)]
        told.update(dict.fromkeys(new, now))
        return new

    def _tell(self, project: Project, names: list[str]) -> None:
        for queue in self._readers.get(project.id, ()):
            for name in names:
                if not queue.full():  # who takes nothing misses nothing but a hint
                    queue.put_nowait(name)

    def _see(self, project: Project) -> dict[str, object]:
        """What tells that something happened: a few rows, found by index, however large the project is."""
        services = self._services
        now = next((each for each in services.ledger.projects() if each.id == project.id), None)
        jobs = services.jobs.status(project)
        running, due, last = jobs.running, jobs.due, jobs.last
        round_ = services.ledger.last_round(project)
        version = services.versions.current(project)
        acts = services.acts.list(project, limit=1)
        state: dict[str, Any] = now.state.as_json() if now else {}
        return {
            "turn": (
                running and (running.id, running.progress, running.message, running.cancel_requested),
                due and (due.id, due.due_at, due.labels, due.error),
                last and (last.id, last.state),
            ),
            "labels": (now and now.reconciled_at, due and due.labels, services.known_counts.of(project)),
            "served": (
                version and (version.number, version.state),
                services.versions.pinned(project),
                round_ and (round_.number, round_.state, round_.error),
                last and last.id,
                services.acceptances.is_blind(project),
            ),
            "settings": (state, now and (now.title, now.label_config)),
            "acts": acts and acts[0].id,
        }
