"""What is looked at before it is imported: whether images can be read, and which of them are the same."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ml_backend.errors import ImageError
from ml_backend.imports import inspection
from ml_backend.imports.inspection import check_imported, inspect, try_all
from ml_backend.imports.placement import Ready
from ml_backend.imports.sources import Source, find_images, with_labels
from ml_backend.imports.uploading import ImportReport, check_labels, import_images
from ml_backend.task_names import names_of_tasks
from tests.imports.fake_project import SCHEMA, FakeProject, picture

_buffer = io.BytesIO()
Image.new("L", (4, 4)).save(_buffer, "PNG")
PNG = _buffer.getvalue()


def inspected(folder: Path, labels: Mapping[str, str] | None = None) -> tuple[list[Ready], ImportReport]:
    """The images of a folder, with `labels` as if from a CSV of filename and label."""
    found = with_labels(find_images([str(folder)]), {name: (label,) for name, label in (labels or {}).items()})
    report = ImportReport(missing=found.missing)
    checked = check_labels(SCHEMA, [*found.sources, *found.ambiguous], "|")
    return inspect(found.sources, checked, report, lambda _: None, ambiguous=found.ambiguous), report


def test_files_that_cannot_be_decoded_are_named_with_the_reason_and_left_out(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90)
    for name in ("cut.jpg", "cut.png", "cut.webp"):
        noise.save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "two\nlines.gif").write_bytes(b"GIF89a")
    picture(tmp_path / "whole.png")
    ready, report = inspected(tmp_path)
    assert [image.source.relative for image in ready] == ["whole.png"]
    reasons = dict(text.split(": ", 1) for text in report.unreadable)
    assert sorted(reasons) == [
        "cut.jpg", "cut.png", "cut.webp", "empty.png", "page.jpg", "two\\nlines.gif"
    ]  # fmt: skip
    assert reasons["cut.jpg"].startswith("The image is truncated or damaged")
    assert reasons["empty.png"].startswith("The image file is empty")
    assert reasons["page.jpg"].startswith("The file is not an image")


def test_unusual_images_that_are_whole_are_imported(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    plain = Image.effect_noise((16, 16), 90)
    plain.save(tmp_path / "turned.jpg", exif=turned)
    plain.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.new("I;16", (4, 4), 40_000).save(tmp_path / "sixteen.png")
    plain.save(tmp_path / "moving.gif", save_all=True, append_images=[plain.rotate(90)])
    ready, report = inspected(tmp_path)
    assert (len(ready), report.unreadable) == (4, [])


@pytest.mark.parametrize(
    ("original", "copy"),
    [
        ("cat.jpg", "cat (1).jpg"),
        ("cat.jpg", "backup/cat.jpg"),
        ("cat.jpg", "cat_2.jpg"),
        ("pets/cat.jpg", "cat copy.jpg"),
        ("pets/cat.jpg", "cat - Copy (2).jpg"),
        ("pets/cat.jpg", "Copy of cat.jpg"),
        ("b.jpg", "c.jpg"),
    ],
)
def test_of_two_equal_files_the_original_is_imported_and_known_by_both_names(
    tmp_path: Path, original: str, copy: str
) -> None:
    for name in (copy, original):
        picture(tmp_path / name)
    ((image,), report) = inspected(tmp_path)
    assert (image.source.relative, image.also) == (original, (copy,))
    assert report.doubles == [f"{copy} is the same image as {original}"]
    client = FakeProject()
    import_images(1, SCHEMA, [replace(image, source=Source(original, address="https://h/1"))], report, client)
    told = names_of_tasks(client.rows)
    assert told[copy] == told[original] == [1]


def test_the_file_that_is_labelled_is_the_original_and_a_label_for_any_name_counts(tmp_path: Path) -> None:
    for name, shade in {"cat.png": 1, "cat (1).png": 1, "a/dog.png": 2, "b/dog.png": 2}.items():
        picture(tmp_path / name, shade)
    ready, report = inspected(tmp_path, {"cat (1).png": "cat", "dog.png": "dog"})
    assert [(image.source.relative, image.labels) for image in ready] == [
        ("a/dog.png", ("dog",)),
        ("cat (1).png", ("cat",)),
    ]
    assert (report.missing, report.contradictions) == ([], [])


def test_the_same_image_with_two_labels_gets_neither_and_both_names_are_told(tmp_path: Path) -> None:
    for name in ("cat.png", "cat (1).png"):
        picture(tmp_path / name)
    ((image,), report) = inspected(tmp_path, {"cat.png": "cat", "cat (1).png": "dog"})
    assert (image.source.relative, image.labels) == ("cat.png", None)
    assert report.contradictions == [
        "cat (1).png is labelled 'dog', cat.png is labelled 'cat': the same image, imported as cat.png without a label"
    ]


def test_a_link_to_a_file_is_no_image_of_its_own_and_its_name_is_known(tmp_path: Path) -> None:
    picture(tmp_path / "long name.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "long name.png")
    ((image,), report) = inspected(tmp_path, {"a.png": "cat"})
    assert (image.source.relative, image.also, image.labels) == ("long name.png", ("a.png",), ("cat",))
    assert report.doubles == []


def test_addresses_are_fetched_before_they_are_imported_and_bad_ones_left_out() -> None:
    def fetch(address: str, _task: int | None) -> bytes:
        if "gone" in address:
            raise ImageError(f"{address} does not exist (404): check the address.")
        return b"<html>" if "page" in address else PNG

    addresses = ["https://h/a.png", "https://h/gone.png", "https://h/page.png", "s3://b/x.png"]
    report = ImportReport()
    ready = inspect(find_images(addresses).sources, {}, report, lambda _: None, fetch=fetch)
    assert [image.source.address for image in ready] == ["https://h/a.png", "s3://b/x.png"]
    assert [text.split(": ")[0] for text in report.unreadable] == ["gone.png", "page.png"]


def test_what_lies_in_a_bucket_is_fetched_through_its_task_and_named_if_it_cannot_be_read() -> None:
    asked = []

    def fetch(address: str, task: int | None) -> bytes:
        asked.append((address, task))
        if "nope" in address:
            raise ImageError(f"{address} does not exist (404): connect the bucket.")
        return PNG

    client, report = FakeProject(), ImportReport()
    ready = [Ready(s, None) for s in find_images(["s3://b/a.png", "s3://b/nope.png", "https://h/b.png"]).sources]
    import_images(1, SCHEMA, ready, report, client)
    check_imported(1, SCHEMA, ready, report, client, fetch)
    assert sorted(asked) == [("s3://b/a.png", 1), ("s3://b/nope.png", 2)]
    assert report.faulty == ["nope.png (task 2): s3://b/nope.png does not exist (404): connect the bucket."]


def test_of_very_many_addresses_a_sample_is_fetched_and_a_silent_host_does_not_hold_the_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inspection, "CHECKED", 10)
    asked: list[int] = []

    def read(item: int) -> bytes:
        asked.append(item)
        return PNG

    assert try_all(range(25), read).unchecked == 15
    assert len(set(asked)) == 10
    monkeypatch.setattr(inspection, "PATIENCE_S", -1.0)
    assert try_all(range(5), read).unchecked == 5
