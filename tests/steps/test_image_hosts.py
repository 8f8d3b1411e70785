"""Encoding beside a host of images that is down, slow or interrupted: each image is fetched once, and nothing stops."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ml_backend import encoding
from ml_backend.encoders.encoder import Encoder, Sample
from ml_backend.encoders.pipeline import TICK_S
from ml_backend.errors import TurnPausedError
from ml_backend.hosts import Hosts
from ml_backend.labelstudio.media import ImageReader
from ml_backend.records import Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.pictures import LONGEST_PAUSE
from ml_backend.store.projects import Project
from tests.encoders.test_pipeline import MeanColour
from tests.fakes import FakeClock
from tests.labelstudio.test_transport import Host, running
from tests.test_predictor import CONFIG, picture, png

pytestmark = pytest.mark.slow

IMAGES = 40


class Storage:
    """Label Studio with uploads: each image is different; `down` while its storage is away."""

    def __init__(self) -> None:
        self.down = False
        self.lasting: set[str] = set()
        self.held: dict[str, threading.Event] = {}
        self.fetched: Counter[str] = Counter()

    def reply(self, _method: str, path: str, _sent: str | None) -> tuple[int, object]:
        if path == "/health":
            return 200, {"status": "UP"}
        self.fetched[path] += 1
        if self.down:
            return 503, {}
        if path in self.lasting:
            return 404, {}
        if path in self.held:
            assert self.held[path].wait(60)
        return 200, png(picture("level", int(path.rsplit("/", 1)[1])))


class Learned(MeanColour):
    """Learned in no time, and kept in memory alone."""

    def save(self, folder: Path) -> None:
        (folder / "learned").touch()


@pytest.fixture
def learned() -> Encoder:
    return Learned()


@pytest.fixture(autouse=True)
def _learned_at_once(monkeypatch: pytest.MonkeyPatch, learned: Encoder) -> None:
    def build(_name: str, *, weights: Path | None, sample: Sample, seed: int, fit: str | None) -> Encoder:
        assert weights is None
        assert (seed, fit) == (0, None)
        assert sample(2_000)
        return learned

    monkeypatch.setattr("ml_backend.encoders.encoder.build_encoder", build)
    monkeypatch.setattr("ml_backend.hosts.ImageReader", partial(ImageReader, retries=0))


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def services(tmp_path: Path, storage: Storage) -> Iterator[Services]:
    with running(Host(reply=storage.reply)) as host:
        settings = Settings(data_dir=tmp_path, label_studio_url=host.url, label_studio_api_key="k", encoder="patches")
        opened = Services.open(settings)
        opened.ledger.clock = FakeClock(opened.ledger.clock())
        yield opened
        opened.database.close()


@pytest.fixture
def project(services: Services) -> Project:
    known = services.registry.register(services.settings.label_studio_url, 1, CONFIG, created=None)
    listing = [(Task(i, path(i), {"image": path(i)}), None) for i in range(1, IMAGES + 1)]
    services.ledger.reconcile(known, listing, full=True)
    return services.ledger.project(known.key)


def path(number: int) -> str:
    return f"/data/upload/1/{number}"


def later(services: Services) -> None:
    clock = services.ledger.clock
    assert isinstance(clock, FakeClock)
    clock.advance(LONGEST_PAUSE.total_seconds())


def quiet(_done: int, _total: int) -> None:
    """Nobody watches."""


def test_each_image_is_fetched_once_where_an_encoder_is_learned_from_it_too(
    services: Services, project: Project, storage: Storage
) -> None:
    corpus = services.corpus_builder.encode_missing(project, quiet)
    assert corpus is not None
    assert corpus.encoded.all()
    assert storage.fetched == {path(i): 1 for i in range(1, IMAGES + 1)}
    assert services.encoding.kept == {}


@pytest.mark.slow
def test_storage_that_is_down_at_the_first_turn_is_told_and_heals_by_itself(
    services: Services, project: Project, storage: Storage
) -> None:
    storage.down = True
    for _ in range(3):
        assert services.corpus_builder.encode_missing(project, quiet) is None
        project = services.ledger.project(project.key)
    told = " ".join(services.status.of(project)["problems"])
    assert "status 503" in told
    assert "by themselves" in told
    assert "import some" not in told
    assert sum(storage.fetched.values()) < 2 * IMAGES, "a host that is down is spared"
    storage.down = False
    services.hosts._readers.clear()  # another process, or some seconds later: the host is tried again
    later(services)
    corpus = services.corpus_builder.encode_missing(project, quiet)
    assert corpus is not None
    assert corpus.encoded.all()
    assert services.status.of(services.ledger.project(project.key))["problems"] == []


def test_of_a_host_that_is_down_no_image_is_even_tried_and_those_of_other_hosts_are_read(
    services: Services, project: Project, storage: Storage, monkeypatch: pytest.MonkeyPatch, learned: Encoder
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 20)
    other = "data:image/png;base64," + base64.b64encode(png(picture("upright", 7))).decode()
    images = [*(path(i) for i in range(1, 201)), other]
    tasks = [Task(i, image, {"image": image}) for i, image in enumerate(images, start=1)]
    services.ledger.reconcile(project, [(task, None) for task in tasks], full=True)
    storage.down = True
    looked: list[int] = []
    read = encoding.read_image

    def counted(project: Project, task: Task, hosts: Hosts) -> bytes:
        looked.append(task.id)
        return read(project, task, hosts)

    monkeypatch.setattr(encoding, "read_image", counted)
    found = services.encoding.encode(project, learned, tasks)
    assert list(found.hashes) == [201]
    assert len(found.errors) == 200
    assert len(found.passing) + len(found.untried) == 200
    assert 201 in looked
    assert len(looked) < 100, "most of them were not even looked at"
    assert len(services.ledger.image_errors(project)) == len(found.passing), "nothing new is known of the others"


def test_storage_that_goes_down_later_loses_no_image_for_good(
    services: Services, project: Project, storage: Storage
) -> None:
    services.corpus_builder.encode_missing(project, quiet)
    storage.down = True
    new = [Task(i, path(i), {"image": path(i)}) for i in range(100, 110)]
    services.ledger.reconcile(project, [(task, None) for task in new], full=False)
    storage.lasting = {path(109)}
    corpus = services.corpus_builder.encode_missing(project, quiet)
    assert corpus is not None
    assert int(corpus.encoded.sum()) == IMAGES
    storage.down = False
    services.hosts._readers.clear()
    later(services)
    corpus = services.corpus_builder.encode_missing(services.ledger.project(project.key), quiet)
    assert corpus is not None
    assert int(corpus.encoded.sum()) == IMAGES + 9
    later(services)
    before = storage.fetched[path(109)]
    services.corpus_builder.encode_missing(project, quiet)
    assert storage.fetched[path(109)] == before, "a missing file is not asked for again and again"
    assert services.ledger.retry_images(project) == 1
    storage.lasting = set()
    corpus = services.corpus_builder.encode_missing(project, quiet)
    assert corpus is not None
    assert int(corpus.encoded.sum()) == IMAGES + 10


def test_a_sample_of_missing_files_is_told_as_such(services: Services, project: Project, storage: Storage) -> None:
    storage.lasting = {path(i) for i in range(1, IMAGES + 1)}
    assert services.corpus_builder.encode_missing(project, quiet) is None
    assert services.corpus_builder.encode_missing(services.ledger.project(project.key), quiet) is None
    told = " ".join(services.status.of(services.ledger.project(project.key))["problems"])
    assert f"{IMAGES} images cannot be read and are left out" in told
    assert "sync retry-images" in told


@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_is_read_when_a_turn_makes_room_is_neither_read_nor_encoded_again(
    services: Services, project: Project, storage: Storage, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The turn is interrupted while it reads its sample, and again and again while it encodes."""
    stored: list[str] = []
    append = services.features.append

    def noted(encoder: str, hashes: list[str], vectors: object) -> object:
        stored.extend(hashes)
        return append(encoder, hashes, vectors)  # type: ignore[arg-type]

    monkeypatch.setattr(services.features, "append", noted)
    monkeypatch.setattr("ml_backend.encoders.pipeline._lanes", _one_lane)
    calls = 0

    def interrupt(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == after:
            raise TurnPausedError

    corpus = None
    for _ in range(50):
        try:
            corpus = services.corpus_builder.encode_missing(project, interrupt)
            break
        except TurnPausedError:
            continue
    assert corpus is not None
    assert corpus.encoded.all()
    assert len(stored) == len(set(stored)) == IMAGES
    assert storage.fetched == {path(i): 1 for i in range(1, IMAGES + 1)}


@pytest.mark.slow
def test_images_that_are_slow_to_come_are_taken_in_when_the_turn_makes_room(
    services: Services, project: Project, storage: Storage
) -> None:
    """Otherwise a host that needs longer for each than a turn may take would never get on."""
    services.corpus_builder.encode_missing(project, quiet)
    slow = path(200)
    storage.held[slow] = threading.Event()
    new = [Task(i, path(i), {"image": path(i)}) for i in (200, 201)]
    services.ledger.reconcile(project, [(task, None) for task in new], full=False)

    def interrupt(_done: int, _total: int) -> None:
        if storage.fetched[slow]:
            threading.Timer(3 * TICK_S, storage.held[slow].set).start()
            raise TurnPausedError

    with pytest.raises(TurnPausedError):
        services.corpus_builder.encode_missing(project, interrupt)
    corpus = services.corpus_builder.encode_missing(project, quiet)
    assert corpus is not None
    assert corpus.encoded.all()
    assert storage.fetched[slow] == 1


def _one_lane(_count: int, _on_gpu: bool) -> object:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)
