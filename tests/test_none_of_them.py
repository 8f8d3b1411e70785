"""Nothing chosen where several choices may be: an answer like any other, from Label Studio or a CSV to the model and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ml_backend.exports.label_rows import Tally, export_rows
from ml_backend.imports.annotations import import_labels
from ml_backend.imports.inspection import inspect
from ml_backend.imports.sources import find_images, read_labels
from ml_backend.imports.uploading import ImportReport, check_labels, import_images
from ml_backend.learning.training import train_head
from ml_backend.records import LabelSchema
from ml_backend.store.ledger import Ledger
from tests.conftest import SCHEMA, full, known, names
from tests.fakes import FakeLabelStudio
from tests.test_export import row
from tests.test_importing import MANY, FakeProject, labelled
from tests.test_importing import SCHEMA as ONE

__all__ = ["labelled"]

SEVERAL = LabelSchema("choice", "image", "image", ("cat", "dog"), multiple=True)


def test_an_empty_answer_is_a_label_that_is_counted_and_learned_from(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=SEVERAL)
    none, dog, _waiting = (studio.create_task(1).id for _ in range(3))
    studio.annotate(none)
    studio.annotate(dog, "dog")
    report = full(ledger, project, studio)
    assert (report.labels_added, report.blanks) == (2, 0)
    assert names(ledger, project) == {none: (), dog: ("dog",)}
    counts = ledger.counts(project)
    assert (counts.labelled, counts.blanks) == (2, 0)
    rows = ledger.pool(project)
    assert rows.labelled.tolist() == [True, True, False]
    assert rows.labels.tolist() == [-1, 1, -1]
    assert rows.pairs.tolist() == [[1, 1]]


def test_an_empty_answer_to_one_choice_is_blank_and_counted(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    blank = studio.create_task(1).id
    studio.annotate(blank)
    assert full(ledger, project, studio).blanks == 1
    counts = ledger.counts(project)
    assert (counts.labelled, counts.blanks) == (0, 1)
    assert not ledger.pool(project).labelled.any()


def test_whether_an_empty_answer_counts_follows_the_label_config(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task = studio.create_task(1).id
    studio.annotate(task)
    full(ledger, project, studio)
    project = known(ledger, schema=SEVERAL)
    full(ledger, project, studio)
    assert names(ledger, project) == {task: ()}
    back = known(ledger, schema=SCHEMA)
    assert not ledger.pool(back).labelled.any(), "before anything is judged anew, too"
    full(ledger, back, studio)
    assert names(ledger, back) == {}


def test_a_model_learns_that_nothing_is_on_a_blank_image() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 30)
    features = np.eye(3, 8)[kinds] + rng.normal(0, 0.05, (90, 8))
    targets = np.array([[True, False], [False, True], [False, False]])[kinds]
    head = train_head(features, targets, ("cat", "dog"), seed=0).head
    assert (head.predict_proba(np.eye(3, 8)) > 0.5).tolist() == [[True, False], [False, True], [False, False]]


def test_an_empty_label_is_exported_as_such_in_every_form() -> None:
    rows = [row(1, labels=()), row(2, labels=None, round=1), row(3, labels=("cat", "dog"))]
    tally = Tally()
    assert [r["label"] for r in export_rows(rows, tally=tally, include_unlabelled=True)] == ["", None, "cat|dog"]
    assert tally.labelled == 2
    assert [r["label"] for r in export_rows(rows, long=True)] == ["", "cat", "dog"]


def csv(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_an_empty_cell_of_a_csv_is_a_label_where_several_may_be_chosen(tmp_path: Path, labelled: FakeProject) -> None:
    given = read_labels(csv(tmp_path, "filename,label\n0.png,\n1.png,cat\n"))
    assert given == {"0.png": ("",), "1.png": ("cat",)}
    report = import_labels(1, MANY, given, labelled)
    assert (report.written, report.none) == (2, 1)
    assert import_labels(1, MANY, given, labelled).same == 2
    differing = import_labels(1, MANY, {"0.png": ("dog",)}, labelled)
    assert len(differing.differing) == 1, "an empty answer is one, and is not overwritten"


def test_an_empty_cell_of_a_csv_is_no_label_where_one_has_to_be_chosen(tmp_path: Path, labelled: FakeProject) -> None:
    report = import_labels(1, ONE, read_labels(csv(tmp_path, "filename,label\n0.png,\n1.png,cat\n")), labelled)
    assert (report.written, report.none) == (1, 0)


def test_a_row_exported_without_an_answer_is_not_imported_as_one(tmp_path: Path) -> None:
    text = "filename,label,annotation_id\n0.png,,\n1.png,,7\n2.png,cat,8\n"
    assert read_labels(csv(tmp_path, text)) == {"0.png": (), "1.png": ("",), "2.png": ("cat",)}


def test_images_come_with_an_empty_label_or_with_none_at_all(tmp_path: Path) -> None:
    listed = csv(tmp_path, "image,label\nhttps://host/0.png,\nhttps://host/1.png,cat\n")
    (tmp_path / "more.txt").write_text("https://host/2.png\n")
    found = find_images([str(listed), str(tmp_path / "more.txt")])
    labels, report, project = check_labels(MANY, found.sources, "|"), ImportReport(), FakeProject()
    import_images(1, MANY, inspect(found.sources, labels, report, lambda _: None), report, project)
    assert (report.labelled, report.none) == (2, 1)
    assert {task: [a.labels for a in given] for task, given in project.given.items()} == {1: [()], 2: [("cat",)]}
    assert len(project.rows) == 3
