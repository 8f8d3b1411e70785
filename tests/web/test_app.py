"""The HTTP service without a Label Studio: the protocol's shapes, and every kind of bad input as a sentence."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.web.app import create_app

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
TWO_CHOICES = CONFIG.replace(
    "</View>", '<Choices name="mood" toName="image"><Choice value="calm"/><Choice value="cross"/></Choices></View>'
)
SETUP = {"project": "3.1700000000", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "t"}


@pytest.fixture
def client(services: Services) -> TestClient:
    return TestClient(create_app(services), "http://localhost", raise_server_exceptions=False)


def sentence(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    text = response.json()["error"]
    assert isinstance(text, str)
    assert "Traceback" not in text
    return text


def test_health_tells_which_store_this_is_and_nothing_of_where(client: TestClient, services: Services) -> None:
    answer = client.get("/health")
    assert answer.json()["store"] == services.database.store_id
    assert str(services.settings.data_dir) not in answer.text


def test_health_answers_before_anything_is_set_up(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "UP"


def test_setup_introduces_the_project_and_makes_its_first_queue_due(client: TestClient, services: Services) -> None:
    assert client.post("/setup", json=SETUP).json() == {"model_version": "v0-r0"}
    project = services.registry.find_project(None, 3, None)
    assert project.schema.labels == ("cat", "dog")
    assert services.jobs.claim("w") is not None


def test_setup_again_changes_nothing(client: TestClient, services: Services) -> None:
    client.post("/setup", json=SETUP)
    assert services.jobs.claim("w") is not None
    client.post("/setup", json=SETUP)
    assert services.jobs.status(services.registry.find_project(None, 3, None)).due is None


def test_predict_before_any_model_gives_one_empty_prediction_a_task(client: TestClient) -> None:
    client.post("/setup", json=SETUP)
    tasks = [{"id": 1, "data": {"image": "/a.png"}}, {"id": 2, "data": {}}]
    results = client.post("/predict", json={"tasks": tasks, "project": "3.1700000000"}).json()["results"]
    assert [r["result"] for r in results] == [[], []]
    assert {r["model_version"] for r in results} == {"v0-r0"}
    assert "error" not in results[0]
    assert "put its address into the task data as `image`" in results[1]["error"]


def test_versions_answers_a_get_with_a_json_body_as_label_studio_sends_it(client: TestClient) -> None:
    client.post("/setup", json=SETUP)
    response = client.request("GET", "/versions", json={"project": "3.1700000000"})
    assert response.json() == {"versions": ["v0-r0"]}


def test_a_webhook_marks_the_project_due_and_a_doubled_one_changes_nothing(
    client: TestClient, services: Services
) -> None:
    client.post("/setup", json=SETUP)
    first = services.jobs.claim("w")
    assert first is not None
    services.jobs.finish(first)
    event = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 3},
        "annotation": {"id": 7, "task": 1, "updated_at": "2026-01-01T00:00:00Z", "was_cancelled": False},
    }
    assert client.post("/webhook", json=event).json() == {"status": "ok"}
    assert client.post("/webhook", json=event).json() == {"status": "doubled"}
    due = services.jobs.status(services.registry.find_project(None, 3, None)).due
    assert due is not None
    assert due.labels == 1


def test_an_event_without_payload_counts_for_the_project_that_its_address_names(
    client: TestClient, services: Services
) -> None:
    client.post("/setup", json=SETUP)
    first = services.jobs.claim("w")
    assert first is not None
    services.jobs.finish(first)
    for action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED"):
        assert client.post("/webhook?project=3", json={"action": action}).json() == {"status": "ok"}
    due = services.jobs.status(services.registry.find_project(None, 3, None)).due
    assert due is not None
    assert due.labels == 3, "many at once are a program's, and hurry nothing"
    assert "payload" in sentence(client.post("/webhook?project=3", json={"action": "TASKS_DELETED"}), 422)


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_malformed_json_is_told(client: TestClient, path: str) -> None:
    response = client.post(path, content=b'{"tasks": [', headers={"content-type": "application/json"})
    assert "not valid JSON" in sentence(response, 400)


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/setup", {"project": "3.1"}, "`schema` is missing"),
        ("/setup", {"schema": CONFIG}, "`project` is missing"),
        ("/setup", {**SETUP, "project": "x"}, "must be Label Studio's project id"),
        ("/predict", {"project": "3.1"}, "`tasks` is missing: send a list of Label Studio tasks"),
        ("/predict", {"tasks": [{"data": {}}], "project": "3"}, "`tasks.0.id` is missing"),
        ("/predict", {"tasks": [{"id": 1}], "project": "3"}, "`tasks.0.data` is missing"),
        ("/predict", {"tasks": {}, "project": "3"}, "`tasks` is wrong"),
        ("/predict", {"tasks": [{"id": "one", "data": {}}], "project": "3"}, "`tasks.0.id` is wrong"),
        ("/webhook", {"project": {"id": 3}}, "`action` is missing"),
        ("/webhook", {"action": "ANNOTATION_CREATED"}, "does not name a project"),
        ("/webhook", {"action": "ANNOTATION_CREATED", "project": {"id": 3}}, "has no 'annotation'"),
        ("/webhook", {"action": "ANNOTATION_CREATED", "project": {"id": 3}, "annotation": {"id": "x"}}, "'x'"),
        ("/predict", [1, 2], "is wrong"),
    ],
)
def test_a_missing_or_wrong_field_is_named(client: TestClient, path: str, body: Any, part: str) -> None:
    client.post("/setup", json=SETUP)
    assert part in sentence(client.post(path, json=body), 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"tasks": [], "project": "9.1"}),
        ("/webhook", {"action": "START_TRAINING", "project": {"id": 9}}),
        ("/versions", {"project": "9.1"}),
    ],
)
def test_an_unknown_project_is_told_with_the_way_to_connect_it(client: TestClient, path: str, body: Any) -> None:
    assert "setup-project" in sentence(client.post(path, json=body), 404)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ('<View><Image name="i" value="$image"/></View>', "Choices"),
        ('<View><Choices name="c" toName="i"><Choice value="a"/><Choice value="b"/></Choices></View>', "Image"),
        ("<View><Image", "XML"),
        ("", "XML"),
    ],
)
def test_an_unusable_label_config_is_told(client: TestClient, config: str, part: str) -> None:
    assert part in sentence(client.post("/setup", json={**SETUP, "schema": config}), 422)


def test_label_studio_is_told_why_a_config_is_refused_where_it_shows_it(client: TestClient) -> None:
    """Of a refusal it shows the address that answered 422, and nothing of the body."""
    refusal = client.post("/setup", json={**SETUP, "schema": TWO_CHOICES}, follow_redirects=False)
    assert "2 <Choices> about images (kind, mood)" in sentence(refusal, 303)
    shown = client.post("/setup", json={**SETUP, "schema": TWO_CHOICES})
    assert shown.status_code == 422
    assert "/setup/The_label_config_has_2_Choices_about_images_(kind,_mood)" in str(shown.url)
    assert "setup-project_--choices_NAME" in str(shown.url)
    assert "choices=NAME_as_the_model's_extra_params" in str(shown.url)
    assert "%" not in str(shown.url)


def test_what_was_selected_at_setup_is_kept_with_the_project(client: TestClient, services: Services) -> None:
    chosen = {**SETUP, "schema": TWO_CHOICES, "extra_params": {"choices": "mood"}}
    assert client.post("/setup", json=chosen).status_code == 200
    assert services.registry.find_project(None, 3, None).schema.labels == ("calm", "cross")
    client.post("/setup", json={**chosen, "extra_params": None, "schema": TWO_CHOICES.replace("cross", "wild")})
    assert services.registry.find_project(None, 3, None).schema.labels == ("calm", "wild")
    client.post("/setup", json={**chosen, "extra_params": '{"choices": "kind"}'})
    project = services.registry.find_project(None, 3, None)
    assert (project.schema.labels, project.full_at) == (("cat", "dog"), None)


def test_a_selection_that_does_not_fit_changes_nothing(client: TestClient, services: Services) -> None:
    chosen = {**SETUP, "schema": TWO_CHOICES, "extra_params": {"choices": "mood"}}
    client.post("/setup", json=chosen)
    assert "no_Choices_name='colour'" in str(
        client.post("/setup", json={**chosen, "extra_params": {"choices": "colour"}}).url
    )
    assert "Choose_again" in str(client.post("/setup", json={**chosen, "schema": CONFIG}).url)
    assert services.registry.find_project(None, 3, None).schema.from_name == "mood"


def test_an_unknown_path_is_a_404(client: TestClient) -> None:
    sentence(client.get("/nothing"), 404)


def test_credentials_are_asked_for_everywhere_but_on_health(tmp_path: Path) -> None:
    services = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", user="u", password="p"))
    client = TestClient(create_app(services), "http://localhost")
    assert client.get("/health").status_code == 200
    assert "ML_BACKEND_USER" in sentence(client.post("/setup", json=SETUP), 401)
    assert client.post("/setup", json=SETUP, auth=("u", "wrong")).status_code == 401
    assert client.post("/setup", json=SETUP, auth=("u", "p")).status_code == 200
    services.database.close()


def test_two_hosts_with_the_same_project_id_do_not_mix(tmp_path: Path) -> None:
    hosts = {"label_studio_url": "http://one:8080", "label_studio_api_keys": (("http://two:8080", "b"),)}
    services = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="a", **hosts))  # type: ignore[arg-type]
    client = TestClient(create_app(services), "http://localhost")
    client.post("/hosts/one-8080/setup", json=SETUP)
    client.post("/hosts/two-8080/setup", json={**SETUP, "project": "3.1800000000"})
    assert [str(p.key) for p in services.ledger.projects()] == [
        "http://one:8080/projects/3",
        "http://two:8080/projects/3",
    ]
    assert "Several Label Studio hosts" in sentence(client.post("/predict", json={"tasks": [], "project": "3"}), 409)
    assert services.registry.find_project(None, 3, 1800000000).key.host == "http://two:8080"
    assert "LABEL_STUDIO_API_KEYS" in sentence(client.post("/hosts/three/setup", json=SETUP), 404)
    anywhere = client.post("/setup", json={**SETUP, "hostname": "http://elsewhere"})
    assert "/hosts/<name>" in sentence(anywhere, 409)
    services.database.close()
