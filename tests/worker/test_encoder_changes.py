"""Another encoder is set in mid-project: the old one serves until all vectors of the new one are there, whatever happens meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend import cycle
from ml_backend.encoders import pipeline
from ml_backend.errors import ImageAwayError
from ml_backend.records import Task
from ml_backend.services import Services
from ml_backend.status import encoder_problem
from ml_backend.store.encoder_origins import folder_of, slug_of
from ml_backend.store.projects import Project
from ml_backend.worker.encoder_changes import AGAIN_S, EncoderChanges
from ml_backend.worker.loop import Worker
from tests.other_settings import use
from tests.steps import test_large_projects as large
from tests.steps.test_large_projects import Host, connected, services_in

IMAGES = 160
HERE = "tests.worker.test_encoder_changes"


class First:
    """Brightness of the channels, in a few numbers. seen: how many images it was given. stops: what it does to the next one."""

    dim, input_size, version = 6, 12, "1"
    seen = 0
    stops: ClassVar[Callable[[], None] | None] = None

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        if (stops := type(self).stops) is not None:
            stops()
        type(self).seen += len(images)
        pixels = np.stack([np.asarray(image, np.float32) for image in images]) / 255
        means = pixels.mean(axis=(1, 2))
        return np.tile(np.concatenate([means, 1 - means], axis=1), (1, self.dim // 6))


class Second(First):
    dim = 12


class Third(First):
    dim = 18


class Broken(First):
    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        raise RuntimeError(f"no use for {len(images)} images")


class KilledError(BaseException):
    """As if the process had ended here."""


class Pictures:
    """A picture of its own for each task, dark and light by turns; `away` ones cannot be fetched at present."""

    def __init__(self) -> None:
        self.away: set[int] = set()

    def read(self, task: Task) -> bytes:
        if task.id in self.away:
            raise ImageAwayError("The host is down.")
        return large.picture(task.id)


class Desk:
    """A project with labels and a version by `First`, and a worker whose clock is moved by looking."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.folder, self.host, self.pictures = folder, Host(IMAGES, labelled=24), Pictures()
        self.services = self.open()
        connected(self.services, self.host)
        self.restart("First")
        self.idle()

    def open(self) -> Services:
        services = services_in(self.folder)
        services.hosts._readers[large.HOST] = self.pictures  # type: ignore[assignment]
        services.hosts._clients[large.HOST] = self.host  # type: ignore[assignment]
        return services

    def restart(self, encoder: str, **settings: Any) -> None:
        """The service is started again with another encoder."""
        allowed = tuple(f"{HERE}:{name}" for name in ("First", "Second", "Third", "Broken"))
        name = f"{HERE}:{encoder}" if ":" not in encoder else encoder
        use(self.services, **{"encoder": name, "allowed_encoders": allowed, "keep_versions": 2, **settings})
        self.worker = Worker(self.services)
        self.worker.changes = EncoderChanges(self.services, self.worker._is_wanted, lambda: self.now)

    def turn(self) -> int:
        """A turn, as labels that came would start one; returns the number of the version that serves."""
        self.services.jobs.mark_due(self.project, immediately=True, reason="labels")
        assert self.worker.work()
        return self.served

    def label(self, more: int = 4) -> None:
        self.host.labelled += more
        self.services.inbox.record(self.project.key, "TASKS_CREATED", {"tasks": [{"id": 1}]})

    def idle(self) -> None:
        """Until there is nothing to do any more, or nothing gets on."""
        for _ in range(30):
            if not self.worker.work():
                self.look()

    def look(self) -> None:
        """The worker has nothing to do for a while."""
        self.now += AGAIN_S
        self.worker.changes.go_on()

    @property
    def project(self) -> Project:
        return self.services.ledger.projects()[0]

    @property
    def served(self) -> int:
        version = self.services.versions.current(self.project)
        return version.number if version else 0

    @property
    def served_by(self) -> str:
        version = self.services.versions.current(self.project)
        return str(version and version.meta.encoder.name).rpartition(":")[2]

    def told(self) -> str:
        return str(self.services.status.of(self.project)["encoder"]["in_words"])

    def kept(self) -> set[str]:
        """By name, whose vectors there are."""
        return {name.split("-")[0] for name in self.services.features.encoder_ids()}

    def built(self) -> int:
        return len(list((self.folder / "encoders").glob("*/*")))

    def vectors(self, name: str) -> int:
        (encoder_id,) = (known for known in self.services.features.encoder_ids() if known.startswith(name))
        return len(self.services.features.matrix(encoder_id))

    def guesses(self) -> int:
        """Of how many tasks the service says something."""
        asked = [{"id": i, "data": {"image": f"/{i}.png"}} for i in range(1, IMAGES + 1)]
        return sum("error" not in told for told in self.services.predictor.predict(self.project, asked))

    def assert_no_turn_failed(self) -> None:
        assert {job.state for job in self.services.jobs.history(self.project)} <= {"done", "due"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr("ml_backend.steps.push_queue.QueuePusher.serve", large.served)
    monkeypatch.setattr("ml_backend.steps.push_queue.QueuePusher.tidy", lambda *_, **__: None)
    monkeypatch.setattr("ml_backend.steps.repair_webhooks.watch", lambda *_, **__: None)
    monkeypatch.setattr(cycle, "PART", 0.0)  # a batch a turn, or the few that are under way by then
    monkeypatch.setattr(pipeline, "encode_all", partial(pipeline.encode_all, lanes=1, batch_size=16))
    for encoder in (First, Second, Third):
        monkeypatch.setattr(encoder, "seen", 0)
        monkeypatch.setattr(encoder, "stops", None)
    made = Desk(tmp_path)
    yield made
    made.services.database.close()


def test_the_old_encoder_serves_and_learns_until_all_vectors_of_the_new_one_are_there(desk: Desk) -> None:
    assert (desk.served, desk.served_by) == (1, "First")
    desk.restart("Second")
    desk.label()
    assert (desk.turn(), desk.served_by) == (2, "First"), "the labels of meanwhile are trained on"
    made = desk.vectors("Second")
    assert 0 < made < IMAGES
    told = re.search(rf"Second are being made: (\d+) of {IMAGES}; {HERE}:First serves until then", desk.told())
    assert told is not None
    assert 0 < int(told[1]) <= made
    assert desk.guesses() == IMAGES
    desk.idle()
    assert (desk.served, desk.served_by, desk.guesses()) == (3, "Second", IMAGES)
    assert desk.told() == "None"
    assert Second.seen == IMAGES, "each once"
    desk.assert_no_turn_failed()


def test_killed_anywhere_it_goes_on_from_there(desk: Desk) -> None:
    desk.restart("Second")
    desk.turn()
    before = desk.vectors("Second")

    def die() -> None:
        raise KilledError

    Second.stops = die
    with pytest.raises(KilledError):
        desk.idle()
    Second.stops = None
    desk.services.database.close()
    desk.services = desk.open()
    desk.restart("Second")
    desk.idle()
    assert desk.served_by == "Second"
    assert before > 0
    assert Second.seen == IMAGES, "none of those that were there is encoded again"


def test_changed_back_in_the_middle_the_old_one_goes_on_and_what_was_made_goes(desk: Desk) -> None:
    desk.restart("Second")
    desk.turn()
    assert desk.kept() == {"First", "Second"}
    seen = First.seen
    desk.restart("First")
    desk.idle()
    assert (desk.served, desk.served_by, First.seen) == (1, "First", seen), "nothing is made anew"
    assert (desk.kept(), desk.built()) == ({"First"}, 1)
    assert desk.told() == "None"


def test_changed_twice_only_the_last_counts(desk: Desk) -> None:
    desk.restart("Second")
    desk.turn()
    desk.restart("Third")
    desk.turn()
    assert (desk.kept(), desk.served_by) == ({"First", "Third"}, "First")
    desk.idle()
    assert desk.served_by == "Third"


def test_after_two_changes_and_back_there_are_vectors_of_what_a_version_has_alone(desk: Desk) -> None:
    for encoder in ("Second", "Third", "First"):
        desk.restart(encoder)
        desk.idle()
        assert desk.served_by == encoder
    assert desk.kept() == {"First", "Third"}, "two versions are kept"
    assert First.seen == IMAGES, "whose vectors were there when it came back"
    for _ in range(2):
        desk.label()
        desk.turn()
    assert (desk.kept(), desk.built()) == ({"First"}, 1)


def test_an_encoder_that_cannot_be_used_leaves_the_old_one_in_service_and_says_so(desk: Desk) -> None:
    for encoder, why in (
        ("Broken", "no use for"),
        ("no.such:Class", "module must be importable"),
        ("missing.onnx", "missing.onnx"),
    ):
        desk.restart(encoder)
        desk.label()
        before = desk.served
        desk.idle()
        assert (desk.served, desk.served_by, desk.guesses()) == (before + 1, "First", IMAGES)
        problem = encoder_problem(desk.project)
        assert problem is not None
        assert why in problem
        assert "First goes on" in problem
        assert problem in desk.services.status.of(desk.project)["problems"]
    desk.assert_no_turn_failed()


def test_a_turn_that_is_due_goes_first(desk: Desk) -> None:
    desk.restart("Second")
    desk.turn()
    before = desk.vectors("Second")

    def label() -> None:
        desk.services.jobs.mark_due(desk.project, immediately=True, reason="label")

    Second.stops = label
    desk.look()
    assert before < desk.vectors("Second") < IMAGES
    assert desk.worker.work()


def test_a_project_of_which_nothing_was_encoded_takes_the_new_one_at_once(desk: Desk) -> None:
    fresh = Host(IMAGES)
    services = services_in(desk.folder / "fresh")
    services.hosts._readers[large.HOST] = desk.pictures  # type: ignore[assignment]
    project = connected(services, fresh)
    services.ledger.configure(project, encoder={"choice": "before", "name": "before", "id": "before-1"})
    use(services, encoder=f"{HERE}:Second")
    assert Worker(services).work()
    (project,) = services.ledger.projects()
    assert project.state.encoder is not None
    assert project.state.encoder.name == f"{HERE}:Second"
    services.database.close()


def test_an_old_encoder_whose_class_is_gone_is_replaced_at_once_and_that_is_told(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.restart("Second", allowed_encoders=())
    desk.turn()
    assert desk.served_by == "Second"
    assert "First, which has served so far, cannot be loaded" in caplog.text
    assert "ML_BACKEND_ALLOWED_ENCODERS" in caplog.text
    desk.assert_no_turn_failed()


def test_what_another_project_uses_is_never_dropped(desk: Desk) -> None:
    other = desk.services.registry.register(large.HOST, 2, large.CONFIG, created=None)
    desk.idle()
    desk.services.ledger.configure(other, paused=datetime.now(UTC).isoformat())
    desk.restart("Second")
    desk.idle()
    for _ in range(2):
        desk.label()
        desk.turn()
    assert desk.kept() == {"First", "Second"}


def test_a_pinned_version_of_the_old_encoder_stays_and_answers_for_new_images(desk: Desk) -> None:
    desk.services.versions.pin(desk.project, 1)
    desk.restart("Second")
    desk.idle()
    assert (desk.served, desk.served_by) == (1, "First")
    encoder = desk.project.state.encoder
    assert encoder is not None
    assert encoder.name == f"{HERE}:Second"
    desk.host.size += 2
    desk.services.inbox.record(desk.project.key, "TASKS_CREATED", {"tasks": [{"id": IMAGES + 1}, {"id": IMAGES + 2}]})
    desk.turn()
    assert (desk.vectors("First"), desk.vectors("Second")) == (IMAGES + 2, IMAGES + 2)
    assert desk.services.versions.unpin(desk.project) is not None
    assert desk.served_by == "Second"


def test_images_that_cannot_be_fetched_at_present_hold_the_change_up_and_are_told(desk: Desk) -> None:
    desk.restart("Second")
    desk.pictures.away = set(range(1, 9))
    desk.idle()
    assert (desk.served_by, desk.vectors("Second")) == ("First", IMAGES - 8)
    assert "8 images cannot be fetched at present: The host is down" in str(encoder_problem(desk.project))
    desk.pictures.away.clear()
    desk.idle()
    assert desk.served_by == "Second"


def test_a_store_of_an_earlier_release_which_did_not_note_what_serves_is_changed_as_gently(desk: Desk) -> None:
    desk.services.ledger.configure(desk.project, encoder=None)
    desk.restart("Second")
    desk.label()
    assert (desk.turn(), desk.served_by) == (2, "First")
    desk.idle()
    assert desk.served_by == "Second"
    assert First.seen == IMAGES


def test_what_an_earlier_release_built_and_could_not_use_is_built_anew(desk: Desk) -> None:
    """Its timm networks had ids with a colon, by which no vectors can be kept."""
    desk.services.ledger.configure(desk.project, encoder=None)
    desk.restart("Second")
    folder = folder_of(desk.services.settings, desk.project, slug_of(desk.services.settings))
    folder.mkdir(parents=True)
    (folder / "encoder.json").write_text(
        '{"kind": "network", "name": "timm:resnet10t", "id": "timm:resnet10t-9b89bb83d383"}'
    )
    assert (desk.turn(), desk.served_by) == (1, "First")
    desk.label()
    desk.idle()
    assert desk.served_by == "Second"
    desk.assert_no_turn_failed()
