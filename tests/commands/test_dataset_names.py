"""`export dataset` with labels and files called as no folder and no file can be."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from PIL import Image

from ml_backend.exports.dataset import plan_dataset, write_dataset
from ml_backend.learning.images import content_hash
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.projects import Project
from ml_backend.tabular import read_csv

HOST = "http://localhost:8080"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG = "猫" * 134  # 402 bytes


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path / "data", label_studio_api_key="k"))
    yield opened
    opened.database.close()


def project_of(services: Services, labels: Sequence[str]) -> Project:
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    config = f'<View><Image name="image" value="$image"/><Choices name="kind" toName="image">{choices}</Choices></View>'
    return services.registry.register(HOST, 1, config, created=None)


def labelled(services: Services, project: Project, names: Sequence[str], labels: Sequence[str]) -> None:
    """Tasks 1, 2, ... of these filenames and labels, each with a picture of its own."""
    listing = []
    for number, (name, label) in enumerate(zip(names, labels, strict=True), start=1):
        file = io.BytesIO()
        Image.new("RGB", (2, 2), (number, 0, 0)).save(file, "PNG")
        image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        answers = [Annotation(number, number, (label,), False, False, 1, NOW, NOW)]
        data = {"image": image, "filename": name, "sha256": content_hash(file.getvalue())}
        listing.append((Task(number, image, data, NOW), answers))
    services.ledger.reconcile(project, listing, full=True)


def test_whatever_a_label_is_called_its_images_are_exported_and_stay_below_the_folder(
    services: Services, tmp_path: Path
) -> None:
    labels = ["labels.csv", "..", "../../etc", "a/b", ".dataset.json", LONG, LONG[:-1] + "犬", "x" * 400]
    project = project_of(services, labels)
    labelled(services, project, [f"{n}.png" for n in range(len(labels))], labels)
    folder = tmp_path / "set"
    for _ in range(2):
        report = write_dataset(project, folder, services.ledger, services.hosts)
        assert (report.images, report.problems) == (len(labels), [])
    assert report.copied == 0
    rows = list(read_csv(folder / "labels.csv"))
    assert [row["label"] for row in rows] == labels
    places = [folder / str(row["path"]) for row in rows]
    assert len({place.parent for place in places}) == len(labels)
    for place in places:
        assert place.is_file()
        assert place.resolve().is_relative_to(folder)
    assert plan_dataset(project, folder, services.ledger).copied == 0


def test_files_of_any_name_are_exported_each_to_its_own(services: Services, tmp_path: Path) -> None:
    names = ["a-3.png", "a.png", "a.png", LONG + ".png", LONG + ".png", "x" * 400, "n." + "y" * 300, "/", "b\n.png"]
    project = project_of(services, ["cat", "dog"])
    labelled(services, project, names, ["cat"] * len(names))
    for manifest in (False, True):
        folder = tmp_path / f"set-{manifest}"
        report = write_dataset(project, folder, services.ledger, services.hosts, manifest=manifest)
        assert (report.images, report.problems) == (len(names), [])
        paths = [str(row["path"]) for row in read_csv(folder / "labels.csv")]
        assert len(set(paths)) == len(names)
        assert len({(folder / path).read_bytes() for path in paths}) == len(names)
