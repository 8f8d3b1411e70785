"""Data sets: the labelled images below a folder, called as their files and labels are, or nearly so."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from PIL import Image

from ml_backend.errors import InvalidInputError
from ml_backend.exports.dataset import plan_dataset, write_dataset
from ml_backend.images.decoding import content_hash
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.tabular import read_csv
from tests.slices import held_out

HOST = "http://localhost:8080"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = ("cat", "dog/wolf")
PETS = (("same.png", "cat"), ("same.png", "cat"), ("3.png", "dog/wolf"), ("4.png", None))
LONG = "猫" * 134  # 402 bytes


def project_of(services: Services, labels: Sequence[str] = LABELS, *, choice: str = "single") -> Project:
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    kind = f'<Choices name="kind" toName="image" choice="{choice}">{choices}</Choices>'
    return services.registry.register(HOST, 1, f'<View><Image name="image" value="$image"/>{kind}</View>', created=None)


def listed(
    services: Services, project: Project, images: Sequence[tuple[str, str | None]], *, damaged: bytes = b"", at: int = 0
) -> None:
    """Tasks 1, 2, ... of these filenames and labels, each with a picture of its own; `damaged` is that of task `at`."""
    listing = []
    for number, (name, label) in enumerate(images, start=1):
        content = damaged if number == at else png(number)
        image = "data:image/png;base64," + base64.b64encode(content).decode()
        answers = [Annotation(number, number, (label,), False, False, 1, NOW, NOW)] if label else []
        data = {"image": image, "filename": name, "sha256": content_hash(content)}
        listing.append((Task(number, image, data, NOW), answers))
    services.ledger.reconcile(project, listing, full=True)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_data_set_follows_the_labels_and_forgets_what_is_no_longer_so(services: Services, tmp_path: Path) -> None:
    project = project_of(services)
    listed(services, project, PETS)
    write_dataset(project, tmp_path / "set", services.ledger, services.hosts)
    listed(services, project, [("same.png", None), ("same.png", "cat"), ("3.png", "cat"), ("4.png", "dog/wolf")])
    report = write_dataset(project, tmp_path / "set", services.ledger, services.hosts)
    assert report.removed == 2  # same-2.png became same.png again, and 3.png changed its folder
    assert files(tmp_path / "set") == [".dataset.json", "cat/3.png", "cat/same.png", "dog_wolf/4.png", "labels.csv"]


def test_an_image_that_cannot_be_read_is_told_and_the_others_are_there(services: Services, tmp_path: Path) -> None:
    project = project_of(services)
    listed(services, project, [("a.png", "cat"), ("b.png", "cat")], damaged=b"broken", at=1)
    report = write_dataset(project, tmp_path / "set", services.ledger, services.hosts)
    assert (report.images, len(report.problems)) == (1, 1)
    assert [row["filename"] for row in read_csv(tmp_path / "set" / "labels.csv")] == ["b.png"]


def test_a_truncated_image_is_no_part_of_a_data_set_and_is_named(services: Services, tmp_path: Path) -> None:
    """Nor is one that an earlier export has copied."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "JPEG")
    half = buffer.getvalue()[:900]
    project = project_of(services)
    listed(services, project, [("half.jpg", "cat")], damaged=half, at=1)
    first = write_dataset(project, tmp_path / "set", services.ledger, services.hosts)
    (tmp_path / "set" / "cat").mkdir()
    (tmp_path / "set" / "cat" / "half.jpg").write_bytes(half)
    for report in (first, write_dataset(project, tmp_path / "set", services.ledger, services.hosts)):
        assert (report.images, len(report.problems)) == (0, 1)
        assert report.problems[0].startswith("half.jpg (task 1): The image is truncated")
    assert files(tmp_path / "set") == [".dataset.json", "labels.csv"]


def test_a_folder_with_other_files_is_not_touched(services: Services, tmp_path: Path) -> None:
    project = project_of(services)
    listed(services, project, PETS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.pdf").write_text("years of work")
    with pytest.raises(InvalidInputError, match="choose an empty folder"):
        write_dataset(project, tmp_path / "mine", services.ledger, services.hosts)
    assert files(tmp_path / "mine") == ["thesis.pdf"]


def test_images_with_several_labels_need_a_manifest(services: Services, tmp_path: Path) -> None:
    project = project_of(services, choice="multiple")
    listed(services, project, PETS[:1])
    with pytest.raises(InvalidInputError, match="--layout manifest"):
        write_dataset(project, tmp_path / "set", services.ledger, services.hosts)
    assert write_dataset(project, tmp_path / "set", services.ledger, services.hosts, manifest=True).images == 1


def test_an_image_with_none_of_the_labels_is_part_of_a_data_set_with_an_empty_label(
    services: Services, tmp_path: Path
) -> None:
    project = project_of(services, choice="multiple")
    listed(services, project, [("same.png", "cat"), ("2.png", None)])
    task = next(iter(services.ledger.tasks(project, [2])))
    none = Annotation(2, 2, (), False, False, 1, NOW, NOW, none_of="kind")
    services.ledger.reconcile(project, [(task, [none])], full=False)
    assert write_dataset(project, tmp_path / "set", services.ledger, services.hosts, manifest=True).images == 2
    lines = read_csv(tmp_path / "set" / "labels.csv")
    assert sorted((line["filename"], line["label"]) for line in lines) == [("2.png", ""), ("same.png", "cat")]


def test_whatever_a_label_is_called_its_images_are_exported_and_stay_below_the_folder(
    services: Services, tmp_path: Path
) -> None:
    labels = ["labels.csv", "..", "../../etc", "a/b", ".dataset.json", LONG, LONG[:-1] + "犬", "x" * 400]
    project = project_of(services, labels)
    listed(services, project, [(f"{n}.png", label) for n, label in enumerate(labels)])
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
    project = project_of(services)
    listed(services, project, [(name, "cat") for name in names])
    for manifest in (False, True):
        folder = tmp_path / f"set-{manifest}"
        report = write_dataset(project, folder, services.ledger, services.hosts, manifest=manifest)
        assert (report.images, report.problems) == (len(names), [])
        paths = [str(row["path"]) for row in read_csv(folder / "labels.csv")]
        assert len(set(paths)) == len(names)
        assert len({(folder / path).read_bytes() for path in paths}) == len(names)


def test_what_was_accepted_of_a_model_is_part_of_a_data_set_only_where_it_is_asked_for(
    services: Services, tmp_path: Path
) -> None:
    project = project_of(services)
    listed(services, project, [("a.png", "cat"), ("b.png", None)])
    (task,) = services.ledger.tasks(project, [2])
    accepted = Annotation(2, 2, ("dog/wolf",), False, False, 1, NOW, NOW, accepted="c1")
    services.ledger.reconcile(project, [(task, [accepted])], full=False)
    assert plan_dataset(project, tmp_path / "set", services.ledger).images == 1
    for included in (True, False):
        report = write_dataset(project, tmp_path / "set", services.ledger, services.hosts, accepted=included)
        assert (report.images, report.removed) == ((2, 0) if included else (1, 1))
        told = {row["filename"]: row.get("origin") for row in read_csv(tmp_path / "set" / "labels.csv")}
        assert told == ({"a.png": "human", "b.png": "accepted"} if included else {"a.png": None})


def test_no_label_of_a_model_is_among_the_held_out_ones_of_a_split_data_set(services: Services, tmp_path: Path) -> None:
    """Who tests a model on that folder would measure it by what a model said."""
    project = project_of(services)
    listed(services, project, [("a.png", "cat"), ("b.png", None), ("c.png", None), ("d.png", "cat")])
    tasks = services.ledger.tasks(project, [2, 3])
    accepted = [
        (task, [Annotation(task.id, task.id, ("cat",), False, False, 1, NOW, NOW, accepted="c1")]) for task in tasks
    ]
    services.ledger.reconcile(project, accepted, full=False)
    project = held_out(services.ledger, project, 3, 4)
    planned = plan_dataset(project, tmp_path / "set", services.ledger, splits=True, accepted=True)
    made = write_dataset(project, tmp_path / "set", services.ledger, services.hosts, splits=True, accepted=True)
    assert [(report.images, report.not_measuring) for report in (planned, made)] == [(3, 1)] * 2
    found = {path for path in files(tmp_path / "set") if path.endswith(".png")}
    assert found == {"train/cat/a.png", "train/cat/b.png", "held-out/cat/d.png"}
    whole = write_dataset(project, tmp_path / "whole", services.ledger, services.hosts, accepted=True)
    assert (whole.images, whole.not_measuring) == (4, 0)
