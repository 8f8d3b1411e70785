"""Image references of every kind, with a folder and two small hosts in place of Label Studio and the rest of the world."""

from __future__ import annotations

import base64
import os
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.demo.label_studio import free_port
from ml_backend.errors import ImageError, LabelStudioUnavailableError
from ml_backend.host_lists import HostList
from ml_backend.labelstudio import inline
from ml_backend.labelstudio.media import ImageReader
from ml_backend.labelstudio.transport import Transport
from ml_backend.records import Task
from tests.labelstudio.test_transport import PICTURE, Host, picture_host


@pytest.fixture
def host() -> Iterator[Host]:
    with picture_host() as host:
        yield host


@pytest.fixture
def elsewhere() -> Iterator[Host]:
    with picture_host() as host:
        yield host


@pytest.fixture
def reader(host: Host) -> ImageReader:
    return ImageReader(Transport(host.url, "secret"), max_bytes=1000, retries=0)


def test_label_studio_gets_the_token_and_nobody_else_does(host: Host, elsewhere: Host) -> None:
    reader = ImageReader(Transport(host.url, "secret"), hosts=HostList([elsewhere.url.removeprefix("http://")]))
    for reference in ("/data/upload/1/a.png", f"{host.url}/data/upload/1/a.png", f"{elsewhere.url}/b.png"):
        assert reader.fetch(reference) == PICTURE
    assert host.requests == [("GET", "/data/upload/1/a.png", "Token secret")] * 2
    assert elsewhere.requests == [("GET", "/b.png", None)]


def test_a_bucket_is_read_through_the_task(reader: ImageReader, host: Host) -> None:
    assert reader.read(Task(5, "s3://bucket/ü.png")) == PICTURE
    encoded = base64.urlsafe_b64encode("s3://bucket/ü.png".encode()).decode()
    assert host.requests[0][1] == f"/tasks/5/resolve/?fileuri={encoded}"
    with pytest.raises(ImageError, match="through a Label Studio task"):
        reader.fetch("gs://bucket/a.png")


@pytest.mark.parametrize(
    "reference", ["data:image/png;base64," + base64.b64encode(PICTURE).decode(), "data:,%89PNG%20picture"]
)
def test_an_image_inside_its_reference_is_decoded(reader: ImageReader, reference: str) -> None:
    assert reader.fetch(reference) == PICTURE


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("data:image/png;base64,@@@", "damaged"),
        ("data:image/png", "no comma"),
        ("data:," + "x" * 4000, "larger than"),
        ("cat.png", "not an image address"),
        ("file:///etc/passwd", "not an image address"),
        ("ftp://host/cat.png", "not an image address"),
        ("", "not an image address"),
    ],
)
def test_a_reference_that_cannot_be_read_is_refused_with_its_fix(
    reader: ImageReader, reference: str, told: str
) -> None:
    with pytest.raises(ImageError, match=told):
        reader.fetch(reference)


def test_an_image_in_percents_takes_no_more_memory_than_its_address(host: Host) -> None:
    reader = ImageReader(Transport(host.url, "secret"))
    for reference, content in (
        ("data:," + "%41" * 300_000, b"A" * 300_000),
        ("data:;base64," + "%41" * 4 * 80_000, None),
    ):
        tracemalloc.start()
        try:
            found = reader.fetch(reference)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == content if content else len(found) == 3 * 80_000
        assert peak < 3 * len(reference)


def test_no_character_in_percents_is_cut_in_two() -> None:
    for letters in range(4):
        reference = "data:," + "x" * (inline.PIECE - 3 * 100 + letters) + "%41" * 200 + "%" * letters
        content = b"x" * (inline.PIECE - 300 + letters) + b"A" * 200 + b"%" * letters
        assert inline.inline(reference, 2**20) == content


@pytest.mark.parametrize(
    "reference",
    ["/data/upload/1/\ud800.png", "http://\udcff.example/a.png", "s3://b/\ud800", "\ud800", "/data/local-files/?d=\udc80", "data:;base64,\ud800A==", "data:\ud800"],
)  # fmt: skip
def test_half_a_character_in_a_reference_concerns_its_image_alone(host: Host, tmp_path: Path, reference: str) -> None:
    reader = ImageReader(Transport(host.url, "t"), hosts=HostList(["*"]), document_root=tmp_path, media_root=tmp_path)
    with pytest.raises(ImageError) as told:
        reader.fetch(reference, task_id=1)
    assert str(told.value).encode()
    assert host.requests == []


def test_a_task_without_an_image_is_told_by_number(reader: ImageReader) -> None:
    with pytest.raises(ImageError, match="Task 12 has no image"):
        reader.read(Task(12, None))


def test_a_body_larger_than_allowed_is_not_taken_in(reader: ImageReader, host: Host) -> None:
    host.reply = lambda *_: (200, b"x" * 1001)
    with pytest.raises(ImageError, match="larger than"):
        reader.fetch("/data/upload/1/a.png")


@pytest.mark.parametrize(
    ("status", "told"), [(404, "does not exist"), (403, "is denied"), (500, "status 500"), (410, "status 410")]
)
def test_an_image_that_is_not_served_is_an_error_of_that_image(
    reader: ImageReader, host: Host, status: int, told: str
) -> None:
    host.reply = lambda *_: (status, {})
    with pytest.raises(ImageError, match=told):
        reader.fetch("/data/upload/1/a.png")


def test_label_studio_away_is_no_fault_of_the_image(reader: ImageReader, host: Host) -> None:
    host.reply = lambda *_: (503, {})
    with pytest.raises(LabelStudioUnavailableError):
        reader.fetch("/data/upload/1/a.png")
    nobody = free_port()
    hosts = HostList([f"127.0.0.1:{nobody}"])
    away = ImageReader(Transport(f"http://127.0.0.1:{free_port()}", "t"), hosts=hosts, retries=0)
    with pytest.raises(LabelStudioUnavailableError):
        away.fetch("/data/upload/1/a.png")
    with pytest.raises(ImageError, match="can reach it"):
        away.fetch(f"http://127.0.0.1:{nobody}/a.png")


def test_files_in_sight_are_read_from_disk(host: Host, tmp_path: Path) -> None:
    (tmp_path / "media/upload/1").mkdir(parents=True)
    (tmp_path / "media/upload/1/a b.png").write_bytes(b"upload")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/ü+1.png").write_bytes(b"local")
    reader = ImageReader(
        Transport(host.url, "t"), document_root=tmp_path / "files", media_root=tmp_path / "media", max_bytes=5000
    )
    assert reader.fetch("/data/upload/1/a%20b.png") == b"upload"
    assert reader.fetch("/data/local-files/?d=%C3%BC%2B1.png") == b"local"
    assert reader.fetch("/data/local-files/?d=/%C3%BC%2B1.png") == b"local"
    assert host.requests == []
    (tmp_path / "files/big.png").write_bytes(bytes(5001))
    for reference, told in (
        ("big.png", "larger than"),
        ("none.png", "No such file"),
        (".", "Is a directory"),
        ("a%00b", "embedded null"),
    ):
        with pytest.raises(ImageError, match=told):
            reader.fetch(f"/data/local-files/?d={reference}")


@pytest.mark.timeout(120)
def test_what_is_no_file_below_the_media_root_is_not_waited_for(host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    reader = ImageReader(Transport(host.url, "t"), document_root=tmp_path)
    for name, told in (("pipe.png", "is not a file"), ("socket.png", "cannot be read"), ("zero.png", "is outside")):
        with pytest.raises(ImageError, match=told):
            reader.fetch(f"/data/local-files/?d={name}")


@pytest.mark.parametrize(
    "way",
    [
        "/data/local-files/?d=../secret.png",
        "/data/local-files/?d=%2e%2e/secret.png",
        "/data/local-files/?d=link.png",
        "/data/upload/../../secret.png",
        "/data/upload/%2e%2e/%2e%2e/secret.png",
    ],
)
def test_no_path_leads_out_of_the_folders_given(host: Host, tmp_path: Path, way: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    for name in ("files", "media"):
        (tmp_path / name).mkdir()
    (tmp_path / "files/link.png").symlink_to(tmp_path / "secret.png")
    reader = ImageReader(Transport(host.url, "t"), document_root=tmp_path / "files", media_root=tmp_path / "media")
    with pytest.raises(ImageError, match="is outside"):
        reader.fetch(way)


def test_label_studio_below_a_path_is_asked_below_it(host: Host) -> None:
    reader = ImageReader(Transport(f"{host.url}/ls", "t"))
    for reference in ("/data/upload/1/a.png", "/ls/data/upload/1/a.png", f"{host.url}/ls/data/upload/1/a.png"):
        assert reader.fetch(reference) == PICTURE
    assert [path for _, path, _ in host.requests] == ["/ls/data/upload/1/a.png"] * 3
