"""Finding images and labels, and bringing them in: each once, whatever was killed before."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_backend.errors import ImageError, InvalidInputError
from ml_backend.imports import inspection
from ml_backend.imports.annotations import import_labels
from ml_backend.imports.inspection import check_imported, inspect, try_all
from ml_backend.imports.placement import Ready
from ml_backend.imports.sources import Source, find_images, read_labels, with_labels
from ml_backend.imports.uploading import ImportReport, check_labels, import_images
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.records import Annotation, LabelSchema, Task
from ml_backend.task_names import names_of_tasks

SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog", "a|b"))
MANY = LabelSchema("choice", "image", "image", ("cat", "dog", "a|b"), multiple=True)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

_buffer = io.BytesIO()
Image.new("L", (4, 4)).save(_buffer, "PNG")
PNG = _buffer.getvalue()


def _choices(result: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(result[0]["value"]["choices"]) if result else ()


@dataclass
class FakeProject(LabelStudio):
    """The one project of a Label Studio in memory, as far as importing goes."""

    rows: list[Task] = field(default_factory=list)
    given: dict[int, list[Annotation]] = field(default_factory=dict)
    predictions: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    late: list[Mapping[str, Any]] = field(default_factory=list)
    writes: int = 0

    def get_project(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "task_number": len(self.rows)}

    def whoami(self) -> dict[str, Any]:
        return {"id": 1}

    def tasks(self, project_id: int, **_: Any) -> Iterator[Task]:
        return iter(list(self.rows))

    def annotated(self, project_id: int, **_: Any) -> Iterator[tuple[Task, list[Annotation]]]:
        return ((task, self.given[task.id]) for task in list(self.rows) if task.id in self.given)

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> int:
        arrived, self.late = [*self.late, *data], []
        for item in arrived:
            task = Task(len(self.rows) + 1, item["data"]["image"], dict(item["data"]))
            self.rows.append(task)
            for annotation in item.get("annotations", []):
                self.create_annotation(task.id, annotation["result"])
            self.predictions[task.id] = list(item.get("predictions", []))
        return len(data)

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        self.rows = [task for task in self.rows if task.id not in task_ids]

    def create_annotation(
        self, task_id: int, result: list[dict[str, Any]], *, lead_time: float = 1.0
    ) -> dict[str, Any]:
        self.writes += 1
        annotation = Annotation(self.writes, task_id, _choices(result), False, False, 1, NOW, NOW, none_of="choice")
        self.given.setdefault(task_id, []).append(annotation)
        return {}

    def update_annotation(self, annotation_id: int, **fields: Any) -> dict[str, Any]:
        for task_id, annotations in self.given.items():
            kept = [a for a in annotations if a.id != annotation_id]
            if len(kept) < len(annotations):
                self.given[task_id] = kept
                return self.create_annotation(task_id, fields["result"])
        raise AssertionError

    def predictions_of(self, project_id: int, task_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        return {task: self.predictions.get(task, []) for task in task_ids}

    def import_predictions(self, project_id: int, predictions: Sequence[dict[str, Any]]) -> int:
        for prediction in predictions:
            self.predictions.setdefault(prediction["task"], []).append(prediction)
        return len(predictions)


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def at(count: int, start: int = 0) -> list[Ready]:
    """Images known by address, so that no file has to travel."""
    return [Ready(Source(f"{i}.png", address=f"https://host/{i}.png"), None) for i in range(start, start + count)]


def names(found: Sequence[Source]) -> list[str]:
    return [source.relative for source in found]


def test_a_folder_is_searched_to_the_bottom_and_hidden_files_are_left(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "a/.hidden.png", ".git/d.png", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(find_images([str(tmp_path)]).sources) == ["a/c.JPG", "b.png"]


def test_folders_may_be_labels(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png", "top.png"):
        picture(tmp_path / name)
    found = find_images([str(tmp_path)], by_class=True).sources
    assert [source.cells for source in found] == [("cat",), ("dog",), ()]


def test_files_globs_lists_and_addresses_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.png", "deep/er/two.jpg", "three.png"):
        picture(tmp_path / name)
    (tmp_path / "list.txt").write_text("three.png\n\ns3://bucket/a%20b.png\n")
    found = find_images(["one.png", "deep/**/*.jpg", "list.txt", "http://host/five.png", "nowhere.png"])
    assert names(found.sources) == ["one.png", "deep/er/two.jpg", "three.png", "a b.png", "five.png"]
    assert found.missing == ["nowhere.png: no such file or folder."]


def test_a_csv_names_images_and_labels_and_what_is_missing_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "=a.png")
    (tmp_path / "x.csv").write_text("label,filename\ncat,=a.png\ndog,=a.png\ncat,gone.png\ncat,https://host/b.png\n")
    found = find_images([str(tmp_path / "x.csv")])
    assert [(s.relative, s.cells) for s in found.sources] == [("=a.png", ("cat", "dog")), ("b.png", ("cat",))]
    assert found.missing == ["gone.png: no such file next to the list."]


def test_the_same_file_named_twice_is_one_image(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert len(find_images([str(path), str(tmp_path)]).sources) == 1


def test_nothing_found_says_what_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"name a folder with .*\.png"):
        find_images([str(tmp_path)])


def test_labels_find_their_image_by_path_or_unique_name(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "y.png"):
        picture(tmp_path / name)
    (tmp_path / "l.csv").write_text("path,filename,label\na/x.png,x.png,cat\n,y.png,dog\n,x.png,dog\n,z.png,dog\n")
    found = with_labels(find_images([str(tmp_path)]), read_labels(tmp_path / "l.csv"))
    assert {s.relative: s.cells for s in found.sources} == {"a/x.png": ("cat",), "b/x.png": (), "y.png": ("dog",)}
    assert found.missing == ["z.png (in the labels file): no image has this name."]
    report = ImportReport()
    inspect(found.sources, {}, report, lambda _: None, ambiguous=found.ambiguous)
    assert report.missing == []
    picture(tmp_path / "b/x.png", 9)
    inspect(found.sources, {}, report, lambda _: None, ambiguous=found.ambiguous)
    assert report.missing == ["x.png (in the labels file): several images have this name; give the path."]


def test_labels_outside_the_config_stop_everything_and_are_all_named() -> None:
    sources = [Source("1.png", cells=("cow",)), Source("2.png", cells=("cow|hen",)), Source("3.png", cells=("a|b",))]
    with pytest.raises(InvalidInputError, match=r"'cow' \(2\), 'hen' \(1\).*it has cat, dog, a\|b"):
        check_labels(MANY, sources, "|")
    with pytest.raises(InvalidInputError, match="several labels for one image"):
        check_labels(SCHEMA, [Source("1.png", cells=("cat", "dog"))], "|")


def test_a_label_that_holds_the_separator_is_one_label() -> None:
    assert list(check_labels(MANY, [Source("1.png", cells=("a|b", "cat|dog"))], "|").values()) == [
        ("a|b", "cat", "dog")
    ]


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
    noise.save(tmp_path / "tiff.png", format="TIFF")
    picture(tmp_path / "whole.png")
    ready, report = inspected(tmp_path)
    assert [image.source.relative for image in ready] == ["whole.png"]
    reasons = dict(text.split(": ", 1) for text in report.unreadable)
    assert sorted(reasons) == [
        "cut.jpg", "cut.png", "cut.webp", "empty.png", "page.jpg", "tiff.png", "two\\nlines.gif"
    ]  # fmt: skip
    assert reasons["cut.jpg"].startswith("The image is truncated or damaged")
    assert reasons["empty.png"].startswith("The image file is empty")
    assert reasons["page.jpg"].startswith("The file is not an image")
    assert reasons["tiff.png"] == "Browsers cannot show TIFF: convert the image to PNG."


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


def test_a_second_run_imports_only_what_is_new() -> None:
    client, report = FakeProject(), ImportReport()
    import_images(1, SCHEMA, at(3), report, client)
    again = ImportReport()
    import_images(1, SCHEMA, at(5), again, client)
    assert (report.imported, again.imported, again.there) == (3, 2, 3)
    assert len(client.rows) == 5


def test_a_dry_run_changes_nothing() -> None:
    client, report = FakeProject(), ImportReport()
    import_images(1, SCHEMA, at(3), report, client, dry_run=True)
    assert (report.imported, client.rows) == (3, [])


def test_a_killed_runs_last_request_that_arrives_late_leaves_no_double() -> None:
    """It arrives after this run has looked at what is there, and before it is done."""
    client, report = FakeProject(), ImportReport()
    client.late = [{"data": {"image": f"https://host/{i}.png", "filename": f"{i}.png"}} for i in range(2)]
    import_images(1, SCHEMA, at(4), report, client)
    assert sorted(str(task.image) for task in client.rows) == [f"https://host/{i}.png" for i in range(4)]


def test_a_double_that_somebody_answered_otherwise_is_kept() -> None:
    client, report = FakeProject(), ImportReport()
    answered = {"data": {"image": "https://host/0.png"}, "annotations": [{"result": [{"value": {"choices": ["cat"]}}]}]}
    client.late = [{"data": {"image": "https://host/0.png"}}, answered]
    import_images(1, SCHEMA, at(2), report, client)
    assert len(client.rows) == 3
    assert [len(a) for a in client.given.values()] == [1]


@pytest.mark.parametrize("labels_as", ["annotations", "predictions"])
def test_labels_come_with_their_image_as_asked(labels_as: Any) -> None:
    client, report = FakeProject(), ImportReport()
    image = Ready(Source("0.png", address="https://host/0.png"), None, ("dog",))
    import_images(1, SCHEMA, [image], report, client, labels_as=labels_as)
    assert report.labelled == 1
    assert [a.labels for a in client.given.get(1, [])] == ([("dog",)] if labels_as == "annotations" else [])
    assert len(client.predictions[1]) == (labels_as == "predictions")


@pytest.fixture
def labelled() -> FakeProject:
    client = FakeProject()
    import_images(1, SCHEMA, at(4), ImportReport(), client)
    return client


def test_labels_for_existing_tasks_are_written_once(labelled: FakeProject) -> None:
    given = {"0.png": ["cat"], "https://host/1.png": ["dog"], "nobody.png": ["cat"]}
    first = import_labels(1, SCHEMA, given, labelled)
    second = import_labels(1, SCHEMA, given, labelled)
    assert (first.written, first.unknown) == (2, ["nobody.png"])
    assert (second.written, second.same, labelled.writes) == (0, 2, 2)


def test_another_label_is_kept_and_told_unless_it_is_to_be_replaced(labelled: FakeProject) -> None:
    import_labels(1, SCHEMA, {"0.png": ["cat"]}, labelled)
    kept = import_labels(1, SCHEMA, {"0.png": ["dog"]}, labelled)
    assert kept.differing == ["task 1: labelled 'cat', the file says 'dog'"]
    replaced = import_labels(1, SCHEMA, {"0.png": ["dog"]}, labelled, replace=True)
    assert replaced.replaced == 1
    assert [a.labels for a in labelled.given[1]] == [("dog",)]


def test_labels_that_do_not_fit_write_nothing(labelled: FakeProject) -> None:
    with pytest.raises(InvalidInputError, match="'cow'"):
        import_labels(1, SCHEMA, {"0.png": ["cat"], "1.png": ["cow"]}, labelled)
    with pytest.raises(InvalidInputError, match="two different labels"):
        import_labels(1, SCHEMA, {"0.png": ["cat"], "https://host/0.png": ["dog"]}, labelled)
    assert labelled.writes == 0


def test_labels_as_predictions_are_sent_once(labelled: FakeProject) -> None:
    first = import_labels(1, SCHEMA, {"0.png": ["cat"]}, labelled, labels_as="predictions")
    second = import_labels(1, SCHEMA, {"0.png": ["cat"]}, labelled, labels_as="predictions")
    assert (first.written, second.written, second.same) == (1, 0, 1)
