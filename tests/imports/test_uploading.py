"""Images and labels are brought in: each once, whatever was killed before."""

from typing import Any

import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.imports.annotations import import_labels
from ml_backend.imports.placement import Ready
from ml_backend.imports.sources import Source
from ml_backend.imports.uploading import ImportReport, check_labels, import_images
from ml_backend.labelstudio.results import accepted_result, annotation_result
from tests.imports.fake_project import MANY, SCHEMA, FakeProject, at, imported


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
    answered = {
        "data": {"image": "https://host/0.png"},
        "annotations": [{"result": annotation_result(SCHEMA, ["cat"])}],
    }
    client.late = [{"data": {"image": "https://host/0.png"}}, answered]
    import_images(1, SCHEMA, at(2), report, client)
    assert len(client.rows) == 3
    assert [len(a) for a in client.given.values()] == [1]


def test_a_double_goes_though_a_label_was_accepted_for_it_and_stays_where_only_the_first_has_one_that_was() -> None:
    accepted, given = accepted_result(SCHEMA, ["cat"], "c1"), annotation_result(SCHEMA, ["cat"])
    for first, second, kept in ((given, accepted, 1), (accepted, given, 2)):
        client = FakeProject()
        client.late = [
            {"data": {"image": "https://host/0.png"}, "annotations": [{"result": r}]} for r in (first, second)
        ]
        import_images(1, SCHEMA, at(1), ImportReport(), client)
        assert len([task for task in client.rows if task.image == "https://host/0.png"]) == kept


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
    return imported(4)


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
