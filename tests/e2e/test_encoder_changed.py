"""Another encoder is set in mid-project, twice, and the first one again: nobody who labels notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.hosts import host_slug
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.settings import Settings
from ml_backend.store.model_versions import Version, version_number
from tests.e2e.conftest import ROOT
from tests.e2e.gated_encoder import GATE
from tests.e2e.stack import Stack, environment_of, inline, of_service, service, wait_until

IMAGES, MORE = 60, 4
GATED = "tests.e2e.gated_encoder:Gated"


class Afternoon:
    """One project, and a service that is started again with other settings."""

    def __init__(self, stack: Stack, environment: dict[str, str]) -> None:
        self.stack, self.environment = stack, environment
        self.versions: list[Version] = []

    @contextmanager
    def served_with(self, encoder: str) -> Iterator[None]:
        told = self.environment | {"ML_BACKEND_ENCODER": encoder}
        settings = Settings.from_environ(told)
        with service(told, settings):
            client, number = self.stack.client, self.stack.project_id
            connect(client, number, f"{settings.url}/hosts/{host_slug(client.url)}")
            yield
            self.wait_until(
                lambda: self.stack.services.jobs.status(self.stack.project).running is None, "end of the turn"
            )
        self.assert_served()

    def label(self) -> Version:
        """Until another version was trained on it, whether it serves or not; returns that one."""
        before = self.newest()
        for _ in range(MORE):
            self.assert_served()
            self.stack.label_next()
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

    def serving(self) -> str:
        state = self.stack.project.state
        assert state.encoder is not None
        return state.encoder.name


def test_an_encoder_changed_twice_and_back_fails_no_turn_leaves_nobody_unserved_and_no_vectors_behind(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.write_text("16", encoding="ascii")
    with inline(label_studio, client, tmp_path, tasks=IMAGES, encoder="patches") as stack:
        more = {"ML_BACKEND_TRAIN_AFTER_LABELS": str(MORE), "ML_BACKEND_ALLOWED_ENCODERS": GATED, GATE: str(gate)}
        environment = environment_of(label_studio, tmp_path / "backend", PYTHONPATH=str(ROOT), **of_service(), **more)
        day = Afternoon(stack, environment)
        stack.turn()
        for _ in range(12):
            stack.label_next()
        stack.turn()

        with day.served_with(GATED):
            assert day.label().meta.encoder.name == "patches", "trained on meanwhile, by the old one"
            problem = " ".join(stack.services.status.of(stack.project)["problems"])
            assert "the gate is closed" in problem
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
