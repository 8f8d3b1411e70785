"""Finding images and labels: folders, files, globs, lists, CSV files and addresses."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.imports.inspection import inspect
from ml_backend.imports.sources import Source, find_images, read_labels, with_labels
from ml_backend.imports.uploading import ImportReport
from tests.imports.fake_project import picture


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


@pytest.mark.parametrize("guesses", [False, True])
def test_guesses_of_a_model_are_no_answers_of_people(tmp_path: Path, guesses: bool) -> None:
    """As `export predictions` writes them; an image without a guess has no label, not none of them."""
    (tmp_path / "p.csv").write_text("filename,label,origin\na.png,cat,human\nb.png,dog,predicted\nc.png,,\n")
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    guessed = ("dog",) if guesses else ()
    assert read_labels(tmp_path / "p.csv", guesses=guesses) == {"a.png": ("cat",), "b.png": guessed, "c.png": ()}
    found = find_images([str(tmp_path / "p.csv")], guesses=guesses)
    assert [source.cells for source in found.sources] == [("cat",), guessed, ()]


def test_another_meaning_of_origin_takes_no_label_away(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("filename,label,origin\na.png,cat,site 1\nb.png,dog,\n")
    assert read_labels(tmp_path / "l.csv") == {"a.png": ("cat",), "b.png": ("dog",)}
