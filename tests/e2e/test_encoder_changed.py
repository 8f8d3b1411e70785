"""Another encoder is set in mid-project, twice, and the first one again: nobody who labels notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.jobs import Jobs
from ml_backend.store.version import Version, version_number
from ml_backend.worker.loop import Worker
from tests.e2e.gated_encoder import GATE
from tests.e2e.stack import Stack, inline, wait_until

IMAGES, MORE = 60, 4
GATED = "tests.e2e.gated_encoder:Gated"


class Afternoon:
    """One project, and a service that is started again with other settings."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @contextmanager
    def served_with(self, encoder: str) -> Iterator[None]:
        """The worker of a service that was started with this setting, until it is stopped."""
        changes = {"encoder": encoder, "allowed_encoders": (GATED,)}
        services = Services.open(Settings(**dict(self.stack.settings) | changes))
        worker = Worker(services)
        thread = Thread(target=worker.run)
        thread.start()
        try:
            yield
            self.wait_until(lambda: self.jobs.status(self.stack.project).running is None, "end of the turn")
        finally:
            worker.stopping.set()
            thread.join()
            services.database.close()
        self.assert_served()

    @property
    def jobs(self) -> Jobs:
        return self.stack.services.jobs

    def label(self) -> Version:
        """Until another version was trained on it, whether it serves or not; returns that one."""
        before = self.newest()
        for _ in range(MORE):
            self.assert_served()
            self.stack.label_next()
        self.jobs.mark_due(self.stack.project, immediately=True, reason="labels")
        self.wait_until(lambda: self.newest() > before, "version of these labels")
        return self.stack.services.versions.version(self.stack.project, self.newest())

    def newest(self) -> int:
        version = self.stack.services.versions.newest(self.stack.project)
        return version.number if version else 0

    def wait_until(self, done: Callable[[], bool], what: str) -> None:
        """Whoever asks for a task meanwhile is given one, with what a version says of it."""

        def look() -> bool:
            self.assert_served()
            return done()

        wait_until(look, what)

    def assert_served(self) -> None:
        task = next_task(self.stack.client, self.stack.project_id)
        assert task is not None
        assert task["predictions"], "no version was asked about it"
        assert version_number(task["predictions"][0]["model_version"].split("-")[0]) >= 1

    def problems(self) -> str:
        return " ".join(self.stack.services.status.of(self.stack.project)["problems"])

    def serving(self) -> str:
        state = self.stack.project.state
        assert state.encoder is not None
        return state.encoder.name


def test_an_encoder_changed_twice_and_back_fails_no_turn_leaves_nobody_unserved_and_no_vectors_behind(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    gate.write_text("16", encoding="ascii")
    monkeypatch.setenv(GATE, str(gate))
    with inline(label_studio, client, tmp_path, tasks=IMAGES, encoder="patches") as stack:
        day = Afternoon(stack)
        stack.turn()
        for _ in range(12):
            stack.label_next()
        stack.turn()

        with day.served_with(GATED):
            assert day.label().meta.encoder.name == "patches", "trained on meanwhile, by the old one"
            day.wait_until(lambda: "the gate is closed" in day.problems(), "why the new one does not serve")
        with day.served_with("resnet18@none"):
            day.wait_until(lambda: day.serving().startswith("resnet18"), "vectors of the second")
            assert day.label().meta.encoder.name == day.serving()
        with day.served_with("patches"):
            day.wait_until(lambda: day.serving() == "patches", "return of the first")
            assert day.label().meta.encoder.name == "patches"

        assert {job.state for job in stack.services.jobs.history(stack.project)} <= {"done", "due"}
        of_versions = {version.meta.encoder.id for version in stack.services.versions.list(stack.project)}
        assert stack.services.features.encoder_ids() <= of_versions, "nothing is left of the one that never served"
        folders = (tmp_path / "backend" / "encoders").glob("*/*")
        assert len(list(folders)) == 2, "of the two that versions have"
