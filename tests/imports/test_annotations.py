"""Labels onto tasks that exist: many at once, each task once, and nothing left behind."""

from pathlib import Path

import pytest

from ml_backend.errors import InvalidInputError, LabelStudioError
from ml_backend.imports.annotations import import_labels
from ml_backend.imports.sources import read_labels
from ml_backend.labelstudio import bulk_annotations
from ml_backend.labelstudio.bulk_annotations import CHUNK, FEW, MARK, write_annotations
from tests.imports.fake_project import MANY, SCHEMA, FakeProject, imported

SOME = 2 * FEW


def labels_of(client: FakeProject) -> dict[int, list[tuple[str, ...]]]:
    return {task_id: [a.labels for a in given] for task_id, given in client.given.items()}


def guess(version: str) -> dict[str, object]:
    return {"task": 1, "result": [], "score": 0.5, "model_version": version}


def test_many_labels_are_written_at_once_and_their_temporary_predictions_are_gone() -> None:
    client = imported(SOME)
    client.predictions[1] = [guess("v1-r1")]
    told: list[int] = []
    given = {f"{i}.png": ["cat" if i % 2 else "dog"] for i in range(SOME)}
    report = import_labels(1, SCHEMA, given, client, on_progress=told.append)
    assert (report.written, client.acts, sum(told)) == (SOME, 1, SOME)
    assert labels_of(client) == {i + 1: [("cat" if i % 2 else "dog",)] for i in range(SOME)}
    assert client.model_versions(1) == {"v1-r1": 1}
    assert import_labels(1, SCHEMA, given, client).same == SOME
    assert client.acts == 1


def test_a_dry_run_writes_and_deletes_nothing() -> None:
    client = imported(SOME)
    client.predictions[1] = [guess(MARK + "killed")]
    report = import_labels(1, SCHEMA, {f"{i}.png": ["cat"] for i in range(SOME)}, client, dry_run=True)
    assert (report.written, client.acts, client.given) == (SOME, 0, {})
    assert client.model_versions(1) == {MARK + "killed": 1}


def test_what_a_killed_run_left_is_deleted_even_where_nothing_is_to_be_written() -> None:
    client = imported(SOME)
    client.predictions[1] = [guess(MARK + "killed"), guess("somebody's")]
    write_annotations(1, SCHEMA, {}, client)
    assert client.model_versions(1) == {"somebody's": 1}


def test_an_answered_task_keeps_its_answer_and_a_skipped_one_gets_the_label() -> None:
    client = imported(SOME)
    client.create_annotation(1, [])
    client.create_annotation(2, [])
    ((blank,), (skip,)) = (client.given[1], client.given[2])
    object.__setattr__(skip, "was_cancelled", True)
    done = write_annotations(1, SCHEMA, dict.fromkeys(range(1, SOME + 1), ("cat",)), client)
    assert (done.answered, client.given[1]) == ([1], [blank])
    assert (2 in done.written, client.acts) == (True, 1)
    assert [a.labels for a in client.given[2] if not a.was_cancelled] == [("cat",)]


def test_none_of_them_is_written_at_once_like_any_label() -> None:
    client = imported(SOME)
    done = write_annotations(1, MANY, dict.fromkeys(range(1, SOME + 1), ()), client)
    assert len(done.written) == SOME
    assert set(map(tuple, labels_of(client).values())) == {((),)}


def test_what_label_studio_leaves_out_is_asked_for_again_and_then_written_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = imported(SOME)
    client.swallowed = 3
    done = write_annotations(1, SCHEMA, dict.fromkeys(range(1, SOME + 1), ("dog",)), client)
    assert sorted(done.written) == list(range(1, SOME + 1))
    assert labels_of(client) == {i: [("dog",)] for i in range(1, SOME + 1)}
    assert "one by one" in caplog.text
    assert not client.model_versions(1)


def test_a_label_studio_that_cannot_do_it_at_once_gets_them_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    client = imported(SOME)

    def refuse(*_: object, **__: object) -> None:
        raise LabelStudioError("no such action")

    monkeypatch.setattr(client, "act", refuse)
    done = write_annotations(1, SCHEMA, dict.fromkeys(range(1, SOME + 1), ("dog",)), client)
    assert sorted(done.written) == list(range(1, SOME + 1))
    assert not client.model_versions(1)


def test_labels_the_config_does_not_have_or_several_where_it_asks_for_one_write_nothing() -> None:
    client = imported(SOME)
    for wrong in (("cow",), ("cat", "dog"), ()):
        labels = dict.fromkeys(range(1, SOME), ("cat",)) | {SOME: wrong}
        with pytest.raises(InvalidInputError, match="Nothing was written"):
            write_annotations(1, SCHEMA, labels, client)
    assert (client.given, client.acts, client.model_versions(1)) == ({}, 0, {})


def test_many_chunks_are_told_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_annotations, "CHUNK", 8)
    monkeypatch.setattr(bulk_annotations, "PIECE", 3)
    client, told, tidied = imported(SOME), list[int](), list[int]()
    labels = dict.fromkeys(range(1, SOME + 1), ("cat",))
    write_annotations(1, SCHEMA, labels, client, on_progress=told.append, on_tidy=tidied.append)
    assert told == [8, 8, 4]
    assert sorted(tidied) == [1, 2, 2, 3, 3, 3, 3, 3]
    assert CHUNK > 8


def test_a_persons_label_takes_the_place_of_one_that_was_accepted_of_a_model() -> None:
    """Whether it says the same or not; one that somebody has made theirs meanwhile is theirs."""
    client = imported(SOME)
    write_annotations(1, SCHEMA, dict.fromkeys(range(1, SOME + 1), ("cat",)), client, certificate="c1")
    report = import_labels(1, SCHEMA, {"0.png": ["cat"], "1.png": ["dog"]}, client)
    assert (report.written, report.same, report.differing) == (2, 0, [])
    said = {task_id: (a.labels, a.accepted) for task_id, (a,) in client.given.items()}
    theirs = {1: (("cat",), None), 2: (("dog",), None)}
    assert said == {**dict.fromkeys(range(1, SOME + 1), (("cat",), "c1")), **theirs}
    assert import_labels(1, SCHEMA, {"0.png": ["cat"], "1.png": ["dog"]}, client).same == 2

    real = client.annotation

    def meanwhile(annotation_id: int) -> dict[str, object] | None:
        found = real(annotation_id)
        return None if found is None else found | {"lead_time": 3.0}

    client.annotation = meanwhile  # type: ignore[method-assign]
    report = import_labels(1, SCHEMA, {"2.png": ["dog"]}, client)
    assert (report.written, report.differing) == (0, ["task 3: somebody labelled it meanwhile"])
    assert [a.labels for a in client.given[3]] == [("cat",)]


def test_accepted_labels_in_an_export_are_a_models_for_who_imports_it(tmp_path: Path) -> None:
    table = tmp_path / "predictions.csv"
    table.write_text("filename,label,origin\n0.png,cat,human\n1.png,dog,accepted\n2.png,dog,predicted\n")
    assert {name: cells for name, cells in read_labels(table).items() if cells} == {"0.png": ("cat",)}
    assert len([cells for cells in read_labels(table, guesses=True).values() if cells]) == 3
