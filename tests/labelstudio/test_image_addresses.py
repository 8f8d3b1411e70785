"""Where images are fetched from: hostile task data against small hosts and a name service that says what it is told to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ml_backend.commands.setup_project import unlisted_hosts
from ml_backend.errors import ConfigError, ImageError
from ml_backend.host_lists import HostList
from ml_backend.labelstudio.media import ImageReader
from ml_backend.labelstudio.transport import Transport
from ml_backend.records import LabelSchema, Task
from ml_backend.settings import Settings
from tests.labelstudio.test_transport import PICTURE, Host, picture_host, running

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1", "fe80::1%1",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.88.99.1", "2002:a83f:8110::", "64:ff9b:1::7f00:1",
    "2a00::5efe:7f00:1", "2a00::200:5efe:a9fe:a9fe", "3fff::1", "5f00::1", "fd20:ce::254",
]  # fmt: skip


@pytest.fixture
def studio() -> Iterator[Host]:
    with picture_host() as host:
        yield host


@pytest.fixture
def target() -> Iterator[Host]:
    """A service in the private network that nobody outside should reach through us."""
    with picture_host() as host:
        yield host


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The name service: the addresses of each name, one after the other for each time that it is asked."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host in table:
            host = table[host].pop(0) if len(table[host]) > 1 else table[host][0]
        elif not set(host) <= set("0123456789abcdef.:x"):
            raise socket.gaierror(f"no such host: {host}")
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return table


def reader(studio: Host, *hosts: str) -> ImageReader:
    return ImageReader(Transport(studio.url, "secret"), hosts=HostList(hosts), retries=0, seconds=5)


def port_of(host: Host) -> int:
    return int(host.url.rpartition(":")[2])


def test_an_address_in_task_data_is_not_fetched_unless_its_host_is_listed(studio: Host, target: Host) -> None:
    with pytest.raises(ImageError, match=f"ML_BACKEND_IMAGE_HOSTS=127.0.0.1:{port_of(target)}"):
        reader(studio).fetch(f"{target.url}/internal")
    assert target.requests == []
    assert reader(studio, f"127.0.0.1:{port_of(target)}").fetch(f"{target.url}/internal") == PICTURE


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_to_a_private_address_is_refused_though_it_is_listed(
    studio: Host, names: dict[str, list[str]], address: str
) -> None:
    names["images.example.org"] = [address]
    for hosts in (["images.example.org"], ["*"]):
        with pytest.raises(ImageError, match=r"images\.example\.org.*private network"):
            reader(studio, *hosts).fetch("http://images.example.org/a.png")


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "[::ffff:7f00:1]", "[::1]"])
def test_no_other_way_to_write_a_private_address_leads_there(studio: Host, target: Host, host: str) -> None:
    for hosts in ([], ["*"]):
        with pytest.raises(ImageError, match="Images are not fetched from"):
            reader(studio, *hosts).fetch(f"http://{host}:{port_of(target)}/internal")
    assert target.requests == []


def test_a_listed_name_may_lead_to_a_private_address_that_is_listed_too(
    studio: Host, target: Host, names: dict[str, list[str]]
) -> None:
    names["minio"] = ["127.0.0.1"]
    minio = f"minio:{port_of(target)}"
    assert reader(studio, minio, "127.0.0.0/8").fetch(f"http://{minio}/a.png") == PICTURE
    assert target.requests == [("GET", "/a.png", None)]


def test_a_name_that_answers_differently_the_second_time_gains_nothing(
    studio: Host, target: Host, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what is connected to is the address that was checked, not what the name says by then."""
    names["rebinding.example"] = ["93.184.216.34", "127.0.0.1"]
    tried: list[Any] = []

    def connect(_self: socket.socket, place: Any) -> None:
        tried.append(place)
        raise OSError("nobody is there")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(ImageError):
        reader(studio, "*").fetch(f"http://rebinding.example:{port_of(target)}/internal")
    assert {place[0] for place in tried} == {"93.184.216.34"}


def test_one_private_address_among_public_ones_spoils_the_name(
    studio: Host, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
    with pytest.raises(ImageError, match="private network"):
        reader(studio, "*").fetch("http://mixed.example/a.png")


class Tasks:
    """A Label Studio that has tasks with these images."""

    url = "http://studio:8080"

    def __init__(self, *images: str | None) -> None:
        self.images = images

    def schema(self, *_: Any, **__: Any) -> LabelSchema:
        return LabelSchema("kind", "image", "image", ("cat", "dog"))

    def tasks(self, *_: Any, **__: Any) -> list[Task]:
        return [Task(number, image) for number, image in enumerate(self.images)]


def test_setup_project_tells_at_once_which_hosts_are_to_be_listed() -> None:
    local = ["/data/upload/1/a.png", "http://studio:8080/data/upload/1/b.png", "s3://bucket/c.png", None, "http://["]
    studio: Any = Tasks(*local, "https://cdn.example/a.png", "https://cdn.example/b.png", "http://minio:9000/c.png")
    (finding,) = unlisted_hosts(studio, Settings(image_hosts=("a.example",)), 1, [])
    assert not finding.ok
    assert "3 images would not be fetched" in finding.message
    assert "ML_BACKEND_IMAGE_HOSTS=a.example,cdn.example,minio:9000," in finding.message
    assert unlisted_hosts(studio, Settings(image_hosts=("*",)), 1, []) == []


def redirect(to: str | Callable[[str], str]) -> Callable[[str, str, str | None], tuple[int, Any]]:
    """Redirect the first path, answer any other with a picture."""
    return lambda _, path, __: (302, to if isinstance(to, str) else to(path))


def test_a_redirect_to_a_host_that_is_not_listed_is_not_followed(studio: Host, target: Host) -> None:
    told = f"not fetched from 127.0.0.1:{port_of(target)}"
    with running(Host(reply=redirect(f"{target.url}/internal"))) as outside, pytest.raises(ImageError, match=told):
        reader(studio, f"127.0.0.1:{port_of(outside)}").fetch(f"{outside.url}/a.png")
    assert target.requests == []


def test_a_redirect_of_label_studio_into_the_private_network_is_not_followed(studio: Host, target: Host) -> None:
    """A storage with such an endpoint can be made by anybody who can make a project."""
    studio.reply = redirect(f"{target.url}/bucket/a.png?X-Amz-Signature=1")
    with pytest.raises(ImageError, match="private network"):
        reader(studio).fetch("s3://bucket/a.png", task_id=1)
    assert target.requests == []


def test_a_storage_that_label_studio_leads_to_need_not_be_listed_and_gets_no_token(
    studio: Host, target: Host, names: dict[str, list[str]]
) -> None:
    names["bucket.example"] = ["127.0.0.1"]
    studio.reply = redirect(f"http://bucket.example:{port_of(target)}/a.png?X-Amz-Signature=1")
    assert reader(studio, "127.0.0.0/8").fetch("s3://bucket/a.png", task_id=1) == PICTURE
    assert target.requests == [("GET", "/a.png?X-Amz-Signature=1", None)]


def test_the_way_through_a_storage_does_not_open_it_to_task_data(
    studio: Host, target: Host, names: dict[str, list[str]]
) -> None:
    names["bucket.example"] = ["127.0.0.1"]
    studio.reply = redirect(f"http://bucket.example:{port_of(target)}/a.png")
    reading = reader(studio, "127.0.0.0/8")
    reading.fetch("s3://bucket/a.png", task_id=1)
    with pytest.raises(ImageError, match="not listed"):
        reading.fetch(f"http://bucket.example:{port_of(target)}/other.png")


@pytest.mark.parametrize("to", ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/a"])
def test_a_redirect_to_another_scheme_is_not_followed(studio: Host, to: str) -> None:
    studio.reply = redirect(to)
    with pytest.raises(ImageError, match="not an http address"):
        reader(studio).fetch("/data/upload/1/a.png")


def test_redirects_end(studio: Host) -> None:
    studio.reply = redirect(lambda path: f"{path}x")
    with pytest.raises(ImageError, match="redirected more than 5 times"):
        reader(studio).fetch("/data/upload/1/a.png")
    assert len(studio.requests) == 6


@pytest.mark.parametrize(
    "path", ["/api/projects/1/export", "/user/logout", "/data/../api/users", "/data/%2e%2e/api/users", "//data/x", "/"]
)
def test_the_token_goes_with_files_alone_not_with_any_path_that_task_data_names(studio: Host, path: str) -> None:
    reader(studio).fetch(f"{studio.url}{path}")
    reader(studio).fetch(path)
    assert {authorization for _, _, authorization in studio.requests} == {None}


def test_a_redirect_of_label_studios_own_pages_opens_no_way_out(studio: Host, target: Host) -> None:
    """Such as /user/login/?next=...: only what serves files may lead to a storage."""
    studio.reply = redirect(f"{target.url}/internal")
    with pytest.raises(ImageError, match="not listed"):
        reader(studio, "127.0.0.1:1").fetch(f"{studio.url}/user/login/?next=x")
    assert target.requests == []


@pytest.mark.parametrize(
    "trick", ["http://{ls}@{to}/x", "http://{ls}\\@{to}/x", "http://{to}#@{ls}/", "http://{to}\\.{ls}/"]
)
def test_an_address_that_reads_in_two_ways_gets_neither_token_nor_picture(
    studio: Host, target: Host, trick: str
) -> None:
    written = trick.format(ls=studio.url.removeprefix("http://"), to=target.url.removeprefix("http://"))
    with pytest.raises(ImageError):
        reader(studio).fetch(written)
    assert target.requests == []
    assert all(authorization is None for _, _, authorization in studio.requests)


@pytest.mark.parametrize(
    "broken", ["http://[", "http://[::1", "http://a:b/", "http://" + "a" * 80 + ".org/", "http://\u2100.org/", "//[", "/data/[", "http:///x"]
)  # fmt: skip
def test_an_address_that_is_none_concerns_its_image_alone(studio: Host, broken: str) -> None:
    studio.reply = lambda *_: (404, {})
    with pytest.raises(ImageError):
        reader(studio, "*").fetch(broken)


def test_credentials_of_the_operators_home_folder_are_not_sent(
    studio: Host, target: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login operator password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    reader(studio, f"127.0.0.1:{port_of(target)}").fetch(f"{target.url}/a.png")
    reader(studio).fetch("/static/a.png")
    assert [r[2] for r in target.requests + studio.requests] == [None, None]


@pytest.mark.parametrize("item", ["http://a", "a b", "*x.com", "a/b", "a:99999", "u@h", "10.0.0.0/99", "a:", "*.*.com"])
def test_a_host_that_cannot_be_one_is_told_when_the_settings_are_read(item: str) -> None:
    with pytest.raises(ConfigError, match=r"ML_BACKEND_IMAGE_HOSTS has .*; write hosts as images\.example\.org"):
        Settings.from_environ({"ML_BACKEND_IMAGE_HOSTS": f"good.example,{item}"})


@pytest.mark.parametrize(
    ("entry", "asked", "listed"),
    [
        ("images.example.org", ("https", "IMAGES.example.org.", 443), True),
        ("images.example.org", ("http", "images.example.org", 8080), False),
        ("images.example.org", ("http", "evil-images.example.org", 80), False),
        ("*.example.org", ("http", "a.b.example.org", None), True),
        ("*.example.org", ("http", "example.org", None), False),
        ("*.example.org", ("http", "badexample.org", None), False),
        ("minio:9000", ("http", "minio", 9000), True),
        ("minio:9000", ("http", "minio", None), False),
        ("10.0.0.0/8", ("http", "10.9.9.9", None), False),
        ("10.0.0.5", ("http", "10.0.0.5", None), True),
        ("10.0.0.5", ("http", "10.0.0.5", 8080), False),
        ("10.0.0.0/8", ("http", "ten.example", None), False),
        ("[fd00::1]:9000", ("http", "[fd00::1]", 9000), True),
    ],
)
def test_an_entry_of_the_list_means_what_the_settings_page_says(
    entry: str, asked: tuple[str, str, int | None], listed: bool
) -> None:
    assert HostList([entry]).lists(*asked) is listed
