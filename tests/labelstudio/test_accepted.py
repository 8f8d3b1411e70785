"""What tells a label that was accepted of a model from a person's, by what Label Studio keeps of an annotation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.results import accepted_result, annotation_from_json, marked_anew, marked_with
from ml_backend.records import LabelSchema

SCHEMA = LabelSchema("kind", "img", "photo", ("cat", "dog", "owl"), multiple=True)
CERTIFICATE = "0f3a9c5512de"
WRITER, PERSON = 5, 6
NOTE = {"id": "n", "from_name": "note", "to_name": "img", "type": "textarea", "value": {"text": ["sure?"]}}


def raw(**changes: Any) -> dict[str, Any]:
    """An accepted cat as the API tells it."""
    return {
        "id": 7,
        "task": 3,
        "result": accepted_result(SCHEMA, ["cat"], CERTIFICATE),
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": None,
        "completed_by": WRITER,
        "updated_by": None,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    } | changes


def chosen(*labels: str) -> list[dict[str, Any]]:
    """The region of an accepted cat, as the labelling page sends it after other choices were ticked."""
    return [raw()["result"][0] | {"value": {"choices": list(labels)}, "origin": "manual"}]


def certificate(**changes: Any) -> str | None:
    return annotation_from_json(SCHEMA, raw(**changes)).accepted


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True),
    st.from_regex(r"[A-Za-z0-9._]{1,64}", fullmatch=True),
)
def test_an_accepted_label_names_its_certificate_whatever_it_says(labels: list[str], named: str) -> None:
    result = accepted_result(SCHEMA, labels, named)
    read = annotation_from_json(SCHEMA, raw(result=result))
    assert read.accepted == named
    assert marked_with(raw(result=result)) == named
    assert annotation_from_json(SCHEMA, raw(result=[*result[:0], result[0] | {"id": "x"}])).labels == read.labels


def test_it_is_the_writers_own_whether_label_studio_says_who_saved_it_or_not() -> None:
    assert certificate() == certificate(updated_by=WRITER) == certificate(lead_time=0.0) == CERTIFICATE
    assert certificate(completed_by={"id": WRITER, "email": "a@b.co"}) == CERTIFICATE


@pytest.mark.parametrize(
    "change",
    [
        {"result": chosen("dog")},
        {"result": chosen("cat", "dog")},
        {"result": chosen()},
        {"updated_by": PERSON},
        {"lead_time": 0.4},
        {"ground_truth": True},
        {"was_cancelled": True},
        {"result": [*chosen("cat"), NOTE]},
        {"result": [NOTE, *chosen("cat")]},
        {"completed_by": PERSON, "updated_by": PERSON, "lead_time": 1.2},
    ],
    ids=[
        "changed",
        "one more",
        "taken away",
        "saved",
        "looked at",
        "truth",
        "skipped",
        "noted",
        "noted above",
        "copied",
    ],
)
def test_whatever_a_person_does_to_it_makes_it_theirs(change: dict[str, Any]) -> None:
    assert certificate(**change) is None
    assert marked_with(raw(**change)) == CERTIFICATE, "where it came from is known still"


@pytest.mark.parametrize(
    "result",
    [None, [], "accepted", [None], [7], [{"id": None}], [{"id": ["accepted-x-000000000000"]}], {"id": "accepted-x"}],
)
def test_what_is_no_accepted_label_is_read_as_a_persons(result: Any) -> None:
    assert certificate(result=result) is None
    assert marked_with(raw(result=result)) is None


@pytest.mark.parametrize("named", ["", "a-b", "a b", "x" * 65, "ä", "a\n"])
def test_what_cannot_be_read_back_is_refused_as_a_certificate(named: str) -> None:
    with pytest.raises(InvalidInputError, match="letters, digits"):
        accepted_result(SCHEMA, ["cat"], named)


def test_none_of_the_labels_cannot_be_accepted() -> None:
    with pytest.raises(InvalidInputError, match="leave such tasks to people"):
        accepted_result(SCHEMA, [], CERTIFICATE)


def test_under_another_name_it_stays_accepted_whoever_gives_it_and_no_longer_once_a_person_saves_it() -> None:
    for editor in (WRITER, PERSON):
        renamed = marked_anew(raw(), chosen("lynx"), editor)
        assert certificate(result=renamed, updated_by=editor) == CERTIFICATE
        assert certificate(result=renamed, updated_by=9) is None
        again = marked_anew(raw(result=renamed, updated_by=editor), chosen("bobcat"), 9)
        assert certificate(result=again, updated_by=9) == CERTIFICATE


def test_a_label_that_a_person_has_made_theirs_is_not_marked_anew() -> None:
    for touched in (raw(updated_by=PERSON), raw(result=chosen("dog")), raw(result=[NOTE])):
        assert marked_anew(touched, chosen("lynx"), WRITER) == chosen("lynx")
