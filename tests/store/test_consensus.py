from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.records import AcceptedLabel, Annotation, LabelSchema
from ml_backend.store.consensus import ConsensusRule, consensus

ONE = LabelSchema("choice", "image", "image", ("cat", "dog", "owl"))
MANY = LabelSchema("choice", "image", "image", ("cat", "dog", "owl"), multiple=True)
RULE = ConsensusRule()
START = datetime(2026, 1, 1, tzinfo=UTC)


def answer(number: int, *labels: str, by: int | None = None, **changes: Any) -> Annotation:
    """An annotation whose number is its id, its annotator (unless told) and its age."""
    return Annotation(
        id=number,
        task_id=7,
        labels=labels,
        was_cancelled=changes.get("skip", False),
        ground_truth=changes.get("truth", False),
        annotator=number if by is None else by,
        created_at=START + timedelta(seconds=changes.get("at", number)),
        updated_at=START + timedelta(seconds=changes.get("changed_at", changes.get("at", number))),
        none_of=None if labels else changes.get("none_of", MANY.from_name),
    )


def decided(*annotations: Annotation, schema: LabelSchema = ONE, rule: ConsensusRule = RULE) -> tuple[str, ...] | None:
    label = consensus(annotations, schema, rule).label
    return None if label is None else label.labels


def test_the_only_answer_is_the_label_with_everything_known_of_it() -> None:
    verdict = consensus([answer(3, "dog")], ONE, RULE)
    assert verdict.label is not None
    assert (verdict.label.task_id, verdict.label.labels, verdict.label.annotation_id) == (7, ("dog",), 3)
    assert (verdict.label.annotators, verdict.label.agreement, verdict.label.conflict) == ((3,), 1.0, False)
    assert verdict.label.labelled_at == START + timedelta(seconds=3)


def test_the_majority_wins_over_the_most_recent() -> None:
    verdict = consensus([answer(1, "cat"), answer(2, "cat"), answer(3, "dog")], ONE, RULE)
    assert verdict.label is not None
    assert verdict.label.labels == ("cat",)
    assert verdict.label.agreement == pytest.approx(2 / 3)
    assert verdict.label.annotators == (1, 2, 3)
    assert verdict.label.annotation_id == 2
    assert verdict.conflict


def test_a_tie_goes_to_the_most_recent_of_the_tied() -> None:
    assert decided(answer(1, "cat"), answer(2, "dog"), answer(3, "dog"), answer(4, "cat"), answer(5, "owl")) == ("cat",)


@pytest.mark.parametrize("vote", ["majority", "most_recent"])
def test_what_touches_an_answer_later_does_not_make_it_the_most_recent(vote: Any) -> None:
    """Label Studio moves `updated_at` when ground truth is set, and when it is unset."""
    rule = ConsensusRule(vote=vote)
    touched = answer(1, "cat", changed_at=99)
    assert decided(touched, answer(2, "dog"), rule=rule) == ("dog",)
    assert decided(touched, answer(2, "dog", by=1), rule=rule) == ("dog",)


def test_ground_truth_comes_before_any_majority() -> None:
    verdict = consensus([answer(1, "owl", truth=True), answer(2, "cat"), answer(3, "cat")], ONE, RULE)
    assert verdict.label is not None
    assert (verdict.label.labels, verdict.label.ground_truth) == (("owl",), True)
    assert verdict.label.agreement == pytest.approx(1 / 3)
    assert verdict.conflict


def test_ground_truth_can_be_told_to_vote_like_any_other() -> None:
    rule = ConsensusRule(ground_truth_first=False)
    assert decided(answer(1, "owl", truth=True), answer(2, "cat"), answer(3, "cat"), rule=rule) == ("cat",)


def test_an_annotator_has_one_vote_and_it_is_the_most_recent() -> None:
    given_ = [answer(1, "cat", by=1), answer(2, "cat", by=1), answer(3, "dog", by=2), answer(4, "dog", by=1)]
    verdict = consensus(given_, ONE, RULE)
    assert verdict.label is not None
    assert (verdict.label.labels, verdict.label.agreement, verdict.conflict) == (("dog",), 1.0, False)


def test_a_skip_is_never_a_label_even_when_it_carries_one() -> None:
    verdict = consensus([answer(1, "cat", skip=True)], ONE, RULE)
    assert verdict.label is None
    assert (verdict.skips, verdict.answers) == (1, 0)


def test_an_answer_without_a_choice_is_blank_and_no_label() -> None:
    verdict = consensus([answer(1)], ONE, RULE)
    assert verdict.label is None
    assert (verdict.blanks, verdict.answers) == (1, 1)


def test_a_name_that_left_the_label_config_is_quarantined_and_does_not_vote() -> None:
    verdict = consensus([answer(1, "fox"), answer(2, "cat")], ONE, RULE)
    assert verdict.label is not None
    assert verdict.label.labels == ("cat",)
    assert not verdict.conflict
    assert "fox" in verdict.quarantined[1]


def test_several_names_where_one_is_asked_for_are_quarantined() -> None:
    verdict = consensus([answer(1, "cat", "dog")], ONE, RULE)
    assert verdict.label is None
    assert "allows only one" in verdict.quarantined[1]


def test_each_choice_of_several_is_voted_on_by_itself() -> None:
    assert decided(answer(1, "cat", "dog"), answer(2, "cat"), answer(3, "owl", "dog"), schema=MANY) == ("cat", "dog")


def test_a_choice_that_half_ticked_goes_with_the_most_recent_vote() -> None:
    assert decided(answer(1, "cat", "owl"), answer(2, "cat", "dog"), schema=MANY) == ("cat", "dog")


def test_choices_without_any_majority_leave_the_most_recent_vote() -> None:
    assert decided(answer(1, "cat"), answer(2, "dog"), answer(3, "owl"), schema=MANY) == ("owl",)


def test_nothing_chosen_of_several_choices_is_an_answer_none_of_them() -> None:
    verdict = consensus([answer(1)], MANY, RULE)
    assert verdict.label is not None
    assert (verdict.label.labels, verdict.label.agreement, verdict.blanks) == ((), 1.0, 0)


def test_none_of_them_votes_like_any_other_answer() -> None:
    assert decided(answer(1), answer(2), answer(3, "cat"), schema=MANY) == ()
    assert decided(answer(1, "cat"), answer(2, "cat"), answer(3), schema=MANY) == ("cat",)
    assert decided(answer(1, "cat"), answer(2), schema=MANY) == ()
    assert decided(answer(1), answer(2, "cat"), schema=MANY) == ("cat",)
    assert decided(answer(1, "cat"), answer(2), answer(3, "dog"), schema=MANY) == (), "each choice lacks a majority"
    verdict = consensus([answer(1), answer(2, "cat")], MANY, ConsensusRule(vote="unanimous"))
    assert verdict.label is None
    assert verdict.conflict


def test_several_labels_come_in_the_order_of_the_label_config() -> None:
    assert decided(answer(1, "owl", "cat"), schema=MANY) == ("cat", "owl")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ConsensusRule(vote="most_recent"), ("owl",)),
        (ConsensusRule(vote="unanimous"), None),
        (ConsensusRule(tie="oldest"), ("cat",)),
        (ConsensusRule(tie="none"), None),
        (ConsensusRule(), ("owl",)),
    ],
)
@pytest.mark.parametrize("schema", [ONE, MANY])
def test_the_rule_says_who_wins_where_two_differ(
    rule: ConsensusRule, expected: tuple[str, ...] | None, schema: LabelSchema
) -> None:
    verdict = consensus([answer(1, "cat"), answer(2, "owl")], schema, rule)
    assert (verdict.label.labels if verdict.label else None) == expected
    assert verdict.conflict


@pytest.mark.parametrize("rule", [ConsensusRule(vote="unanimous"), ConsensusRule(tie="none")])
def test_strict_rules_still_take_what_all_agree_on(rule: ConsensusRule) -> None:
    assert decided(answer(1, "cat"), answer(2, "cat"), rule=rule) == ("cat",)


given_annotations = st.lists(
    st.builds(
        lambda number, labels, skip, truth, by, at: answer(number, *labels, skip=skip, truth=truth, by=by, at=at),
        number=st.integers(1, 10_000),
        labels=st.sets(st.sampled_from(["cat", "dog", "owl", "fox"])).map(lambda s: tuple(sorted(s))),
        skip=st.booleans(),
        truth=st.booleans(),
        by=st.integers(1, 3),
        at=st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda a: a.id,
)
rules = st.builds(
    ConsensusRule,
    ground_truth_first=st.booleans(),
    vote=st.sampled_from(["majority", "most_recent", "unanimous"]),
    tie=st.sampled_from(["most_recent", "oldest", "none"]),
)


@given(given_annotations, rules, st.sampled_from([ONE, MANY]), st.randoms())
def test_a_verdict_does_not_depend_on_order_and_a_label_is_always_one_of_the_config(
    given_: list[Annotation], rule: ConsensusRule, schema: LabelSchema, random: Random
) -> None:
    verdict = consensus(given_, schema, rule)
    shuffled = given_[:]
    random.shuffle(shuffled)
    assert consensus(shuffled, schema, rule) == verdict
    if verdict.label is not None:
        assert verdict.label.labels or schema.multiple
        assert set(verdict.label.labels) <= set(schema.labels)
        assert len(verdict.label.labels) == 1 or schema.multiple
        assert 0 <= verdict.label.agreement <= 1
        assert verdict.label.conflict == verdict.conflict
        assert verdict.label.annotation_id in {a.id for a in given_ if not a.was_cancelled}
    elif rule == RULE:
        assert all(a.was_cancelled or not a.labels or a.id in verdict.quarantined for a in given_)


def accepted(number: int, *labels: str, under: str = "c1", **changes: Any) -> Annotation:
    return replace(answer(number, *labels, **changes), accepted=under)


def test_an_accepted_label_is_no_vote_against_a_person() -> None:
    """Whenever either came, and however many of them there are."""
    for mine, theirs in ((1, 2), (2, 1)):
        verdict = consensus([accepted(mine, "cat"), accepted(9, "cat", under="c2"), answer(theirs, "dog")], ONE, RULE)
        assert verdict.label is not None
        assert (verdict.label.labels, verdict.label.annotators, verdict.label.agreement) == (("dog",), (theirs,), 1.0)
        assert (verdict.accepted, verdict.conflict) == (None, False)
        assert (verdict.answers, verdict.of_model) == (3, 2)


def test_an_accepted_label_stands_apart_where_no_person_votes() -> None:
    skip = answer(4, skip=True)
    for beside in ([], [skip], [answer(5, none_of=None)], [answer(6, "fox")]):
        verdict = consensus([accepted(1, "cat"), *beside], ONE, RULE)
        assert verdict.label is None
        assert verdict.accepted == AcceptedLabel(7, ("cat",), "c1", 1, 1, START + timedelta(seconds=1))


def test_of_several_accepted_labels_the_last_stands_and_one_that_the_config_no_longer_has_is_quarantined() -> None:
    verdict = consensus([accepted(1, "cat"), accepted(2, "dog", under="c2"), accepted(3, "fox")], ONE, RULE)
    assert verdict.accepted is not None
    assert (verdict.accepted.labels, verdict.accepted.certificate) == (("dog",), "c2")
    assert (verdict.conflict, list(verdict.quarantined), verdict.of_model) == (False, [3], 3)


@given(given_annotations, given_annotations, rules, st.sampled_from([ONE, MANY]))
def test_whatever_is_accepted_people_have_said_the_same(
    people: list[Annotation], of_model: list[Annotation], rule: ConsensusRule, schema: LabelSchema
) -> None:
    marked = [replace(a, id=a.id + 20_000, accepted="c1") for a in of_model if a.labels and not a.was_cancelled]
    alone, beside = consensus(people, schema, rule), consensus([*people, *marked], schema, rule)
    assert (beside.label, beside.conflict, beside.skips) == (alone.label, alone.conflict, alone.skips)
    assert beside.answers - beside.of_model == alone.answers
