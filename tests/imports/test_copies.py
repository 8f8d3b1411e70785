"""Files that browsers do not show: Label Studio gets a copy, and the original keeps its name."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import LabelStudioError
from ml_backend.exports.task_cells import image_cells
from ml_backend.imports.inspection import inspect
from ml_backend.imports.placement import Ready, Storage
from ml_backend.imports.sources import find_images
from ml_backend.imports.uploading import ImportReport, import_images
from ml_backend.labelstudio import storage
from ml_backend.task_names import copied_as
from tests.images.awkward import deep, encoded, turned
from tests.images.test_recipe import drawn
from tests.imports.fake_project import SCHEMA, FakeProject, picture


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What was uploaded, by address."""
    there: dict[str, bytes] = {}

    def upload(_client: Any, _project: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        addresses = [f"/data/upload/1/1a2b3c4d-{name}" for name, _ in files]
        there.update(zip(addresses, (data for _, data in files), strict=True))
        return addresses

    monkeypatch.setattr(storage, "upload", upload)
    monkeypatch.setattr(storage, "uploads", lambda *_: {a.rpartition("1a2b3c4d-")[2]: a for a in there})
    monkeypatch.setattr(storage, "document_root", lambda *_: None)
    return there


def ready_in(folder: Path) -> list[Ready]:
    report = ImportReport()
    ready = inspect(find_images([str(folder)]).sources, {}, report, lambda _: None)
    assert report.unreadable == []
    return ready


def run(ready: Sequence[Ready], client: FakeProject, where: Storage = "auto") -> ImportReport:
    report = ImportReport()
    import_images(1, SCHEMA, ready, report, client, where=where)
    return report


def test_a_file_that_browsers_do_not_show_is_imported_as_a_copy_under_its_own_name(
    tmp_path: Path, sent: dict[str, bytes]
) -> None:
    (tmp_path / "lies.tif").write_bytes(encoded(drawn(90, 60), "TIFF", exif=turned(6)))
    (tmp_path / "deep.tiff").write_bytes(encoded(deep(drawn(40, 30), hot=1), "TIFF"))
    picture(tmp_path / "plain.png")
    client = FakeProject()
    report = run(ready_in(tmp_path), client)
    tasks = {str(task.data["filename"]): task for task in client.rows}
    assert set(tasks) == {"lies.tif", "deep.tiff", "plain.png"}
    assert report.stored.endswith("2 files as copies that browsers show, uploaded")
    for name, task in tasks.items():
        assert task.data["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        shown = Image.open(io.BytesIO(sent[str(task.image)]))
        assert (shown.format, copied_as(task)) == ("PNG", "" if name == "plain.png" else ".png")
    lies, stretched = (Image.open(io.BytesIO(sent[str(tasks[name].image)])) for name in ("lies.tif", "deep.tiff"))
    assert lies.size == (60, 90)
    assert np.ptp(np.asarray(stretched)) == 255
    again = run(ready_in(tmp_path), client)
    assert (again.imported, again.there, len(sent)) == (0, 3, 3)


def test_a_photo_of_a_phone_is_copied_as_jpeg(tmp_path: Path, sent: dict[str, bytes]) -> None:
    pytest.importorskip("pillow_heif")
    from tests.images.test_further_formats import heic

    (tmp_path / "IMG_1.HEIC").write_bytes(heic(drawn(64, 48)))
    run(ready_in(tmp_path), client := FakeProject())
    assert client.rows[0].data["filename"] == "IMG_1.HEIC"
    assert Image.open(io.BytesIO(sent[str(client.rows[0].image)])).format == "JPEG"


def test_beside_files_that_are_served_where_they_are_only_the_others_are_uploaded(
    tmp_path: Path, sent: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_backend.imports.placement import Placement

    def serve(place: Placement, files: Sequence[Ready], *, dry_run: bool) -> None:
        assert [image.source.filename for image in files] == ["plain.png"]
        place.root = tmp_path.parent

    monkeypatch.setattr(Placement, "_serve", serve)
    (tmp_path / "scan.tif").write_bytes(encoded(drawn(20, 20), "TIFF"))
    picture(tmp_path / "plain.png")
    run(ready_in(tmp_path), client := FakeProject())
    addresses = {str(task.data["filename"]): str(task.image) for task in client.rows}
    assert addresses["scan.tif"] in sent
    assert addresses["plain.png"].startswith("/data/local-files/")
    with pytest.raises(LabelStudioError, match=r"Browsers do not show 1 file, such as scan.tif.*--storage auto"):
        run(ready_in(tmp_path), FakeProject(), "local")


def test_exports_name_the_original_and_its_content(tmp_path: Path, sent: dict[str, bytes]) -> None:
    (tmp_path / "scan.tif").write_bytes(encoded(drawn(20, 20), "TIFF"))
    run(ready_in(tmp_path), client := FakeProject())
    copy = hashlib.sha256(next(iter(sent.values()))).hexdigest()
    cells = image_cells(SimpleNamespace(task=client.rows[0], content_hash=copy, split="train"))  # type: ignore[arg-type]
    assert (cells["filename"], cells["path"]) == ("scan.tif", "scan.tif")
    assert cells["content_hash"] == hashlib.sha256((tmp_path / "scan.tif").read_bytes()).hexdigest()
