"""The pictures of the grid: small, sent once, and to nobody who may not see the project."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.thumbnails import SIDE, Thumbnails, thumbnail
from tests.web.fake_grid import STRANGER, Grid, picture, sentence


def test_a_thumbnail_is_a_small_jpeg_that_is_not_sent_twice(grid: Grid) -> None:
    first = grid.thumbnail(70)
    assert (first.status_code, first.headers["Content-Type"]) == (200, "image/jpeg")
    assert first.content[:2] == b"\xff\xd8"
    assert first.headers["Vary"] == f"{TOKEN_HEADER}, Authorization"
    assert "private" in first.headers["Cache-Control"]
    again = grid.thumbnail(70, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert grid.thumbnail(70, STRANGER, **{"If-None-Match": first.headers["ETag"]}).status_code == 403


def test_a_task_that_the_project_does_not_have_has_no_thumbnail(grid: Grid) -> None:
    assert "has no task 4711" in sentence(grid.thumbnail(4711), 404)


def test_an_image_that_cannot_be_shown_is_told_why(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid.bench.services.encoding, "read", lambda *_: b"no picture")
    assert "not an image in a supported format" in sentence(grid.thumbnail(70), 422)


def test_thumbnails_are_small_and_those_in_memory_have_a_limit() -> None:
    asked: list[int] = []

    def read(task: int) -> bytes:
        asked.append(task)
        return picture(task, (1_000, 3_000))

    one = thumbnail(picture(1, (1_000, 3_000)))
    assert Image.open(io.BytesIO(one)).size == (SIDE // 3, SIDE)
    kept = Thumbnails(kept_bytes=int(2.5 * len(one)))
    for task in (1, 2, 1, 3, 1, 2):
        kept.get(f"{task:064x}", lambda task=task: read(task))  # type: ignore[misc]
    assert asked == [1, 2, 3, 2], "the one that was not used for longest had to go"
