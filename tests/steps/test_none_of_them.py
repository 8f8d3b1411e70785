"""Nothing chosen where several choices may be: an answer like any other, from Label Studio or a CSV to the model and out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.exports.label_rows import Tally, export_rows
from ml_backend.imports.annotations import import_labels
from ml_backend.imports.inspection import inspect
from ml_backend.imports.sources import find_images, read_labels
from ml_backend.imports.uploading import ImportReport, check_labels, import_images
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import annotation_from_json
from ml_backend.learning.training import train_head
from ml_backend.records import LabelSchema
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from tests.conftest import HOST, SCHEMA, full, known, names
from tests.exports.test_label_rows import row
from tests.fakes import FakeLabelStudio
from tests.imports.fake_project import MANY, FakeProject, imported
from tests.imports.fake_project import SCHEMA as ONE

SEVERAL = LabelSchema("choice", "image", "image", ("cat", "dog"), multiple=True)


def test_an_empty_answer_is_a_label_that_is_counted_and_learned_from(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=SEVERAL)
    none, dog, _waiting = (studio.create_task(1).id for _ in range(3))
    studio.annotate(none)
    studio.annotate(dog, "dog")
    report = full(ledger, project, studio)
    assert report.labels_added == 2
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
    full(ledger, project, studio)
    counts = ledger.counts(project)
    assert (counts.labelled, counts.blanks) == (0, 1)
    assert not ledger.pool(project).labelled.any()


def asked_for_several(ledger: Ledger, studio: FakeLabelStudio) -> Project:
    """A project with one blank answer, given while one choice was asked for, whose config allows several by now."""
    one = known(ledger)
    studio.annotate(studio.create_task(1).id)
    full(ledger, one, studio)
    project = known(ledger, schema=SEVERAL)
    full(ledger, project, studio)
    return known(ledger, schema=SEVERAL)


def test_a_blank_answer_does_not_become_none_when_several_may_be_chosen(
    ledger: Ledger, studio: FakeLabelStudio
) -> None:
    project = asked_for_several(ledger, studio)
    assert names(ledger, project) == {}
    assert ledger.counts(project).blanks == 1, "told"
    full(ledger, project, studio)
    assert ledger.counts(project).blanks == 1
    none = studio.annotate(studio.create_task(1).id)
    full(ledger, project, studio)
    assert names(ledger, project) == {none.task_id: ()}
    assert ledger.counts(project).blanks == 1


def test_an_empty_answer_counts_again_when_several_may_be_chosen_again(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=SEVERAL)
    none = studio.annotate(studio.create_task(1).id)
    full(ledger, project, studio)
    one = known(ledger, schema=SCHEMA)
    assert not ledger.pool(one).labelled.any(), "before anything is judged anew, too"
    blank = studio.annotate(studio.create_task(1).id)
    full(ledger, one, studio)
    assert ledger.counts(one).blanks == 2
    assert names(ledger, one) == {}
    project = known(ledger, schema=SEVERAL)
    full(ledger, project, studio)
    assert ledger.counts(project).blanks == 1
    assert names(ledger, project) == {none.task_id: ()}, blank


def test_a_blank_answer_read_as_the_label_config_changes_is_not_taken_for_none(
    ledger: Ledger, studio: FakeLabelStudio
) -> None:
    full(ledger, known(ledger), studio)
    early = studio.annotate(studio.create_task(1).id)  # which config it answers, nobody can tell
    project = known(ledger, schema=SEVERAL)
    ledger.reconcile(project, studio.listing(1), full=False)
    full(ledger, project, studio)
    assert (names(ledger, project), ledger.counts(project).blanks) == ({}, 1)
    project = known(ledger, schema=replace(SEVERAL, labels=("cat", "dog", "owl")))
    late = studio.annotate(studio.create_task(1).id)
    full(ledger, project, studio)
    assert names(ledger, project) == {late.task_id: ()}, f"a label more changes nothing, and {early.id} is as it was"


def test_a_blank_answer_that_is_submitted_again_is_none(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = asked_for_several(ledger, studio)
    (blank,) = studio.annotations.values()
    studio.update(blank.id, ground_truth=True)
    full(ledger, project, studio)
    assert names(ledger, project) == {}, "a mark as ground truth is no answer"
    studio.update(blank.id, ground_truth=True)
    full(ledger, project, studio)
    assert names(ledger, project) == {blank.task_id: ()}


def test_an_answer_to_another_control_is_not_none(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger, schema=SEVERAL)
    other = studio.annotate(studio.create_task(1).id, elsewhere=True)
    full(ledger, project, studio)
    assert (names(ledger, project), ledger.counts(project).blanks) == ({}, 1)
    studio.update(other.id)
    full(ledger, project, studio)
    assert names(ledger, project) == {other.task_id: ()}, "it says nothing at all by now"


def test_an_empty_answer_to_another_choices_is_not_none_of_these(ledger: Ledger, studio: FakeLabelStudio) -> None:
    studio.annotate(studio.create_task(1).id)
    full(ledger, known(ledger, schema=SEVERAL), studio)
    project = known(ledger, schema=replace(SEVERAL, from_name="mood"))
    full(ledger, project, studio)
    assert (names(ledger, project), ledger.counts(project).blanks) == ({}, 1)


def item(name: str, kind: str, **value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": kind, "value": value}


@pytest.mark.parametrize(
    ("result", "none"),
    [
        ([], True),
        (None, True),
        ([item("guess", "textarea", text=["Model's guess: cat, 80% sure"])], True),
        ([item("choice", "choices", choices=[])], True),
        ([item("mood", "choices", choices=["calm"])], False),
        ([item("mood", "rating", rating=3), item("guess", "textarea", text=["cat"])], False),
        ([item("choice", "taxonomy", taxonomy=[["cat"]])], False),
        ([item("choice", "choices", choices=[{}])], False),
        ([item("choice", "choices")], False),
        ([item("guess", "textarea")["value"], "?"], False),
        ({"choices": []}, False),
        ("cat", False),
    ],
)
def test_only_a_result_that_says_nothing_at_all_is_none(result: Any, none: bool) -> None:
    moment = "2026-01-01T00:00:00Z"
    raw = {"id": 1, "task": 1, "created_at": moment, "updated_at": moment, "result": result}
    given = annotation_from_json(SEVERAL, raw)
    assert (given.labels, given.none_of) == ((), "choice" if none else None)
    assert annotation_from_json(SEVERAL, raw | {"was_cancelled": True}).none_of is None


@pytest.mark.parametrize(
    ("multiple", "said"), [(False, "as one choice is asked for"), (True, "given since the label config let several")]
)
def test_blank_answers_are_told_with_what_to_do(tmp_path: Path, multiple: bool, said: str) -> None:
    services = Services.open(Settings(data_dir=tmp_path, label_studio_url=HOST))
    project = services.registry.register(HOST, 1, label_config(("cat", "dog"), multiple=multiple), created=None)
    studio = FakeLabelStudio()
    studio.annotate(studio.create_task(1).id, elsewhere=True)
    full(services.ledger, project, studio)
    problem = services.status.of(project)["problems"][-1]
    services.database.close()
    assert problem.startswith("1 answer has nothing chosen and does not count")
    assert said in problem


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


def test_an_empty_cell_of_a_csv_is_a_label_where_several_may_be_chosen(tmp_path: Path) -> None:
    labelled = imported(4)
    given = read_labels(csv(tmp_path, "filename,label\n0.png,\n1.png,cat\n"))
    assert given == {"0.png": ("",), "1.png": ("cat",)}
    report = import_labels(1, MANY, given, labelled)
    assert (report.written, report.none) == (2, 1)
    assert import_labels(1, MANY, given, labelled).same == 2
    differing = import_labels(1, MANY, {"0.png": ("dog",)}, labelled)
    assert len(differing.differing) == 1, "an empty answer is one, and is not overwritten"


def test_an_empty_cell_of_a_csv_is_no_label_where_one_has_to_be_chosen(tmp_path: Path) -> None:
    labelled = imported(4)
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
