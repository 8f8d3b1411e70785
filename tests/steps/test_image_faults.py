"""What becomes of an image that cannot be fetched: for good, or for the time being; and a host that is down is spared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.demo.label_studio import free_port
from ml_backend.errors import ImageAwayError, ImageError
from ml_backend.labelstudio.circuits import FAILURES, LONGEST_S, SHORTEST_S, Circuits
from ml_backend.labelstudio.media import ImageReader
from ml_backend.labelstudio.transport import Transport
from tests.fakes import LOOPBACK
from tests.labelstudio.test_transport import Host, running
from tests.slow_hosts import HEAD, slow_host


@pytest.fixture
def host() -> Iterator[Host]:
    with running(Host()) as host:
        yield host


@pytest.fixture
def elsewhere() -> Iterator[Host]:
    with running(Host()) as host:
        yield host


@pytest.fixture
def reader(host: Host) -> ImageReader:
    return ImageReader(Transport(host.url, "t"), hosts=LOOPBACK, seconds=5, retries=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quick", "slow"),
    [
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (HEAD + b"\r\n", b"x"),  # without a length the end of the connection is the end of the image
        (HEAD, b"X-Slow: 1\r\n"),
        (b"", b"H"),
    ],
    ids=["body", "body of unknown length", "headers", "status line"],
)
def test_an_image_that_trickles_in_has_a_total_time(host: Host, quick: bytes, slow: bytes) -> None:
    reader = ImageReader(Transport(host.url, "t"), hosts=LOOPBACK, seconds=0.3, retries=2)
    began = time.monotonic()
    with slow_host(quick, slow) as trickling, pytest.raises(ImageAwayError, match=r"not complete after 0\.3 s"):
        reader.fetch(f"{trickling.url}/a.png")
    assert time.monotonic() - began < 60  # it trickles for ever


def test_the_total_time_holds_over_redirects_and_tls(host: Host, elsewhere: Host) -> None:
    reader = ImageReader(Transport(host.url, "t"), hosts=LOOPBACK, seconds=0.3, retries=2)
    with slow_host(b"", b"\x16") as trickling, pytest.raises(ImageAwayError, match="not complete"):
        reader.fetch(trickling.url.replace("http:", "https:") + "/a.png")  # the handshake never ends
    assert host.requests == elsewhere.requests == []


def test_an_image_in_time_is_read_and_its_connection_used_again(reader: ImageReader, elsewhere: Host) -> None:
    elsewhere.reply = lambda *_: (200, b"picture")
    assert [reader.fetch(f"{elsewhere.url}/{i}.png") for i in range(3)] == [b"picture"] * 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_host_that_is_overloaded_or_broken_is_a_passing_fault(
    reader: ImageReader, elsewhere: Host, status: int
) -> None:
    elsewhere.reply = lambda *_: (status, {})
    with pytest.raises(ImageAwayError, match=f"at present .status {status}"):
        reader.fetch(f"{elsewhere.url}/a.png")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_image_that_is_refused_is_so_for_good(reader: ImageReader, elsewhere: Host, status: int) -> None:
    elsewhere.reply = lambda *_: (status, {})
    with pytest.raises(ImageError) as refused:
        reader.fetch(f"{elsewhere.url}/a.png")
    assert not isinstance(refused.value, ImageAwayError)


def test_nobody_listening_is_a_passing_fault_and_an_impossible_address_is_not(reader: ImageReader) -> None:
    with pytest.raises(ImageAwayError):
        reader.fetch(f"http://127.0.0.1:{free_port()}/a.png")
    with pytest.raises(ImageError) as impossible:
        reader.fetch("http://")
    assert not isinstance(impossible.value, ImageAwayError)


def test_a_bucket_that_label_studio_cannot_reach_is_the_buckets_fault_while_label_studio_answers(
    reader: ImageReader, host: Host
) -> None:
    host.reply = lambda _method, path, _sent: (200, {"status": "UP"}) if path == "/health" else (503, {})
    with pytest.raises(ImageAwayError, match="status 503"):
        reader.fetch("s3://bucket/a.png", task_id=1)


def test_a_folder_that_is_not_mounted_is_a_passing_fault_and_a_missing_file_is_not(host: Host, tmp_path: Path) -> None:
    reader = ImageReader(Transport(host.url, "t"), document_root=tmp_path)
    with pytest.raises(ImageAwayError, match="mounted"):
        reader.fetch("/data/local-files/?d=a.png")
    (tmp_path / "b.png").write_bytes(b"picture")
    with pytest.raises(ImageError) as missing:
        reader.fetch("/data/local-files/?d=a.png")
    assert not isinstance(missing.value, ImageAwayError)


def test_a_host_that_is_down_is_asked_for_a_few_images_and_not_for_all_of_them(
    reader: ImageReader, elsewhere: Host
) -> None:
    elsewhere.reply = lambda *_: (503, {})
    faults = []
    for number in range(100):
        with pytest.raises(ImageAwayError) as fault:
            reader.fetch(f"{elsewhere.url}/{number}.png")
        faults.append(fault.value)
    assert len(elsewhere.requests) == FAILURES
    assert [fault.tried for fault in faults] == [True] * FAILURES + [False] * (100 - FAILURES)
    assert "left alone for a while" in str(faults[-1])


class Ticking:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def let_through(circuits: Circuits, times: int = 5) -> int:
    through = 0
    for _ in range(times):
        try:
            circuits.check("host")
            through += 1
        except ImageAwayError:
            pass
    return through


def test_a_host_given_up_is_tried_with_one_image_after_growing_pauses_until_it_answers() -> None:
    clock = Ticking()
    circuits = Circuits(clock)
    for _ in range(3 * FAILURES):  # those under way when it was given up are no further evidence
        circuits.failed("host", "503")
    pause = SHORTEST_S
    for _ in range(10):
        clock.now += pause - 1
        assert let_through(circuits) == 0
        clock.now += 1
        assert let_through(circuits) == 1
        circuits.failed("host", "503")
        pause = min(2 * pause, LONGEST_S)
    clock.now += pause
    assert let_through(circuits) == 1
    circuits.answered("host")
    assert let_through(circuits) == 5


def test_a_trial_that_nobody_hears_of_again_does_not_block_the_host() -> None:
    clock = Ticking()
    circuits = Circuits(clock)
    for _ in range(FAILURES):
        circuits.failed("host", "503")
    for _ in range(3):
        clock.now += LONGEST_S
        assert let_through(circuits) == 1
