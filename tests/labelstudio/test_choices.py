"""One choice of a label config under another name, and of what was answered with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.labelstudio.choices import renamed, renamed_prediction, shown_as, with_label, without_label
from ml_backend.labelstudio.config import label_config, parse_label_config
from ml_backend.labelstudio.results import annotation_result, prediction_result
from ml_backend.records import LabelSchema, Selection

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda text: text.strip() and "$" not in text
)
SCHEMA = LabelSchema("kind", "img", "photo", ("cat", "dog"), guess="guess")
CONFIG = (
    '<View>\r\n  <!-- <Choice value="cat"/> of “Kät” -->\r\n  <Image name="img" value="$photo"/>\r\n'
    '  <Choices name="mood" toName="img"><Choice value="cat"/><Choice value="calm"/></Choices>\r\n'
    "  <Choices toName='img' name='kind'>\r\n"
    "\t<View><Choice hint=\"a 'value=&quot;x&quot;' > y\" hotkey = 'c'\r\n\t  value = 'cat' ></Choice></View>\r\n"
    '\t<Choice value="dog" /> <!-- barks -->\r\n\t<Choice value="Bird" alias="owl"/>\r\n  </Choices>\r\n</View>'
)


def labels(xml: str, control: str = "kind") -> tuple[str, ...]:
    return parse_label_config(xml, Selection(control, None)).labels


def test_the_new_choice_is_a_copy_with_everything_but_the_name() -> None:
    found = with_label(CONFIG, "kind", "cat", "lynx")
    tag = "<Choice hint=\"a 'value=&quot;x&quot;' > y\" hotkey = 'c'\r\n\t  value = 'cat' ></Choice>"
    assert found == CONFIG.replace(tag, tag + tag.replace("'cat'", '"lynx"'))
    assert labels(found) == ("cat", "lynx", "dog", "owl")
    assert without_label(found, "kind", "cat") == CONFIG.replace(tag, tag.replace("'cat'", '"lynx"'))


def test_a_line_comes_and_goes_as_a_line() -> None:
    found = with_label(CONFIG, "kind", "owl", "eagle")
    line = '\r\n\t<Choice value="Bird" alias="owl"/>'
    assert found == CONFIG.replace(line, line + line.replace('"owl"', '"eagle"')), "the alias is what is stored"
    assert without_label(found, "kind", "owl") == CONFIG.replace('"owl"', '"eagle"')
    assert without_label(CONFIG, "kind", "owl") == CONFIG.replace(line, "")
    assert without_label(CONFIG, "kind", "dog") == CONFIG.replace('<Choice value="dog" />', ""), "its comment stays"


def test_what_is_not_asked_for_stays() -> None:
    assert with_label(CONFIG, "kind", "cat", "dog") == CONFIG, "it is there"
    assert with_label(CONFIG, "kind", "fox", "lynx") == CONFIG
    assert without_label(CONFIG, "kind", "fox") == CONFIG
    assert labels(with_label(CONFIG, "kind", "cat", "calm")) == ("cat", "calm", "dog", "owl"), "in another control"
    assert labels(without_label(CONFIG, "kind", "cat"), "mood") == ("cat", "calm")
    assert shown_as(CONFIG, "kind") == {"Bird": "owl"}


@pytest.mark.parametrize(
    ("condition", "beside", "without"),
    [("cat", "cat,lynx", "lynx"), ("dog,cat,owl", "dog,cat,lynx,owl", "dog,lynx,owl"), ("dog", "dog", "dog")],
)
def test_what_is_shown_for_the_old_name_is_shown_for_the_new_one(condition: str, beside: str, without: str) -> None:
    shown = '<View visibleWhen="choice-selected" whenTagName="{}" whenChoiceValue="{}"/>'
    config = CONFIG.removesuffix("</View>") + shown.format("mood", "cat") + shown.format("kind", condition) + "</View>"
    both = with_label(config, "kind", "cat", "lynx")
    assert f'"kind" whenChoiceValue="{beside}"' in both
    assert f'"kind" whenChoiceValue="{without}"' in without_label(both, "kind", "cat")
    assert both.count('"mood" whenChoiceValue="cat"') == 1


@given(st.lists(TEXTS, min_size=3, max_size=6, unique=True), st.randoms(use_true_random=False), st.booleans())
def test_whatever_the_names_one_is_replaced_in_its_place(names: list[str], chance: Any, old_style: bool) -> None:
    *given_, new = names
    old = chance.choice(given_)
    config = label_config(given_)
    if old_style:
        config = config.replace("/>\n      <Choice", "/><Choice")
    both = with_label(config, "choice", old, new)
    assert set(labels(both, "choice")) == set(names)
    after = without_label(both, "choice", old)
    assert labels(after, "choice") == tuple(new if name == old else name for name in given_)
    assert after.count("\n") == config.count("\n")


BESIDE: list[Any] = [
    {"from_name": "mood", "to_name": "img", "type": "choices", "value": {"choices": ["cat"]}},
    {"from_name": "kind", "to_name": "img", "type": "labels", "value": {"choices": ["cat"]}},
    {"id": "r", "from_name": "box", "type": "rectanglelabels", "value": {"x": 1e-7, "rectanglelabels": ["cat"]}},
    "cat", None, {"from_name": "kind", "type": "choices"}, {"from_name": "kind", "type": "choices", "value": "cat"},
]  # fmt: skip


def test_only_the_value_of_the_one_control_changes() -> None:
    given_ = [*annotation_result(SCHEMA, ["dog", "cat"]), *BESIDE]
    before = copy.deepcopy(given_)
    after = renamed("kind", given_, "cat", "lynx")
    assert given_ == before
    assert after[0] == {**before[0], "value": {"choices": ["dog", "lynx"]}}
    assert list(after[0]) == list(before[0])
    assert all(now is was for now, was in zip(after[1:], given_[1:], strict=True))


@pytest.mark.parametrize(
    ("names", "after"),
    [
        (["cat", "dog"], ["dog"]), (["dog", "owl", "cat"], ["dog", "owl"]), (["cat", "cat"], ["dog"]),
        (["owl", "cat"], ["owl", "dog"]), (["Cat"], ["Cat"]), ([], []),
    ],
)  # fmt: skip
def test_who_has_both_names_has_the_new_one_once(names: list[str], after: list[str]) -> None:
    result = [{"from_name": "kind", "type": "choices", "value": {"choices": names}}]
    assert renamed("kind", result, "cat", "dog")[0]["value"]["choices"] == after


def test_a_number_is_a_name_too_and_a_result_of_another_form_none() -> None:
    result = [{"from_name": "kind", "type": "choices", "value": {"choices": [7, 8]}}]
    assert renamed("kind", result, "7", "seven")[0]["value"]["choices"] == ["seven", 8]
    others: list[Any] = [None, {}, "cat", [["cat"]]]
    for odd in others:
        assert renamed("kind", odd, "cat", "lynx") == odd


def test_a_guess_of_ours_is_said_in_the_new_words_and_anothers_is_left() -> None:
    ours = prediction_result(SCHEMA, ["cat"], 0.9)
    assert renamed_prediction(SCHEMA, ours, "cat", "lynx") == prediction_result(SCHEMA, ["lynx"], 0.9)
    assert renamed_prediction(SCHEMA, ours, "owl", "lynx") == ours
    asked = prediction_result(SCHEMA, ["cat"], 0.9, "between cat and dog")
    assert renamed_prediction(SCHEMA, asked, "cat", "lynx") == prediction_result(SCHEMA, ["lynx"], 0.9)
    theirs = [
        *annotation_result(SCHEMA, ["cat"]),
        {"from_name": "guess", "type": "textarea", "value": {"text": ["a cat"]}},
    ]
    assert renamed_prediction(SCHEMA, theirs, "cat", "lynx") == [*annotation_result(SCHEMA, ["lynx"]), theirs[1]]
    wordless = replace(SCHEMA, guess="")
    both = prediction_result(wordless, ["cat", "dog"], 0.5)
    assert renamed_prediction(wordless, both, "cat", "dog") == prediction_result(wordless, ["dog"], 0.5)
