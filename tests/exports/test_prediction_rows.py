"""Every task as a row: whose label it is, what a guess about a labelled image is worth, and one version to the end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_backend.errors import InvalidInputError, OtherLabelsError
from ml_backend.exports import prediction_rows as module
from ml_backend.exports.guesses import Answering
from ml_backend.exports.missing_vectors import without_vector
from ml_backend.exports.prediction_rows import PredictionTally, check_separator, columns_of, prediction_rows
from ml_backend.learning.fold_heads import FILE as FOLD_HEADS
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.head import Head
from ml_backend.learning.record import FILE as RECORD
from ml_backend.learning.record import Record, image_keys
from ml_backend.records import Annotation, LabelSchema, Query, Task
from ml_backend.store.rows import LedgerRow
from ml_backend.store.version_meta import VersionMeta
from ml_backend.tabular import open_table
from tests.bench import Bench
from tests.exports.test_label_rows import row

MEASURED, LABELLED = 20, 60
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """v1 of 120 tasks has learned from 60 labels; 20 of these are held out."""
    made = Bench(tmp_path_factory.mktemp("one") / "data", measured=MEASURED)
    made.label(*range(1, LABELLED + 1))
    made.turn()
    made.services.database.close()
    return made


def version(bench: Bench, number: int = 1) -> Answering:
    services = bench.services
    return Answering.load(bench.project, number, services.predictor, services.versions, services.features)


def rows(bench: Bench, **options: Any) -> dict[int, dict[str, Any]]:
    found = prediction_rows(bench.services.ledger.rows(bench.project), version(bench), **options)
    return {told["task_id"]: told for told in found}


def probabilities(bench: Bench, head: Head, task: int) -> list[float]:
    features, encoder = bench.services.features, version(bench).model.encoder.id
    at = features.rows(encoder, [bench.hash_of(task)])
    return [float(p) for p in head.predict_proba(features.matrix(encoder)[at])[0]]


def test_every_task_has_a_row_with_the_label_of_people_or_else_the_guess(bench: Bench) -> None:
    told = rows(bench)
    assert list(told) == bench.ids
    assert [told[i]["origin"] for i in bench.ids] == ["human"] * LABELLED + ["predicted"] * (120 - LABELLED)
    assert [told[i]["label"] for i in bench.ids[:LABELLED]] == [bench.truth[i] for i in bench.ids[:LABELLED]]
    guesses = bench.guesses()
    assert [told[i]["label"] for i in bench.ids[LABELLED:]] == [guesses[i] for i in bench.ids[LABELLED:]]
    assert told[120]["version"] == "v1"
    assert 0.33 < told[120]["confidence"] <= 1
    assert (told[120]["content_hash"], told[120]["image"]) == (bench.hash_of(120), "/120.png")
    assert told[1]["split"] == "held-out"
    assert told[120]["split"] == "train"


def test_a_label_that_the_version_has_learned_from_has_no_guess(bench: Bench) -> None:
    told = rows(bench, probabilities=True)
    learned = [i for i in bench.ids if told[i]["learned"]]
    assert learned == list(range(MEASURED + 1, LABELLED + 1))
    for name in ("prediction", "agrees", "confidence", "version", "error", "p:cat"):
        assert {told[i].get(name) for i in learned} == {None}


def test_a_held_out_label_is_answered_for_by_the_fold_head_that_has_not_seen_it(bench: Bench) -> None:
    told = rows(bench, probabilities=True)
    folder = bench.versions[0].folder
    served, asked = Head.load(folder), FoldHeads.load(folder)
    for task in range(1, MEASURED + 1):
        fold = int(image_keys(np.array([bench.hash_of(task)], "S64"))[0] % 5)
        expected = probabilities(bench, asked.heads[fold], task)
        assert [told[task][f"p:{name}"] for name in served.classes] == pytest.approx(
            expected, rel=1e-5
        )  # in single precision, asked one by one or all at once
        assert expected != pytest.approx(probabilities(bench, served, task), abs=1e-6)
        assert told[task]["confidence"] == pytest.approx(max(expected))
        assert told[task]["agrees"] == (told[task]["prediction"] == bench.truth[task])


def test_the_guess_for_a_label_given_since_is_that_of_the_served_head_and_told_to_differ(bench: Bench) -> None:
    wrong = next(kind for kind in ("cat", "dog", "owl") if kind != rows(bench)[100]["label"])
    before = rows(bench)[100]["label"]
    bench.label(100, as_=wrong)
    bench._read()
    told = rows(bench)[100]
    assert (told["label"], told["origin"], told["prediction"], told["agrees"]) == (wrong, "human", before, False)
    assert told["learned"] is False


def test_a_version_that_does_not_say_what_it_learned_from_makes_no_guess_about_labels(bench: Bench) -> None:
    (bench.versions[0].folder / RECORD).unlink()
    told = rows(bench)
    assert all(told[i]["learned"] for i in range(MEASURED + 1, LABELLED + 1))
    assert told[120]["prediction"]


def test_a_version_of_an_earlier_release_is_asked_itself_about_held_out_labels(bench: Bench) -> None:
    """It has no fold heads, and has learned from none of them."""
    folder = bench.versions[0].folder
    known = Record.load(folder)
    assert known is not None
    known.without_apart().save(folder)
    (folder / FOLD_HEADS).unlink()
    told, head = rows(bench), Head.load(folder)
    for task in range(1, MEASURED + 1):
        assert told[task]["confidence"] == pytest.approx(max(probabilities(bench, head, task)))
    assert [i for i in bench.ids if told[i]["learned"]] == list(range(MEASURED + 1, LABELLED + 1))


def test_a_model_from_elsewhere_has_a_guess_about_every_label(bench: Bench) -> None:
    model = bench.services.predictor.load(bench.project, 1)

    def write(folder: Path) -> None:
        model.head.save(folder)
        model.encoder.save(folder)

    bench.services.versions.publish(bench.project, 2, write, VersionMeta(mode="import"))
    bench.services.versions.publish(bench.project, 3, write, VersionMeta(mode="import", knows_labels=True))
    ledger = bench.services.ledger
    foreign, own = (list(prediction_rows(ledger.rows(bench.project), version(bench, number))) for number in (2, 3))
    assert all(r["prediction"] for r in foreign)
    assert [r["task_id"] for r in own if r["learned"]] == list(range(MEASURED + 1, LABELLED + 1))


def test_an_image_of_a_learned_label_that_is_another_task_has_a_guess(bench: Bench) -> None:
    bench.services.ledger.set_content_hash(bench.project, {110: bench.hash_of(LABELLED)})
    told = rows(bench)
    assert (told[110]["origin"], told[LABELLED]["learned"]) == ("predicted", True)
    assert told[110]["label"] == bench.truth[LABELLED]


def test_what_has_no_vector_has_no_guess_and_says_why(bench: Bench) -> None:
    ledger = bench.services.ledger
    ledger.set_image_errors(bench.project, {118: "It is empty.\n", 1: "It is a web page."})
    ledger.set_content_hash(bench.project, {119: "ab" * 32})
    bench.ids = [*bench.ids, 121]
    bench._read()
    tally = PredictionTally()
    told = rows(bench, tally=tally)
    assert [(told[i]["label"], told[i]["origin"], told[i]["error"]) for i in (118, 119, 121)] == [
        (None, None, "It is empty.\\n"),
        (None, None, "The image has not been encoded for v1 yet."),
        (None, None, "The image has not been read yet."),
    ]
    assert (told[1]["label"], told[1]["origin"], told[1]["error"]) == (bench.truth[1], "human", "It is a web page.")
    assert told[1]["learned"] is None, "its image is gone, by which that would be known"
    assert (tally.rows, tally.human, tally.predicted, tally.without_label, tally.unread) == (121, 60, 58, 3, 2)
    said = " ".join(tally.warnings(spreadsheet=False, version="v1"))
    assert "2 tasks have no label because the image was not read, or not encoded for v1" in said
    assert "2 images are exported here, but cannot be read" in said
    missing = without_vector(bench.project, version(bench).model.encoder.id, ledger, bench.services.features)
    assert list(missing) == [119, 121], "what cannot be read is not tried again"


def test_without_a_model_there_are_the_labels_of_people(bench: Bench) -> None:
    tally = PredictionTally()
    told = list(prediction_rows(bench.services.ledger.rows(bench.project), None, tally=tally))
    assert (tally.human, tally.predicted, tally.without_label) == (60, 0, 60)
    assert {r["error"] for r in told[LABELLED:]} == {"There is no model yet."}
    assert {r["error"] for r in told[:LABELLED]} == {None}
    (said,) = tally.warnings(spreadsheet=False, version=None)
    assert "sync run" in said


def test_the_guess_for_a_skipped_image_is_marked(bench: Bench) -> None:
    (task,) = bench.services.ledger.tasks(bench.project, [120])
    skip = Annotation(900, 120, (), True, False, 1, NOW, NOW)
    bench.services.ledger.reconcile(bench.project, [(task, [skip])], full=False)
    tally = PredictionTally()
    told = rows(bench, tally=tally)
    assert [i for i in told if told[i]["skipped"]] == [120]
    assert told[120]["origin"] == "predicted"
    assert "1 label is the guess for an image that somebody skipped" in " ".join(
        tally.warnings(spreadsheet=False, version="v1")
    )


def test_one_version_answers_to_the_end_and_tasks_are_those_of_the_beginning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 20)
    monkeypatch.setattr("ml_backend.store.ledger.STREAM", 20)
    expected = rows(bench, probabilities=True)
    services = bench.services
    running = prediction_rows(services.ledger.rows(bench.project), version(bench), probabilities=True)
    told = [next(running)]
    bench.label(*range(61, 90), as_="owl")
    bench.turn()
    assert bench.versions[0].number == 2
    services.versions.promote(bench.project, 2)
    services.versions.folders.remove(bench.project.id, 1)
    bench.ids = bench.ids[:100]
    bench._read()
    told += running
    assert {r["task_id"]: r for r in told} == expected
    assert bench.project.id == services.ledger.projects()[0].id


def test_a_version_of_other_labels_answers_in_those_of_the_project(bench: Bench) -> None:
    bench.configure(("owl", "label", "cat"))
    told = rows(bench, probabilities=True)
    assert [name for name in told[120] if name.startswith("p:")] == ["p:owl", "p:label", "p:cat"]
    assert told[120]["p:label"] == 0
    assert sum(told[120][f"p:{name}"] for name in ("owl", "label", "cat")) == pytest.approx(1, abs=1e-6)
    assert {told[i]["label"] for i in bench.ids[LABELLED:]} <= {"owl", "cat"}
    bench.configure(("red", "green"))
    with pytest.raises(OtherLabelsError, match="v1 was trained for other labels"):
        version(bench)


def test_a_damaged_version_is_named(bench: Bench) -> None:
    (bench.versions[0].folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(InvalidInputError, match="not a complete model version"):
        version(bench)


def test_vectors_of_another_encoder_are_not_taken_for_the_versions_own(bench: Bench) -> None:
    services = bench.services
    services.features.drop(version(bench).model.encoder.id)
    assert {told["error"] for task, told in rows(bench).items() if task > LABELLED} == {
        "The image has not been encoded for v1 yet."
    }
    missing = without_vector(bench.project, version(bench).model.encoder.id, services.ledger, services.features)
    assert list(missing) == bench.ids


def test_a_column_of_probabilities_is_like_no_other_whatever_the_class_is_called() -> None:
    labels = ("label", "p:label", "task_id", "p:", "=1+1", "new\nline", "Label")
    columns = columns_of(LabelSchema("c", "i", "image", labels), probabilities=True)
    assert len(columns) == len(columns_of(LabelSchema("c", "i", "image", labels), probabilities=False)) + len(labels)
    assert list(columns)[-len(labels) :] == [f"p:{name}" for name in labels]


def test_no_more_than_a_page_of_tasks_is_held() -> None:
    taken = 0

    def counted() -> Iterator[LedgerRow]:
        nonlocal taken
        for number in range(10 * module.PAGE):
            taken = number + 1
            yield row(number)

    for place, _ in enumerate(prediction_rows(counted(), None)):
        assert taken <= (place // module.PAGE + 1) * module.PAGE


def test_a_table_of_no_tasks_has_its_columns(tmp_path: Path) -> None:
    columns = columns_of(LabelSchema("c", "i", "image", ("cat", "dog")), probabilities=True)
    for form in ("csv", "jsonl", "parquet"):
        with open_table(tmp_path / f"x.{form}", columns, form) as write:
            for told in prediction_rows([], None, probabilities=True):
                write(told)
    for frame in (pd.read_csv(tmp_path / "x.csv"), pd.read_parquet(tmp_path / "x.parquet")):
        assert (list(frame.columns), len(frame)) == (list(columns), 0)
    assert (tmp_path / "x.jsonl").read_bytes() == b""


def test_several_labels_are_joined_and_none_of_them_is_an_answer(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", multiple=True, measured=0)
    bench.label(*range(1, 61))
    bench.answers[1], bench.answers[2] = ("cat", "dog"), ("cat", "owl")
    bench.turn()
    told = rows(bench, separator=";")
    assert [told[i]["label"] for i in (1, 2, 3)] == ["cat;dog", "cat;owl", "cat"]
    assert [told[i]["origin"] for i in (1, 120)] == ["human", "predicted"]
    bench.answers[100] = ()
    with pytest.raises(InvalidInputError, match="choose another --separator"):
        rows(bench, separator="a")
    bench.services.database.close()


def test_a_separator_that_is_part_of_a_label_is_refused_before_any_work() -> None:
    labels = ("a|b", "c")
    check_separator(LabelSchema("c", "i", "image", labels), "|")
    with pytest.raises(InvalidInputError, match=r"'a\|b'"):
        check_separator(LabelSchema("c", "i", "image", labels, multiple=True), "|")


def test_names_that_are_formulas_are_warned_of_with_the_guess_among_them() -> None:
    tally = PredictionTally()
    list(prediction_rows([row(1, "=1+1.png"), row(2, labels=("@x",))], None, tally=tally))
    (said,) = tally.warnings(spreadsheet=False, version="v1")
    assert said.startswith("2 rows have a cell that starts with")
    assert tally.warnings(spreadsheet=True, version="v1") == []


def test_a_record_in_any_order_is_searched(bench: Bench) -> None:
    """It may come with somebody else's model."""
    expected = rows(bench)
    folder = bench.versions[0].folder
    known = Record.load(folder)
    assert known is not None
    Record(
        known.images[::-1].copy(), known.labels[::-1].copy(), known.right[::-1].copy(), known.apart[::-1].copy()
    ).save(folder)
    assert rows(bench) == expected


def test_a_task_without_an_image_says_so() -> None:
    nothing = LedgerRow(Task(1, None, {}), "train", None, None, conflict=False, label=None)
    (told,) = prediction_rows([nothing], None)
    assert (told["filename"], told["image"], told["label"]) == ("", None, None)


def test_a_label_that_was_accepted_stands_with_its_certificate_and_the_guess_beside_it(bench: Bench) -> None:
    accepted = Annotation(900, 120, ("owl",), False, False, 1, NOW, NOW, accepted="c1")
    ledger, project = bench.services.ledger, bench.project
    ledger.reconcile(project, [(Task(120, "/120.png", {"image": "/120.png"}), [accepted])], full=False)
    tally = PredictionTally()
    told = rows(bench, tally=tally)[120]
    assert (told["label"], told["origin"], told["certificate"], told["learned"]) == ("owl", "accepted", "c1", None)
    assert told["prediction"] == bench.truth[120] != "owl"
    assert told["agrees"] is None
    assert (tally.human, tally.accepted, tally.predicted, tally.without_label) == (LABELLED, 1, 120 - LABELLED - 1, 0)


def test_a_label_that_people_gave_for_an_audit_is_told_as_audited(bench: Bench) -> None:
    asked = [Query(1, 0, "audit", 0.0, "drawn at random")]
    bench.services.ledger.open_round(bench.project, version=1, strategy="audit", seed=0, queries=asked)
    tally = PredictionTally()
    told = rows(bench, tally=tally)
    assert [told[i]["origin"] for i in (1, 2, 120)] == ["audited", "human", "predicted"]
    assert tally.human == LABELLED
