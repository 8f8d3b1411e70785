"""Files that the page hands out: to whom, made once for all who ask, and had by an address for one time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.errors import DiskFullError, NotFoundError
from ml_backend.settings import Settings
from ml_backend.web import file_making
from ml_backend.web.file_making import MOST, FileMaking, Making
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.worker.downloading import LEFT, Download
from tests.web.fake_grid import ANNA, BEN, STRANGER, Grid, sentence
from tests.web.test_project_page import get


@dataclass
class Maker:
    """In place of the process: makes a file as soon as it may. fails: with this instead."""

    may: threading.Event = field(default_factory=threading.Event)
    made: list[str] = field(default_factory=list)
    fails: Any = None
    warnings: list[str] = field(default_factory=list)

    def __call__(self, _settings: Settings, making: Making) -> None:
        making.said = "3 of 10 images"
        self.made.append(making.name)
        assert self.may.wait(60)
        if self.fails:
            raise self.fails
        path = making.folder / making.name
        path.write_bytes(b"filename,label\r\n")
        making.warnings, making.path = self.warnings, path


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    found = Maker()
    monkeypatch.setattr(file_making, "_in_process", found)
    yield found
    found.may.set()


def ask(grid: Grid, name: str, *, same: bool = False, token: str = ANNA) -> Any:
    address = f"/projects/{grid.project.id}/files/{name}" + ("?same=true" if same else "")
    return grid.http.post(address, json={}, headers={TOKEN_HEADER: token})


def ready(grid: Grid, name: str, **more: Any) -> dict[str, Any]:
    """Asked for until it is not being made any more."""
    while (told := ask(grid, name, **more).json()).get("state") == "making":
        threading.Event().wait(0.01)
    return dict(told)


def test_a_file_is_told_of_while_it_is_made_and_then_had_once_without_a_token(grid: Grid, maker: Maker) -> None:
    maker.warnings = ["3 annotations are left out."]
    first = ask(grid, "labels.csv")
    assert first.json()["state"] == "making"
    maker.may.set()
    told = ready(grid, "labels.csv")
    assert (told["warnings"], maker.made) == (["3 annotations are left out."], ["labels.csv"])
    there = f"/projects/{grid.project.id}/{told['address']}"
    answer = grid.http.get(there)
    assert (answer.status_code, answer.content) == (200, b"filename,label\r\n")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="labels.csv"'
    assert (answer.headers["X-Content-Type-Options"], answer.headers["Cache-Control"]) == (
        "nosniff",
        "private, no-store",
    )
    sentence(grid.http.get(there), 404)
    other = ready(grid, "labels.csv")["address"]
    sentence(grid.http.get(f"/projects/99/{other}"), 404)


def test_who_may_see_the_project_gets_its_files_and_nobody_else(grid: Grid, maker: Maker) -> None:
    maker.may.set()
    assert get(grid, "files/rounds.csv", BEN).content == b"filename,label\r\n"
    for token in (STRANGER, None):
        sentence(get(grid, "files/rounds.csv", token), 403)
    sentence(ask(grid, "rounds.csv", token=STRANGER), 403)
    for name in ("..%2f..%2fstate.sqlite3", "state.sqlite3", "labels.csv%00", "once/..%2f..%2fstate.sqlite3"):
        assert get(grid, f"files/{name}").status_code in {404, 405, 422}
    assert maker.made == ["rounds.csv"]


def test_why_a_file_cannot_be_made_is_told_once_and_then_it_is_tried_again(grid: Grid, maker: Maker) -> None:
    maker.may.set()
    maker.fails = NotFoundError("There is no model yet: label two images of different classes.")
    assert "no model yet" in ready(grid, "model.onnx")["error"]
    maker.fails = None
    assert ready(grid, "model.onnx")["state"] == "ready"
    maker.fails = RuntimeError("<b>secret</b>")
    assert "see the service's log" in sentence(get(grid, "files/model.pt2"), 500)


def test_only_so_many_are_made_at_a_time(grid: Grid, maker: Maker) -> None:
    for name in ("labels.csv", "rounds.csv", "model.zip")[:MOST]:
        assert ask(grid, name).json()["state"] == "making"
    assert "in a while" in sentence(ask(grid, "dataset.zip"), 429)
    maker.may.set()
    assert ready(grid, "labels.csv")["state"] == "ready"


def test_no_guess_is_handed_out_while_an_audit_is_on(grid: Grid, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid.bench.services.acceptances, "is_blind", lambda _project: True)
    maker.may.set()
    assert "An audit" in sentence(get(grid, "files/predictions.csv"), 409)
    assert 'data-file="predictions.csv"' not in get(grid, "page/downloads").text


def test_a_file_of_guesses_that_was_made_before_an_audit_is_not_handed_out_during_it(
    grid: Grid, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.may.set()
    told = ready(grid, "predictions.csv")
    monkeypatch.setattr(grid.bench.services.acceptances, "is_blind", lambda _project: True)
    assert "An audit" in sentence(grid.http.get(f"/projects/{grid.project.id}/{told['address']}"), 409)


def test_guesses_of_held_out_images_are_handed_out_to_nobody_who_may_only_look(grid: Grid, maker: Maker) -> None:
    """Nor what makes them."""
    maker.may.set()
    for model in ("model.zip", "model.onnx", "model.pt2"):
        assert "may change the project" in sentence(get(grid, f"files/{model}", BEN), 403)
    assert "may change the project" in sentence(get(grid, "files/predictions.csv", BEN), 403)
    sentence(ask(grid, "predictions.csv", token=BEN), 403)
    assert maker.made == []
    assert 'data-file="predictions.csv"' not in get(grid, "page/downloads", BEN).text
    assert 'data-file="predictions.csv"' in get(grid, "page/downloads", ANNA).text
    assert get(grid, "files/predictions.csv", ANNA).status_code == 200


def test_labels_of_the_first_of_several_people_are_handed_out_to_nobody_who_may_be_the_next(
    grid: Grid, maker: Maker
) -> None:
    """They stand beside the guess."""
    maker.may.set()
    assert get(grid, "files/labels.csv", BEN).status_code == 200
    grid.bench.services.ledger.configure(grid.project, overlap=2)
    assert "may change the project" in sentence(get(grid, "files/labels.csv", BEN), 403)
    assert 'data-file="labels.csv"' not in get(grid, "page/downloads", BEN).text
    assert get(grid, "files/labels.csv", ANNA).status_code == 200


def test_a_file_is_made_anew_for_who_asks_later_and_kept_for_who_has_read_its_warnings(
    grid: Grid, maker: Maker
) -> None:
    maker.may.set()
    now = [0.0]
    making = FileMaking(grid.bench.services, clock=lambda: now[0])

    def had(*, same: bool = False) -> Making:
        found = making.ask(grid.project, "labels.csv", same=same)
        while found.state == "making":
            threading.Event().wait(0.01)
        return making.ask(grid.project, "labels.csv", same=same)

    first = had()
    now[0] = 600.0
    assert had(same=True) is first
    assert had() is not first
    key = making.address(first)
    now[0] += 61
    with pytest.raises(NotFoundError, match="one time"):
        making.once(grid.project.id, key)


def test_a_file_that_was_made_anew_is_not_on_the_disk_many_times(
    grid: Grid, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.may.set()
    now, going = [0.0], []
    monkeypatch.setattr(file_making, "_gone_after", lambda seconds, folder: going.append((seconds, folder)))
    making = FileMaking(grid.bench.services, clock=lambda: now[0])

    def had() -> Making:
        while making.ask(grid.project, "dataset.zip").state == "making":
            threading.Event().wait(0.01)
        return making.ask(grid.project, "dataset.zip")

    first = had()
    now[0] += 31
    assert had() is not first
    assert (file_making.ONCE_S, first.folder) in going, "as soon as no address of it is good"


def test_a_file_to_take_away_leaves_room_for_the_store(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Download(grid.project, grid.bench.services, grid.bench.settings.data_dir / "downloads")
    made._tell("1 of 10 images", now=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=LEFT - 1))
    with pytest.raises(DiskFullError, match="No space is left"):
        made._tell("2 of 10 images", now=True)
    assert "No space is left" in sentence(ask(grid, "dataset.zip"), DiskFullError.status)


def test_what_a_service_that_was_killed_left_is_tidied_up(grid: Grid) -> None:
    left = grid.bench.services.settings.data_dir / "downloads" / "0" / "labels.csv"
    left.parent.mkdir(parents=True)
    left.touch()
    FileMaking(grid.bench.services)
    assert not left.exists()


@pytest.mark.slow
def test_the_process_tells_what_is_wrong_in_a_sentence(grid: Grid, tmp_path: Path) -> None:
    services, config = grid.bench.services, grid.project.label_config
    other = services.registry.register(grid.project.key.host, 77, config, created=None)
    making = Making(other.id, "model.zip", tmp_path / "here")
    file_making._in_process(services.settings, making)
    assert making.error is not None
    assert "no model yet" in str(making.error)
