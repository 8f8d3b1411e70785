"""Label configs and results, without any Label Studio."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.config import GUESS, SeveralError, hotkeys, label_config, parse_label_config, selection_from
from ml_backend.labelstudio.results import annotation_from_json, annotation_result, prediction_result, task_from_json
from ml_backend.records import LabelSchema, Selection
from tests.label_configs import TEMPLATES, VARIANTS, outcome, templates

IMAGE = '<Image name="img" value="$photo"/>'
CHOICES = '<Choices name="kind" toName="img"><Choice value="cat"/><Choice value="dog"/></Choices>'
SCHEMA = LabelSchema("kind", "img", "photo", ("cat", "dog"))
LABELS = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
        lambda text: text.strip() and "$" not in text
    ),
    min_size=2,
    max_size=6,
    unique=True,
)


def raw_annotation(**changes: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "task": 3,
        "result": annotation_result(SCHEMA, ["cat"]),
        "was_cancelled": False,
        "ground_truth": False,
        "completed_by": 5,
        "created_at": "2026-01-02T03:04:05.678901Z",
        "updated_at": "2026-01-02T03:04:06+01:00",
    } | changes


def test_one_choice_about_one_image_is_understood() -> None:
    assert parse_label_config(f"<View>{IMAGE}<Header value='Which?'/>{CHOICES}</View>") == SCHEMA


def test_choices_may_be_multiple_have_an_alias_and_sit_inside_a_view() -> None:
    xml = (
        f'<View>{IMAGE}<View><Choices name="kind" toName="img" choice="multiple">'
        '<Choice value="cat" alias="felis"/><View><Choice value="dog"/></View></Choices></View></View>'
    )
    schema = parse_label_config(xml)
    assert (schema.labels, schema.multiple) == (("felis", "dog"), True)


@given(LABELS, st.booleans())
def test_a_config_made_here_is_read_back(labels: list[str], multiple: bool) -> None:
    assert parse_label_config(label_config(labels, multiple=multiple)) == LabelSchema(
        "choice", "image", "image", tuple(labels), multiple, GUESS
    )


def test_a_guess_stands_beside_the_choices_in_words_where_the_config_has_a_place_for_it() -> None:
    (ticked,) = prediction_result(SCHEMA, ["cat"], 0.512)
    assert ticked["value"] == {"choices": ["cat"]}
    schema = parse_label_config(label_config(["cat", "dog"]))
    ticked, words = prediction_result(schema, ["cat"], 0.999)
    assert ticked["value"] == {"choices": ["cat"]}
    assert words["value"] == {"text": ["Model's guess: cat, 99% sure"]}
    assert annotation_from_json(
        schema, {"id": 1, "task": 2, "result": [ticked, words], "created_at": "2026-01-01", "updated_at": "2026-01-01"}
    ).labels == ("cat",)
    assert prediction_result(schema, [], 0.9) == []


def test_the_guess_in_words_says_why_the_image_is_asked_for_and_nothing_does_where_none_is_shown() -> None:
    schema = parse_label_config(label_config(["cat", "dog"]))
    _, words = prediction_result(schema, ["cat"], 0.5, "between cat and dog, margin 0.02")
    assert words["value"] == {"text": ["Model's guess: cat, 50% sure. Asked because: between cat and dog, margin 0.02"]}
    assert len(prediction_result(schema, ["cat"], 0.5, "word " * 1_000)[1]["value"]["text"][0]) < 250
    assert prediction_result(schema, [], 0.5, "between cat and dog") == []
    assert prediction_result(SCHEMA, ["cat"], 0.5, "between cat and dog") == prediction_result(SCHEMA, ["cat"], 0.5)


def test_each_choice_has_a_key_of_its_own_as_long_as_there_are_keys() -> None:
    keys = hotkeys([f"species {number}" for number in range(60)])
    assert keys[:12] == list("1234567890qw")
    assert len({key for key in keys if key}) == 33
    assert keys[33:] == [""] * 27


def test_the_key_of_a_digit_or_letter_is_that_digit_or_letter() -> None:
    assert hotkeys("0123456789") == list("0123456789")
    assert hotkeys(["none", "2", "1", "Q", "q", "ü", "10"]) == ["3", "2", "1", "q", "4", "5", "6"]


def test_a_label_that_label_studio_would_not_show_as_it_is_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"Remove the \$"):
        label_config(["cheap", "over $100"])
    assert parse_label_config(label_config(["cheap", "100 $"])).labels == ("cheap", "100 $")


def test_the_page_says_that_a_ticked_choice_is_a_guess_and_finds_one_of_many_labels() -> None:
    few, many = label_config(["a", "b"]), label_config([str(number) for number in range(60)])
    assert "ticked is the model's guess" in few
    assert ("<Filter" in few, "<Filter" in many) == (False, True)
    assert parse_label_config(many).labels == tuple(str(number) for number in range(60))


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        ("<View>", "not valid XML"),
        ("", "not valid XML"),
        (f"<!DOCTYPE x [<!ENTITY a 'b'>]><View>{IMAGE}{CHOICES}</View>", "DOCTYPE"),
    ],
)
def test_what_is_no_xml_is_refused_with_its_fix(xml: str, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        parse_label_config(xml)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_kind_of_config_is_learned_or_refused_with_what_to_do(name: str) -> None:
    xml, selection, expected = VARIANTS[name]
    assert_outcome(outcome(f"<View>{xml}</View>", selection), expected)


def test_every_template_of_label_studio_is_learned_or_refused_with_what_to_do() -> None:
    found = list(templates())
    if not found:
        pytest.skip("no Label Studio: run `make setup`, or set LABEL_STUDIO_BIN")
    about_images = {path.rpartition("/")[0] for path, xml in found if "<Image " in xml}
    assert about_images == set(TEMPLATES)
    for path, xml in found:
        came = outcome(xml)
        assert_outcome(came, TEMPLATES.get(path.rpartition("/")[0], "has no <Image>; it shows <.*use a config such as"))


def test_the_default_names_count_only_where_a_config_has_several() -> None:
    several = f"<View>{IMAGE}{CHOICES}{CHOICES.replace('kind', 'mood')}</View>"
    default = Selection("mood", "img")
    assert parse_label_config(several, default=default).from_name == "mood"
    assert parse_label_config(several, Selection("kind"), default=default).from_name == "kind"
    assert parse_label_config(f"<View>{IMAGE}{CHOICES}</View>", default=default).from_name == "kind"
    with pytest.raises(SeveralError):
        parse_label_config(several, default=Selection("colour"))


@pytest.mark.parametrize(
    ("extra_params", "selection"),
    [
        ({"choices": "mood"}, Selection("mood")),
        ('{"choices": "mood", "image": "img"}', Selection("mood", "img")),
        ({"image": "img", "other": 1}, Selection(None, "img")),
        (None, None),
        ("", None),
        ("mood", None),
        ("choices=mood", Selection("mood")),
        ("image: a b, choices = 'my mood'", Selection("my mood", "a b")),
        ("[1]", None),
        ({"choices": ""}, None),
    ],
)
def test_the_selection_is_read_from_a_models_extra_params(extra_params: Any, selection: Selection | None) -> None:
    assert selection_from(extra_params) == selection


def assert_outcome(came: LabelSchema | str, expected: LabelSchema | str) -> None:
    if isinstance(expected, LabelSchema) or isinstance(came, LabelSchema):
        assert came == expected
    else:
        assert re.search(expected, came), came


def test_an_annotation_is_read_with_times_in_utc() -> None:
    annotation = annotation_from_json(SCHEMA, raw_annotation(completed_by={"id": 5, "email": "a@b.co"}))
    assert (annotation.task_id, annotation.labels, annotation.annotator) == (3, ("cat",), 5)
    assert annotation.created_at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert annotation.updated_at == datetime(2026, 1, 2, 2, 4, 6, tzinfo=UTC)


def test_a_skip_has_no_labels_whatever_its_result_says() -> None:
    annotation = annotation_from_json(SCHEMA, raw_annotation(was_cancelled=True))
    assert (annotation.was_cancelled, annotation.labels) == (True, ())


def test_labels_the_config_no_longer_has_are_kept_as_given() -> None:
    raw = raw_annotation(result=annotation_result(SCHEMA, ["horse", "cat", "horse"]))
    assert annotation_from_json(SCHEMA, raw).labels == ("horse", "cat")


@pytest.mark.parametrize(
    "result",
    [
        [],
        None,
        [{"from_name": "mood", "to_name": "img", "type": "choices", "value": {"choices": ["cat"]}}],
        [{"from_name": "kind", "to_name": "img", "type": "textarea", "value": {"text": ["cat"]}}],
        [{"type": "relation", "from_id": "a", "to_id": "b"}],
    ],
)
def test_other_results_are_no_labels(result: Any) -> None:
    assert annotation_from_json(SCHEMA, raw_annotation(result=result)).labels == ()


def test_an_annotation_without_a_task_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="does not name a task"):
        annotation_from_json(SCHEMA, raw_annotation(task=None))
    assert annotation_from_json(SCHEMA, raw_annotation(task=None), task_id=9).task_id == 9


def test_a_prediction_carries_its_confidence_and_a_held_out_task_none() -> None:
    assert prediction_result(SCHEMA, ["dog"], 0.75) == [
        {"from_name": "kind", "to_name": "img", "type": "choices", "value": {"choices": ["dog"]}, "score": 0.75}
    ]
    assert prediction_result(SCHEMA, [], 0.75) == []


@pytest.mark.parametrize(
    ("data", "image"),
    [
        ({"photo": "/a.png"}, "/a.png"),
        ({"$undefined$": "/b.png"}, "/b.png"),
        ({"other": "/c.png"}, None),
        ({"photo": ""}, None),
        ({"photo": ["/a.png", "/b.png"]}, None),
        (None, None),
    ],
)
def test_a_task_shows_its_image_or_none(data: dict[str, Any] | None, image: str | None) -> None:
    assert task_from_json(SCHEMA, {"id": 1, "data": data}).image == image


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000])
def test_parameters_of_a_model_that_are_too_deep_to_read_name_nothing(deep: str) -> None:
    assert selection_from(deep) is None
