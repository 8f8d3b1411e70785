"""Versions chosen and compared from the command line."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ml_backend import cli, manual_promotion
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.head import Head
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.store.version_meta import VersionMeta
from tests.slices import held_out

pytestmark = pytest.mark.slow

HOST = "http://127.0.0.1:9"
KEY = "k" * 40
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
HELD_OUT = 12


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setenv("LABEL_STUDIO_URL", HOST)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "data"))
    opened = Services.open(Settings(data_dir=tmp_path / "data", label_studio_url=HOST, label_studio_api_key=KEY))
    yield opened
    opened.database.close()


@pytest.fixture
def project(services: Services) -> Project:
    """Three versions, the last one served; nothing due; held-out tasks whose vector says what they are."""
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    for number in (1, 2, 3):
        services.versions.publish(
            project, number, lambda folder: (folder / "weights").touch(), VersionMeta(labels=10 * number)
        )
        services.versions.promote(project, number)
    job = services.jobs.claim("worker")
    assert job is not None
    services.jobs.finish(job)
    now = datetime.now(UTC)
    tasks = [Task(i, f"/{i}.png", {"image": f"/{i}.png"}, now) for i in range(1, HELD_OUT + 1)]
    services.ledger.reconcile(project, [(task, []) for task in tasks], full=True)
    labels = {task.id: "cat" if task.id % 2 else "dog" for task in tasks}
    answers = [(t, [Annotation(t.id, t.id, (labels[t.id],), False, False, 1, now, now)]) for t in tasks]
    services.ledger.reconcile(project, answers, full=False)
    hashes = {task.id: f"{task.id:064x}" for task in tasks}
    services.ledger.set_content_hash(project, hashes)
    vectors = np.array([[1.0, 0.0] if labels[i] == "cat" else [0.0, 1.0] for i in hashes])
    project = held_out(services.ledger, project, *hashes)
    services.features.append("seeing", list(hashes.values()), vectors)
    return project


def model(sees: bool, classes: tuple[str, ...] = ("cat", "dog"), encoder: str = "seeing") -> Any:
    weight = np.eye(2, dtype=np.float32) * (9 if sees else -9)
    head = Head(classes, weight, np.zeros(2, np.float32), 1.0, multilabel=False)
    return SimpleNamespace(encoder=SimpleNamespace(id=encoder), head=head, fits=set(classes) == {"cat", "dog"})


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert cli.main(["versions", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["v1", "1"])
@pytest.mark.parametrize("verb", ["promote", "pin"])
def test_a_former_version_is_served_again_and_the_queue_follows(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    assert run(capsys, verb, name)["before"] == "v3"
    served = services.versions.current(project)
    assert served is not None
    assert (served.number, services.versions.pinned(project)) == (1, verb == "pin")
    due = services.jobs.status(project).due
    assert due is not None
    assert (due.reason, due.immediate) == ("v1 chosen by hand", True)


@pytest.mark.parametrize("arguments", [("promote", "v1"), ("pin", "v1"), ("unpin",)])
def test_a_dry_run_chooses_nothing(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    if arguments == ("unpin",):
        services.versions.pin(project, 3)
    before = services.versions.list(project), services.versions.pinned(project)
    assert run(capsys, *arguments, "--dry-run")["dry_run"] is True
    assert (services.versions.list(project), services.versions.pinned(project)) == before
    assert services.jobs.status(project).due is None


def test_a_pinned_version_stands_until_it_is_unpinned(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "pin", "v2")
    for dry in ((), ("--dry-run",)):
        assert "versions unpin" in run(capsys, "promote", "v3", *dry, code=1)["error"]
    for dry in (("--dry-run",), ()):
        assert run(capsys, "unpin", *dry) | {"store": 0, "dry_run": 0} == {
            "version": "v3", "was_pinned": True, "dry_run": 0, "store": 0,
        }  # fmt: skip
    assert run(capsys, "unpin")["was_pinned"] is False


@pytest.mark.parametrize("name", ["v9", "best", "v-1", "v1.0", "²"])
@pytest.mark.usefixtures("project")
def test_a_version_that_is_none_is_refused_with_where_to_look(capsys: pytest.CaptureFixture[str], name: str) -> None:
    for dry in ((), ("--dry-run",)):
        error = run(capsys, "pin", name, *dry, code=1)
        assert ("versions list" in error["error"]) == (name == "v9")
        assert "GET" not in error["error"]


def test_the_list_says_which_one_answers(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    services.versions.pin(project, 2)
    rows = run(capsys, "list")["versions"]
    assert [(r["name"], r["served"], r["pinned"], r["labels"]) for r in rows] == [
        ("v3", False, False, 30),
        ("v2", True, True, 20),
        ("v1", False, False, 10),
    ]
    assert cli.main(["versions", "list"]) == 0
    assert "not measured yet" in capsys.readouterr().out


def compared(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch, *models: Any
) -> manual_promotion.Comparison:
    pair = dict(zip((1, 2), models, strict=True))
    monkeypatch.setattr(services.predictor, "load", lambda _project, number: pair[number])
    monkeypatch.setattr(services.predictor, "fold_heads", lambda _project, number: FoldHeads((pair[number].head,)))
    first, second = (services.versions.version(project, number) for number in pair)
    alpha = services.settings.promotion_alpha
    return manual_promotion.compare(project, first, second, services.predictor, alpha=alpha)


def test_two_versions_are_asked_about_the_same_held_out_tasks(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = compared(services, project, monkeypatch, model(sees=False), model(sees=True))
    assert [(m["n"], m["accuracy"]) for m in better.measured] == [(HELD_OUT, 0.0), (HELD_OUT, 1.0)]
    assert better.verdict.endswith("v2 is better.")
    assert compared(services, project, monkeypatch, model(sees=True), model(sees=False)).verdict.endswith(
        "v1 is better."
    )
    assert "No clear difference" in compared(services, project, monkeypatch, model(sees=True), model(sees=True)).verdict


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (model(sees=True, classes=("cat", "owl")), "v2 was trained for other labels"),
        (model(sees=True, encoder="blind"), "no held-out task"),
    ],
)
def test_what_cannot_be_compared_is_told_plainly(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch, other: Any, why: str
) -> None:
    comparison = compared(services, project, monkeypatch, model(sees=True), other)
    assert comparison.measured == ()
    assert comparison.verdict.startswith("v1 and v2 cannot be compared:")
    assert why in comparison.verdict


def test_a_version_whose_files_were_pruned_is_not_compared(
    services: Services, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    services.versions.prune(project, keep=1)
    said = run(capsys, "compare", "v1", "v2")
    assert said["comparable"] is False
    assert "deleted or moved" in said["verdict"]
