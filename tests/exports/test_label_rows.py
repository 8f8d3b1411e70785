"""Labels as rows, and rows as files: exactly what was labelled, whatever it is called."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.exports.label_rows import COLUMNS, MINIMAL, OF_MODEL, Tally, export_rows, write_csv
from ml_backend.records import AcceptedLabel, Label, Task
from ml_backend.store.rows import LedgerRow
from ml_backend.tabular import form_of, guarded, open_table, read_csv, runs_in_a_spreadsheet, unguarded
from ml_backend.task_names import names_of_tasks, task_filename

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NASTY = [
    "plain.png", "with space.png", "brackets (1) [2].png", 'quo"te.png', "com,ma.png", "=1+1.png", '=HYPERLINK("x").png',
    "+1.png", "-x.png", "@home.jpg", "日本語.png", "ключ.png", "007", "NA", "null", "'apostrophe.png", "'=both.png",
    "semi;colon.png", "new\nline.png", " leading.png", "emoji 🐦.png",
]  # fmt: skip


def row(task_id: int, *names: str, labels: tuple[str, ...] | None = ("cat",), **kwargs: Any) -> LedgerRow:
    name = names[0] if names else f"{task_id}.png"
    label = None
    if labels is not None:
        label = Label(task_id, labels, task_id + 100, (1, 2), 0.5, conflict=True, ground_truth=False, labelled_at=NOW)
    task = Task(task_id, f"/data/local-files/?d=a/{task_id}.png", {"filename": name, "path": f"sub/{name}"})
    given: dict[str, Any] = {
        "split": "train",
        "content_hash": "c" * 64,
        "image_error": None,
        "conflict": False,
    } | kwargs
    return LedgerRow(task=task, label=label, **given)


def written(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_pandas_reads_back_every_name_and_label_exactly(tmp_path: Path) -> None:
    rows = [row(i, name, labels=(name,)) for i, name in enumerate(NASTY)]
    write_csv(tmp_path / "labels.csv", export_rows(rows), MINIMAL)
    frame = written(tmp_path / "labels.csv")
    assert list(frame.columns) == ["filename", "label"]
    assert frame["filename"].tolist() == NASTY
    assert frame["label"].tolist() == NASTY


@settings(max_examples=50)
@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1), min_size=1
    )
)
def test_any_text_survives_a_csv_and_its_spreadsheet_form(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    for spreadsheet in (False, True):
        with open_table(folder / "x.csv", {"filename": str, "label": str}, spreadsheet=spreadsheet) as write:
            for name in names:
                write({"filename": name, "label": name})
        read = [r["filename"] for r in read_csv(folder / "x.csv")]
        assert ([unguarded(name) for name in read] if spreadsheet else read) == names


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\tx", "\rx", "'=1"])
def test_the_spreadsheet_form_runs_nothing_and_can_be_undone(name: str) -> None:
    assert guarded(name) == f"'{name}"
    assert unguarded(guarded(name)) == name


@pytest.mark.parametrize("value", ["-1", "+2.5", "cat", "", None, 3, "don't", "'quoted'"])
def test_numbers_and_harmless_text_stay_as_they_are(value: object) -> None:
    assert guarded(value) == value
    assert not isinstance(value, str) or unguarded(value) == value


def test_exporting_formulas_is_warned_of_unless_they_are_made_harmless() -> None:
    tally = Tally()
    list(export_rows([row(1, "=1+1.png"), row(2)], tally=tally))
    said = tally.warnings(spreadsheet=False, long=False, quarantined=0)
    assert len(said) == 1
    assert said[0].startswith("1 row has a cell that starts with")
    assert tally.warnings(spreadsheet=True, long=False, quarantined=0) == []


def test_a_row_tells_everything_of_the_query_and_the_label() -> None:
    asked: dict[str, Any] = {"round": 3, "strategy": "margin", "seed": 7, "version": 2, "arm": "strategy", "rank": 4, "acquisition": 0.9,
             "reason": "between cat and dog", "confidence": 0.55, "prediction": ("dog",), "queried_at": NOW}  # fmt: skip
    (told,) = export_rows([row(1, split="holdout", conflict=True, **asked)])
    assert sorted(told) == sorted([*COLUMNS, *OF_MODEL])
    assert told["split"] == "held-out"
    assert (told["model_version"], told["prediction"], told["rank"], told["seed"]) == ("v2", "dog", 4, 7)
    assert (told["annotators"], told["agreement"], told["conflict"], told["annotation_id"]) == ("1|2", 0.5, True, 101)
    assert (told["path"], told["content_hash"]) == ("sub/1.png", "c" * 64)
    assert told["queried_at"] == told["labelled_at"] == NOW.isoformat()


def test_several_labels_are_joined_or_a_row_each() -> None:
    rows = [row(1, labels=("cat", "dog"))]
    assert [r["label"] for r in export_rows(rows)] == ["cat|dog"]
    assert [r["label"] for r in export_rows(rows, separator=";")] == ["cat;dog"]
    assert [(r["filename"], r["label"]) for r in export_rows(rows, long=True)] == [("1.png", "cat"), ("1.png", "dog")]


def test_labels_that_could_not_be_taken_apart_again_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="--separator"):
        list(export_rows([row(1, labels=("a|b", "c"))]))
    assert [r["label"] for r in export_rows([row(1, labels=("a|b",))])] == ["a|b"]


def test_queried_tasks_without_a_label_are_counted_and_no_warning() -> None:
    rows = [row(1), row(2, labels=None, round=1), row(3, labels=None)]
    tally = Tally()
    assert [r["task_id"] for r in export_rows(rows, tally=tally)] == [1]
    assert tally.waiting == 1
    assert tally.warnings(spreadsheet=False, long=False, quarantined=0) == []
    included = list(export_rows(rows, include_unlabelled=True))
    assert [(r["task_id"], r["label"]) for r in included] == [(1, "cat"), (2, None)]


def test_unreadable_images_doubled_names_and_quarantine_are_warned_of() -> None:
    tally = Tally()
    list(export_rows([row(1, "same.png"), row(2, "same.png", image_error="gone")], tally=tally))
    said = " ".join(tally.warnings(spreadsheet=False, long=False, quarantined=4))
    assert "4 annotations are left out" in said
    assert "1 image is exported here, but cannot be read: same.png (task 2): gone." in said
    assert "2 rows with a filename that another row has too" in said


def test_annotators_who_differ_are_warned_of_whether_their_task_is_exported_or_not() -> None:
    tally = Tally()
    list(export_rows([row(1, conflict=True), row(2, labels=None, conflict=True), row(3)], tally=tally))
    (said,) = tally.warnings(spreadsheet=False, long=False, quarantined=0)
    assert said.startswith("2 tasks have annotations that disagree")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("former")

    def failing() -> Iterator[dict[str, str]]:
        yield {"filename": "a", "label": "b"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_csv(tmp_path / "labels.csv", failing(), MINIMAL)
    assert (tmp_path / "labels.csv").read_text() == "former"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.csv"]


def test_what_a_killed_writer_left_is_written_over_and_a_living_one_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / ".x.csv.partial").write_text("half a fi")
    with open_table(tmp_path / "x.csv", {"n": int}) as write:
        write({"n": 1})
        with (
            pytest.raises(ConflictError, match="Another command is writing"),
            open_table(tmp_path / "x.csv", {"n": int}),
        ):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
    assert [r["n"] for r in read_csv(tmp_path / "x.csv")] == ["1"]


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """Nothing is held back until the end: memory does not grow with the project."""

    def rows() -> Iterator[LedgerRow]:
        for i in range(10_000):
            yield row(i)
        (unfinished,) = tmp_path.glob(".x.csv.*")
        assert unfinished.stat().st_size > 1_000_000

    assert write_csv(tmp_path / "x.csv", export_rows(rows()), COLUMNS) == 10_000


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_format_has_the_same_columns_and_values(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"labels.{form}"
    with open_table(path, COLUMNS, form_of(path, None)) as write:
        for r in export_rows(
            [row(1, "=x.png", rank=3, acquisition=0.25), row(2, labels=None, round=1)], include_unlabelled=True
        ):
            write(r)
    if form == "jsonl":
        read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    elif form == "parquet":
        read = pd.read_parquet(path).to_dict("records")
    else:
        with path.open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
    assert list(read[0]) == list(COLUMNS)
    assert [r["filename"] for r in read] == ["=x.png", "2.png"]
    assert float(read[0]["acquisition"]) == 0.25


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_no_file_can_hold_is_written_out(tmp_path: Path, form: str) -> None:
    """JSON may have half a character, and any value under any name: one such task must not end the export of all."""
    data = {"filename": "a\ud800.png", "path": "\udfff", "sha256": 7}
    task = LedgerRow(Task(1, "/\ud800", data), "train", None, None, conflict=False, label=row(1).label)
    path = tmp_path / f"x.{form}"
    with open_table(path, COLUMNS, form_of(path, None)) as write:
        for told in export_rows([task]):
            write(told)
            assert (told["filename"], told["path"], told["content_hash"]) == ("a\\ud800.png", "\\udfff", None)


def test_a_table_larger_than_one_row_group_is_whole(tmp_path: Path) -> None:
    with open_table(tmp_path / "x.parquet", {"n": int}, "parquet") as write:
        for n in range(12_345):
            write({"n": n})
    assert pd.read_parquet(tmp_path / "x.parquet")["n"].tolist() == list(range(12_345))


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/1/fdadfdb6-my_photo_1.png", "fdadfdb6-my_photo_1.png"),
        ("/data/local-files/?d=a/b%20c.png", "b c.png"),
        ("s3://bucket/deep/x.jpg", "x.jpg"),
        ("https://host/%D0%BA.png?size=3", "к.png"),
        (None, ""),
    ],
)
def test_a_name_that_was_not_kept_is_taken_from_the_address(image: str | None, name: str) -> None:
    assert task_filename(Task(1, image, {})) == name


def test_a_task_goes_by_filename_path_hash_and_address() -> None:
    task = row(5, "a b.png").task
    known = names_of_tasks([task, Task(6, "https://host/a b.png", {})])
    assert known["sub/a b.png"] == [5]
    assert known["a b.png"] == [5, 6]


def test_a_csv_that_is_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("filename\nklüger.png\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="save it as UTF-8"):
        list(read_csv(tmp_path / "latin.csv"))
    (tmp_path / "wide.csv").write_text("filename,label\na,b,c\n")
    with pytest.raises(InvalidInputError, match="line 2"):
        list(read_csv(tmp_path / "wide.csv"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InvalidInputError, match="header"):
        list(read_csv(tmp_path / "empty.csv"))


def test_what_spreadsheets_run_is_known() -> None:
    assert runs_in_a_spreadsheet("=cmd|' /C calc'!A0")
    assert not runs_in_a_spreadsheet("a=b")


def accepted(task_id: int, label: str = "dog", **kwargs: Any) -> LedgerRow:
    return row(task_id, labels=None, accepted=AcceptedLabel(task_id, (label,), "c1", task_id + 100, 1, NOW), **kwargs)


def test_labels_accepted_of_a_model_are_exported_only_where_they_are_asked_for_and_say_so() -> None:
    rows = [row(1), accepted(2), row(3, labels=None, round=1), accepted(4, round=1)]
    tally = Tally()
    assert [told["task_id"] for told in export_rows(rows, tally=tally)] == [1]
    assert (tally.labelled, tally.accepted, tally.waiting) == (1, 0, 1), "what is accepted waits for nobody"
    tally = Tally()
    told = list(export_rows(rows, include_accepted=True, tally=tally))
    shown = [
        tuple(r[n] for n in ("task_id", "label", "origin", "certificate", "annotation_id", "annotators")) for r in told
    ]
    assert shown == [
        (1, "cat", "human", None, 101, "1|2"), (2, "dog", "accepted", "c1", 102, None), (4, "dog", "accepted", "c1", 104, None)
    ]  # fmt: skip
    assert (tally.labelled, tally.accepted) == (1, 2)


def test_what_a_person_says_is_exported_and_not_what_was_accepted() -> None:
    both = replace(accepted(1), label=row(1).label)
    (told,) = export_rows([both], include_accepted=True)
    assert (told["label"], told["origin"]) == ("cat", "human")
