"""Predictions of a trained version, without a Label Studio: images come as data: addresses."""

import base64
import io
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ml_backend.encoders.encoder import Encoder
from ml_backend.encoders.patches import fit_patches
from ml_backend.images.decoding import content_hash
from ml_backend.labelstudio.queue import LIVE
from ml_backend.learning.head import Head
from ml_backend.learning.training import train_head
from ml_backend.predictor import LoadedModel
from ml_backend.records import Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.split import place
from ml_backend.store.projects import Project
from ml_backend.web.app import create_app
from tests.labelstudio.test_transport import Host, running
from tests.other_settings import use

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="upright"/><Choice value="level"/></Choices></View>"""


def picture(kind: str, seed: int = 0) -> Image.Image:
    """Noisy stripes, upright or level."""
    noise = np.random.default_rng(seed).integers(-30, 30, (24, 24))
    stripes = np.where(np.arange(24) // 3 % 2, 200, 60) + noise
    return Image.fromarray((stripes if kind == "upright" else stripes.T).clip(0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def hundred_megapixels() -> bytes:
    """A PNG that says it is 10,000 x 10,000 pixels; its data would decode to nothing much."""
    header = b"\x89PNG\r\n\x1a\n"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    size = (10_000).to_bytes(4)
    rows = zlib.compress(bytes(10_001) * 100)
    return header + chunk(b"IHDR", size + size + b"\x08\x00\x00\x00\x00") + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def trained() -> tuple[Encoder, Head]:
    images = [picture(kind, i) for kind in ("upright", "level") for i in range(12)]
    encoder = fit_patches(images, seed=0)
    return encoder, train_head(encoder.encode(images), np.repeat([0, 1], 12), ("upright", "level"), seed=0).head


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    settings = Settings(data_dir=tmp_path, label_studio_api_key="k", prelabels="always", holdout_share=0.0)
    opened = Services.open(settings)
    yield opened
    opened.database.close()


@pytest.fixture
def project(services: Services, trained: tuple[Encoder, Head]) -> Project:
    """A project with version v1, which tells upright stripes from level ones."""
    return with_version(services, "http://localhost:8080", trained)


def with_version(services: Services, host: str, trained: tuple[Encoder, Head]) -> Project:
    known = services.registry.register(host, 3, CONFIG, created=None)

    def write(folder: Path) -> None:
        for part in trained:
            part.save(folder)

    services.versions.publish(known, 1, write)
    services.versions.promote(known, 1)
    return known


@pytest.fixture
def client(services: Services, project: Project) -> TestClient:
    return TestClient(create_app(services), "http://localhost", raise_server_exceptions=False)


@pytest.fixture
def studio(services: Services) -> Iterator[Host]:
    """A Label Studio with task 7 of project 3, which shows one of its local files."""
    task = {"id": 7, "project": 3, "data": {"image": "/data/local-files/?d=shown.png"}}

    def reply(_method: str, path: str, _authorization: str | None) -> tuple[int, Any]:
        if path.startswith("/api/tasks/?") and "project=3" in path:
            return 200, {"tasks": [task], "total": 1}
        return 200, png(picture("upright", 3))

    with running(Host(reply=reply)) as host:
        use(services, label_studio_url=host.url)
        yield host


def predict(client: TestClient, *images: str | None) -> list[dict[str, Any]]:
    tasks = [{"id": i, "data": {} if image is None else {"image": image}} for i, image in enumerate(images)]
    response = client.post("/predict", json={"tasks": tasks, "project": "3"})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == len(tasks)
    return list(results)


def choice(answer: dict[str, Any]) -> str:
    return str(answer["result"][0]["value"]["choices"][0])


def test_each_image_is_predicted_and_scored_after_any_batch(client: TestClient) -> None:
    upright, level = predict(client, address(png(picture("upright", 99))), address(png(picture("level", 98))))
    assert (choice(upright), choice(level)) == ("upright", "level")
    for answer in (upright, level):
        confidence = answer["result"][0]["score"]
        assert 0.5 <= confidence <= 1
        assert answer["score"] == pytest.approx(confidence), "what Label Studio shows beside it is the confidence"


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (address(b"no picture at all"), "not an image"),
        (address(png(picture("upright"))[:300]), "truncated or damaged"),
        (address(hundred_megapixels()), "more than the limit"),
        (None, "put its address into the task data as `image`"),
        ("", "put its address into the task data as `image`"),
    ],
    ids=["unreadable", "truncated", "100 megapixels", "no image", "empty"],
)
def test_one_bad_image_says_so_and_the_others_are_served(client: TestClient, bad: str | None, part: str) -> None:
    before, wrong, after = predict(client, address(png(picture("upright", 5))), bad, address(png(picture("level", 6))))
    assert (choice(before), choice(after)) == ("upright", "level")
    assert wrong["result"] == []
    assert part in wrong["error"]
    assert wrong["score"] == LIVE, "nobody is sure of it, and the batch is served first all the same"


def by_place(services: Services, project: Project) -> list[str]:
    """Upright images of tasks 0, 1 and 2, of which the split holds out the first."""
    files = sorted((png(picture("upright", i)) for i in range(3)), key=lambda file: place(content_hash(file), 0))
    images = [address(file) for file in files]
    services.ledger.reconcile(project, [(Task(i, image), []) for i, image in enumerate(images)], full=True)
    services.ledger.configure(project, reserved_share=place(content_hash(files[1]), 0))
    return images


def test_a_task_of_the_batch_keeps_its_place_and_a_held_out_one_shows_no_opinion(
    client: TestClient, services: Services, project: Project
) -> None:
    images = by_place(services, project)
    queries = [
        Query(2, 0, "strategy", 0.9, "close"),
        Query(0, 1, "holdout", 0.0, "held out"),
    ]
    round_ = services.ledger.open_round(project, version=1, strategy="margin", seed=0, queries=queries)
    services.ledger.mark_pushed(round_)
    answers = predict(client, *images)
    assert {answer["model_version"] for answer in answers} == {"v1-r1"}
    assert answers[2]["score"] < answers[0]["score"] < LIVE
    assert answers[0]["result"] == []
    assert LIVE <= answers[1]["score"] <= 1


def test_whether_an_image_shows_an_opinion_is_for_the_split_to_say_and_not_for_the_round(
    client: TestClient, services: Services, project: Project
) -> None:
    """Nor for the ledger alone, which may not have read it yet: identical images are held out together."""
    images = by_place(services, project)
    by_hand = [Query(task, task, "strategy", 0.0, "asked for by hand") for task in range(2)]
    round_ = services.ledger.open_round(project, version=1, strategy="manual", seed=0, queries=by_hand)
    services.ledger.mark_pushed(round_)
    reserved, other, last, twin = predict(client, *images, images[0])
    assert (reserved["result"], twin["result"]) == ([], [])
    assert (choice(other), choice(last)) == ("upright", "upright")


@pytest.mark.parametrize(
    ("policy", "confident_from", "overlap", "ticked"),
    [
        ("always", None, 1, True),
        ("confident", 0.5, 1, True),
        ("confident", 1.1, 1, False),
        ("confident", None, 1, False),
        ("never", 0.5, 1, False),
        ("always", 0.5, 2, False),
    ],
)
def test_a_guess_is_ticked_by_policy_and_never_where_a_task_has_several_annotators(
    services: Services, project: Project, policy: str, confident_from: float | None, overlap: int, ticked: bool
) -> None:
    use(services, prelabels=policy)
    project = services.ledger.configure(project, overlap=overlap)
    loaded = services.predictor.current(project)
    assert loaded is not None
    known = replace(loaded, confident_from=confident_from)
    services.predictor._models[project.id] = known, project.schema
    (answer,) = services.predictor.predict(project, [{"id": 1, "data": {"image": address(png(picture("upright", 5)))}}])
    assert bool(answer["result"]) == ticked
    assert answer["score"] >= 0.5, "the score says how sure it is, ticked or not"


def test_a_new_version_is_served_as_soon_as_it_is_promoted(
    client: TestClient, services: Services, project: Project
) -> None:
    image = address(png(picture("upright", 5)))
    assert choice(predict(client, image)[0]) == "upright"
    model = services.predictor.load(project, 1)
    turned = type(model.head)(model.head.classes, model.head.weight[::-1].copy(), model.head.bias[::-1].copy())

    def write(folder: Path) -> None:
        turned.save(folder)
        model.encoder.save(folder)

    services.versions.publish(project, 2, write)
    assert choice(predict(client, image)[0]) == "upright"
    services.versions.promote(project, 2)
    assert choice(predict(client, image)[0]) == "level"


def kept(services: Services, project: Project, model: LoadedModel) -> tuple[Any, ...]:
    """All that is known of the project's images."""
    tasks = list(services.ledger.tasks(project))
    known = services.ledger.content_hashes(project, tasks)
    return known, services.ledger.image_errors(project), len(services.features.matrix(model.encoder.id))


def test_all_tasks_of_a_request_are_answered_by_one_version_that_is_looked_up_once(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, current = [], services.versions.current

    def spy(of: Project) -> Any:
        asked.append(of)
        return current(of)

    monkeypatch.setattr(services.versions, "current", spy)
    tasks = [{"id": number, "data": {"image": address(png(picture("level", number)))}} for number in range(1, 9)]
    assert len({answer["model_version"] for answer in services.predictor.predict(project, tasks)}) == 1
    assert len(asked) == 1


def test_predict_notes_nothing_on_the_callers_word(client: TestClient, services: Services, project: Project) -> None:
    """Neither another picture's vector for a labelled task, nor that a picture is unreadable, nor a vector at all."""
    images = {i: address(png(picture("upright", i))) for i in range(2)}
    services.ledger.reconcile(project, [(Task(i, image), []) for i, image in images.items()], full=True)
    model = services.predictor.current(project)
    assert model is not None
    services.encoding.encode(project, model.encoder, list(services.ledger.tasks(project)))
    before = kept(services, project, model)
    other, broken = predict(client, address(png(picture("level", 9))), address(b"no picture at all"))
    assert choice(other) == "level", "what was sent is answered"
    assert "not an image" in broken["error"]
    assert kept(services, project, model) == before
    assert [choice(answer) for answer in predict(client, *images.values())] == ["upright", "upright"]


def test_tasks_with_the_same_number_are_each_answered_for_their_own_picture(client: TestClient) -> None:
    tasks = [{"id": 5, "data": {"image": address(png(picture(kind, 4)))}} for kind in ("upright", "level", "upright")]
    results = client.post("/predict", json={"tasks": tasks, "project": "3"}).json()["results"]
    assert [choice(answer) for answer in results] == ["upright", "level", "upright"]


@pytest.mark.parametrize(
    ("number", "image"),
    [
        (7, "/data/local-files/?d=secret.png"),
        (8, "/data/local-files/?d=shown.png"),
        (7, "{studio}/data/upload/4/other-project.png"),
        (7, "s3://private/secret.png"),
    ],
)
def test_a_file_of_label_studio_is_not_read_for_a_task_that_does_not_show_it(
    services: Services, studio: Host, trained: tuple[Encoder, Head], number: int, image: str
) -> None:
    project = with_version(services, studio.url, trained)
    image = image.format(studio=studio.url)
    (answer,) = services.predictor.predict(project, [{"id": number, "data": {"image": image}}])
    assert "does not show this image" in answer["error"]
    assert answer["result"] == []
    assert [path.startswith("/api/tasks/?") for _, path, _ in studio.requests] == [True]
    assert "review=true" in studio.requests[0][1], "otherwise Label Studio would ask for a prediction in turn"


def test_a_task_that_is_too_new_for_the_store_is_read_on_label_studios_word(
    services: Services, studio: Host, trained: tuple[Encoder, Head]
) -> None:
    project = with_version(services, studio.url, trained)
    (answer,) = services.predictor.predict(project, [{"id": 7, "data": {"image": "/data/local-files/?d=shown.png"}}])
    assert choice(answer) == "upright"


def test_what_the_ledger_has_is_read_without_asking(
    services: Services, studio: Host, trained: tuple[Encoder, Head]
) -> None:
    project = with_version(services, studio.url, trained)
    services.ledger.reconcile(project, [(Task(8, "/data/upload/1/a.png"), [])], full=True)
    (answer,) = services.predictor.predict(project, [{"id": 8, "data": {"image": "/data/upload/1/a.png"}}])
    assert choice(answer) == "upright"
    assert [path for _, path, _ in studio.requests] == ["/data/upload/1/a.png"]
