"""Who gets in, and how much of what they send: hostile requests against the HTTP service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from ml_backend.commands import serve
from ml_backend.errors import ConfigError
from ml_backend.labelstudio.config import DEEPEST, LONGEST
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.web import access
from ml_backend.web.access import BODIES, Gate, require_closed
from ml_backend.web.app import create_app
from tests.other_settings import use
from tests.web.test_app import CONFIG, SETUP

Client = Callable[..., TestClient]
STATE_CHANGING = ["/projects/1/cancel", "/projects/1/pin/v1", "/projects/1/roll-back", "/projects/1/train", "/webhook"]


@pytest.fixture
def http(services: Services) -> TestClient:
    return TestClient(create_app(services), "http://localhost:9090", raise_server_exceptions=False)


INSIDE = FastAPI()
"""Everything is well, once a request is through the gate."""


@INSIDE.api_route("/{path:path}", methods=["GET", "POST"])
async def inside(request: Request) -> dict[str, int]:
    return {"length": len(await request.body())}


@pytest.fixture
def client() -> Client:
    """The gate alone, with these settings."""

    def make(**settings: Any) -> TestClient:
        return TestClient(Gate(INSIDE, Settings(**settings)), "http://localhost:9090", raise_server_exceptions=False)

    return make


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "no-such-name.invalid"])
def test_an_address_that_others_reach_needs_a_password_before_anything_starts(host: str) -> None:
    with pytest.raises(ConfigError, match="set ML_BACKEND_USER and ML_BACKEND_PASSWORD"):
        require_closed(Settings(host=host))
    require_closed(Settings(host=host, user="u", password="p"))
    require_closed(Settings(host=host, authentication="proxy"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_this_machine_alone_needs_none(host: str) -> None:
    require_closed(Settings(host=host))


def test_serve_does_not_start_open_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_BACKEND_HOST", "0.0.0.0")
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["ml-backend", "serve"])
    arguments: Any = type("Arguments", (), {"only": None})
    with pytest.raises(ConfigError, match=r"ML_BACKEND_HOST is 0\.0\.0\.0"):
        serve.run(arguments)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "name",
    ["rebinding.example", "localhost.evil.example", "evil.example:9090", "[:]", "[:::]:9090"],
)
def test_a_name_that_somebody_else_may_let_lead_here_is_refused(client: Client, name: str) -> None:
    response = client().get("/projects", headers={"host": name})
    assert response.status_code == 421
    assert "ML_BACKEND_NAMES" in response.json()["error"]
    assert name not in response.text


@pytest.mark.parametrize(
    "name",
    ["", "[", "a b", "localhost@evil.example", "evil@localhost", "localhost/path", "localhost#x", "localhost?x", "//localhost",
     "localhost\\@evil", "localhost:", "localhost:x", "localhost,evil.example", "[::1]x", "http://localhost", "localhost:9090:1"],
)  # fmt: skip
def test_a_name_that_reads_in_two_ways_is_refused(client: Client, name: str) -> None:
    answer = client().get("/projects", headers={"host": name})
    assert answer.status_code == 400
    assert answer.json() == {"error": "The Host header is not a name or an address, with or without a port."}


def test_two_names_are_refused(client: Client) -> None:
    two = [("host", "localhost"), ("host", "127.0.0.1")]
    assert client().get("/projects", headers=two).status_code == 400


@pytest.mark.parametrize(
    "name",
    ["localhost", "LOCALHOST.:9090", "127.0.0.1:9090", "[::1]:9090", "192.168.1.5", "ml.example", "a.internal:80"],
)
def test_the_names_of_this_service_are_let_in(client: Client, name: str) -> None:
    known = client(public_url="https://ml.example/backend", names=("*.internal",))
    assert known.get("/projects", headers={"host": name}).status_code == 200


@pytest.mark.parametrize("path", STATE_CHANGING)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:8080"},
        {"origin": "null"},
        {"origin": "http://localhost:9090.evil.example"},
        {"origin": "http://["},
        {"origin": "//localhost:9090"},
        {"origin": "ftp://localhost:9090"},
        {"origin": "http://localhost:9090/"},
        {"origin": "http://evil@localhost:9090"},
        {"origin": "localhost:9090"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost:9090", "sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(client: Client, path: str, headers: dict[str, str]) -> None:
    """Port 8080 is Label Studio's: its pages show what others wrote."""
    assert client().post(path, headers=headers).status_code == 403


def test_a_picture_on_another_page_reads_nothing_and_a_link_leads_here(client: Client) -> None:
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert client().get("/projects", headers=elsewhere | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert client().get("/projects", headers=elsewhere | {"sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("dest", ["iframe", "frame", "embed", "object"])
def test_nothing_of_ours_is_shown_in_a_frame_of_another_page(client: Client, dest: str) -> None:
    framed = {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": dest}
    for path in ("/projects", "/projects/1/page", "/nothing"):
        assert client().get(path, headers=framed).status_code == 403
    assert client().get("/projects", headers=framed | {"sec-fetch-dest": "document"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://localhost:9090"}, {"origin": "https://ml.example", "sec-fetch-site": "same-origin"}],
)
def test_label_studio_scripts_and_our_own_pages_may(client: Client, headers: dict[str, str]) -> None:
    assert client(public_url="https://ml.example").post("/setup", json={}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/health/", "//health", "/HEALTH", "/projects", "/hosts/x/health", "/openapi.json", "/nothing", "/health/../projects"],
)  # fmt: skip
def test_without_the_password_there_is_nothing_but_health(client: Client, path: str) -> None:
    closed = client(user="label-studio", password="secret")
    assert closed.get(path).status_code == 401
    assert closed.get("/health").status_code == 200


@pytest.mark.parametrize(
    "sent", ["", "Basic", "Basic !!!", "Bearer secret", "Basic " + "A" * 10_000, "Basic bGFiZWwtc3R1ZGlvOg=="]
)
def test_no_other_credentials_open_it(client: Client, sent: str) -> None:
    closed = client(user="label-studio", password="secret")
    assert closed.get("/projects", headers={"authorization": sent}).status_code == 401


@pytest.mark.parametrize(
    ("path", "alone", "with_token"),
    [
        ("/overview", 200, 200), ("/projects/1/page", 200, 200), ("/projects/12/grid", 200, 200), ("/static/x.js", 200, 200),
        ("/projects/1/files/once/abc", 200, 200), ("/overview/cards", 401, 200), ("/projects/1/page/queue", 401, 200),
        ("/projects/1/live", 401, 200), ("/projects/1/accept/state", 401, 200), ("/projects/1/tasks/7/thumbnail", 401, 200),
        ("/projects", 401, 401), ("/projects/1", 401, 401), ("/projects/1/versions", 401, 401), ("/projects/1/model.onnx", 401, 401),
        ("/webhook", 401, 401), ("/hosts/x/projects/1/page", 401, 401), ("/projects/1/pages", 401, 401), ("/static", 401, 401),
        ("/projects/x/page", 401, 401), ("/openapi.json", 401, 401), ("/projects/1/train", 401, 401), ("//projects/1/page", 401, 401),
        ("/projects/1/page/../../../projects", 401, 401), ("/versions", 401, 401),
    ],
)  # fmt: skip
def test_a_token_in_place_of_the_password_opens_what_pages_call_and_nothing_else(
    client: Client, path: str, alone: int, with_token: int
) -> None:
    closed = client(user="label-studio", password="secret")
    token = {"X-Label-Studio-Token": "some-token"}
    assert closed.get(path).status_code == alone
    assert closed.get(path, headers=token).status_code == with_token
    assert closed.get(path, headers=token | {"authorization": "Basic wrong"}).status_code == 401
    assert closed.get(path, auth=("label-studio", "secret")).status_code == 200
    assert closed.post(path).status_code == 401
    acts = closed.post("/projects/1/acts", headers=token)
    assert acts.status_code == 200


def test_a_browser_is_let_in_to_be_led_to_the_pages_and_asks_no_question_for_a_script_of_them(client: Client) -> None:
    closed = client(user="label-studio", password="secret")
    assert closed.get("/", headers={"accept": "text/html"}).status_code == 200
    assert closed.get("/").status_code == 401
    assert "www-authenticate" in closed.get("/projects").headers
    asked = closed.get("/projects/1/page/queue", headers={"sec-fetch-dest": "empty", "sec-fetch-site": "same-origin"})
    assert asked.status_code == 401
    assert "www-authenticate" not in asked.headers


def test_passwords_are_compared_in_constant_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(sent: bytes, expected: bytes) -> bool:
        compared.append(sent)
        return sent == expected

    monkeypatch.setattr("secrets.compare_digest", compare)
    closed = client(user="u", password="p")
    assert closed.get("/projects", auth=("u", "wrong")).status_code == 401
    assert closed.get("/projects", auth=("u", "p")).status_code == 200
    assert len(compared) == 2


@pytest.mark.parametrize("length", ["2000000", "9" * 30])
def test_a_body_that_says_it_is_too_large_is_refused_unread(client: Client, length: str) -> None:
    small = client(body_mb=1)
    answer = small.post("/webhook", content=b"{}", headers={"content-length": length})
    assert answer.status_code == 413
    assert "ML_BACKEND_BODY_MB" in answer.json()["error"]


def test_a_body_without_a_length_is_refused_once_it_is_too_large(client: Client) -> None:
    pieces = (b" " * 2**18 for _ in range(8))
    assert client(body_mb=1).post("/webhook", content=pieces).status_code == 413


async def _asked(gate_: Gate, *messages: Any) -> None:
    waiting = list(messages)

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(_: Any) -> None:
        """Nobody looks at it."""

    scope = {"type": "http", "method": "POST", "path": "/webhook", "headers": [(b"host", b"localhost")]}
    await gate_(scope, receive, send)


def reading_gate(**settings: Any) -> Gate:
    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    return Gate(app, Settings(**settings))


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "BODY_SECONDS", 0.05)
    with pytest.raises(HTTPException) as told:
        asyncio.run(_asked(reading_gate(), {"type": "http.request", "body": b"{", "more_body": True}))
    assert told.value.status_code == 408


def test_all_bodies_together_have_a_limit_too_and_what_is_done_is_given_back() -> None:
    gate_ = reading_gate(body_mb=1)
    almost = {"type": "http.request", "body": bytes(2**20), "more_body": True}

    async def many() -> list[Any]:
        slow = [asyncio.create_task(_asked(gate_, almost)) for _ in range(BODIES + 2)]
        done, waiting = await asyncio.wait(slow, timeout=1, return_when=asyncio.FIRST_EXCEPTION)
        while waiting and len(done) < 2:
            done, waiting = await asyncio.wait(slow, timeout=1)
        for task in waiting:
            task.cancel()
        return await asyncio.gather(*slow, return_exceptions=True)

    refused = [error for error in asyncio.run(many()) if isinstance(error, HTTPException)]
    assert {error.status_code for error in refused} == {503}
    assert len(refused) == 2
    assert gate_._held == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/webhook", b'{"action": "ANNOTATION_CREATED", "project": 1, "annotation": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("/predict", b'{"project": "1", "tasks": [{"id": 1, "data": {"image": ' + b"[" * 900 + b"]" * 900 + b"}}]}"),
        ("/predict", b'{"project": "1", "tasks": [{"id": ' + b"9" * 5000 + b', "data": {}}]}'),
        ("/predict", b'{"project": "1", "tasks": [{"id": 9223372036854775808, "data": {}}]}'),
        ("/predict", b'{"project": "' + b"9" * 5000 + b'", "tasks": []}'),
        ("/predict", b'{"project": "3.' + b"9" * 5000 + b'", "tasks": [{"id": 1, "data": {"image": "\\ud800"}}]}'),
        ("/webhook", b'{"action": "\\ud800", "project": 3}'),
        ("/webhook", b'{"action": "TASKS_CREATED", "project": 3, "tasks": [{"id": "\\ud800"}]}'),
        ("/webhook", b'{"action": "TASKS_CREATED", "project": {"id": {"a": "\\ud800"}}}'),
        ("/webhook", b'{"action": "ANNOTATION_CREATED", "project": 3, "annotation": {"id": 1e400}}'),
        ("/job_status", b'{"job": "\\ud800"}'),
        ("/setup", b'{"project": "4", "schema": "\\ud800"}'),
        ("/setup", b'{"project": "4", "schema": "<View/>", "extra_params": {"choices": "\\ud800"}}'),
        ("/setup", b'{"project": "4", "schema": "<?xml version=\\"1.0\\" encoding=\\"none\\"?><View/>"}'),
        ("/webhook", b"\xff\xfe{}"),
    ],
    ids=range(15),
)  # fmt: skip
def test_no_body_is_a_fault_of_the_service(http: TestClient, path: str, body: bytes) -> None:
    http.post("/setup", json=SETUP)
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    assert len(answer.content) < 5_000, "what is sent is not sent back"


@pytest.mark.parametrize(
    "config",
    [
        '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><View>&d;</View>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><View>&b;</View>',
        "<View>" * 50_000 + "</View>" * 50_000,
        CONFIG.replace("<View>", "<View>" * (DEEPEST + 1)).replace("</View>", "</View>" * (DEEPEST + 1)),
        CONFIG.replace("cat", "c" * LONGEST),
    ],
    ids=["entities", "a file", "50,000 deep", "101 deep", "long"],
)
def test_a_label_config_made_to_choke_on_is_refused(http: TestClient, config: str) -> None:
    answer = http.post("/setup", json={**SETUP, "schema": config}, follow_redirects=False)
    assert answer.status_code == 303
    assert "root:" not in answer.text


def test_events_of_projects_that_nobody_connected_cost_nothing(http: TestClient, services: Services) -> None:
    for number in range(20):
        event = {"action": "START_TRAINING", "project": {"id": number}}
        assert http.post("/webhook", json=event).status_code == 404
    assert services.ledger.projects() == []
    assert services.jobs.claim("w") is None


def test_connecting_invented_projects_without_end_is_refused(
    http: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.hosts.MOST_UNREAD", 5)
    for number in range(5):
        assert http.post("/setup", json={**SETUP, "project": str(number)}).status_code == 200
    assert http.post("/setup", json={**SETUP, "project": "5000"}).status_code == 429
    assert http.post("/setup", json={**SETUP, "project": "1"}).status_code == 200, "one that is known goes on"
    assert len(services.ledger.projects()) == 5


def test_events_make_one_job_due_however_many_come(http: TestClient, services: Services) -> None:
    http.post("/setup", json=SETUP)
    project = services.registry.find_project(None, 3, None)
    for _ in range(30):
        assert http.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 3}}).status_code == 200
        http.post(f"/projects/{project.id}/train")
    assert len(services.jobs.history(project)) == 1


def test_no_page_here_runs_scripts_of_another_site(http: TestClient) -> None:
    assert [http.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
    assert http.get("/openapi.json").status_code == 200


def test_the_service_is_behind_the_gate(services: Services) -> None:
    use(services, user="u", password="p", body_mb=1)
    http = TestClient(create_app(services), "http://localhost", raise_server_exceptions=False)
    assert http.get("/projects").status_code == 401
    assert http.get("/projects", auth=("u", "p"), headers={"host": "evil.example"}).status_code == 421
    assert http.post("/projects/1/cancel", auth=("u", "p"), headers={"origin": "null"}).status_code == 403
    pieces = (b" " * 2**18 for _ in range(8))
    assert http.post("/webhook", auth=("u", "p"), content=pieces).status_code == 413
