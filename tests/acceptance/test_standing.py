"""What people say of the labels proposed: looked up each time, and never better for what nobody can look at any more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_backend.acceptance.audit import RIGHT, UNSEEN, WRONG
from ml_backend.acceptance.proposal import Proposal
from ml_backend.acceptance.standing import Standing
from ml_backend.records import LabelSchema
from tests.acceptance.looked_at import CLASSES, SCHEMA, LookedAt


def even(n: int = 200, **changed: object) -> LookedAt:
    """Labels in turn of two classes, none of which is rare."""
    return LookedAt([i % 2 for i in range(n)], **changed)  # type: ignore[arg-type]


def with_rare(rare: int = 30, **changed: object) -> LookedAt:
    """Of 1,200 labels, as many as `rare` are of the second class."""
    labels = [0] * 1200
    for i in range(rare):
        labels[i * (1200 // rare)] = 1
    return LookedAt(labels, **changed)  # type: ignore[arg-type]


def test_the_label_that_counts_is_right_where_the_model_gave_it_and_wrong_else() -> None:
    made = even()
    made.say([1], "cat")
    made.say([2], "cat")
    assert made.standing().looks.verdicts[:3].tolist() == [RIGHT, WRONG, UNSEEN]
    made.say([2], "dog")
    assert made.standing().looks.verdicts[:3].tolist() == [RIGHT, RIGHT, UNSEEN], "somebody changed it"


def test_a_skip_and_an_answer_that_is_no_label_are_wrong() -> None:
    made = even()
    made.skipped = {1}
    made.say([2], "a word of an older label config")
    assert made.standing().looks.verdicts[:3].tolist() == [WRONG, WRONG, UNSEEN]


@pytest.mark.parametrize("how", ["gone", "changed", "failed"])
def test_what_nobody_can_look_at_any_more_is_wrong_once_it_is_asked_for_and_never_accepted(how: str) -> None:
    made = even(drawn=100)
    asked, later = made.in_order[3], made.in_order[150]
    setattr(made, how, {asked, later})
    made.say([task for task in made.in_order[:100] if task != asked])
    standing = made.standing()
    assert standing.verdicts[[asked - 1, later - 1]].tolist() == [WRONG, UNSEEN]
    assert (len(standing.to_ask), standing.wrong) == (0, 1), "the queue does not wait for it"
    assert standing.finding.size > 0
    assert not standing.accepted[[asked - 1, later - 1]].any()
    assert standing.accepted.sum() == 99


def test_an_image_that_is_away_for_a_while_is_as_it_was_afterwards() -> None:
    made = even()
    made.say(made.in_order[:10])
    made.failed = set(made.in_order[:10])
    assert made.standing().wrong == 0, "it was answered"
    made.said.clear()
    assert made.standing().wrong == 10
    made.failed = set()
    assert made.standing().wrong == 0


def test_a_label_for_another_image_says_nothing_of_the_one_that_was_proposed() -> None:
    made = even()
    made.changed = {made.in_order[0]}
    made.say(made.in_order[:1])
    assert made.standing().verdicts[made.in_order[0] - 1] == WRONG


def test_all_that_is_drawn_is_asked_for_in_that_order_until_the_last() -> None:
    made = even()
    assert made.asked() == made.in_order[:10]
    made.say(made.in_order[1:9])
    assert made.asked() == [made.in_order[0], made.in_order[9]]
    assert made.standing().looked == 8
    made.said.pop(made.in_order[4])
    assert made.asked() == [made.in_order[place] for place in (0, 4, 9)], "an answer was deleted"


def test_labels_given_beside_the_queue_are_not_accepted_unseen() -> None:
    made = even(drawn=100)
    made.say(made.in_order[:100])
    made.say(made.in_order[120:130])
    assert made.standing().accepted.sum() == 90


def test_an_accepted_label_is_no_look_and_is_not_written_again() -> None:
    case = LookedAt([0] * 40, accepted={3})
    case.say([5])
    looks = case.standing().looks
    assert (looks.verdicts[2], looks.verdicts[4]) == (UNSEEN, RIGHT)
    assert (looks.waiting[2], looks.waiting[3]) == (False, True)


def test_once_the_sample_is_ended_no_further_look_counts_for_it() -> None:
    """Else the looks of rare classes, which are not at random, would move what is certified."""
    made = even(drawn=40, sample=40)
    made.say(made.in_order[:40])
    before = made.standing()
    made.say(made.in_order[40:140])
    after = made.standing()
    assert after.audit.drawn(after.verdicts) == 40
    assert (before.finding.size, after.finding.size) == (0, 0)
    made.sample = None
    assert made.standing().finding.size > 0, "which these looks would have done"


def test_a_rare_class_is_asked_for_only_after_the_sample_of_all_is_ended() -> None:
    made = with_rare(90, drawn=160)
    made.say(made.in_order[:160])
    assert made.standing().finding.rare[0].more
    assert made.asked() == []
    made.sample = 160
    assert made.asked() != []
    assert {made.labels[task - 1] for task in made.asked()} == {1}
    assert not made.standing().accepted[np.asarray(made.labels) == 1].any()
    made.say(made.asked())
    assert (made.asked(), made.standing().finding.rare[0].more) == ([], 0)
    assert made.standing().accepted[np.asarray(made.labels) == 1].any()


def test_what_rare_classes_are_asked_for_comes_in_the_order_of_all_and_tells_nothing_of_the_class() -> None:
    labels = [0] * 1800
    for i in range(180):
        labels[i * 10] = 1 + i % 2
    made = LookedAt(labels, classes=("cat", "dog", "owl"), drawn=240, sample=240)
    schema = LabelSchema("choice", "image", "image", made.classes)
    made.say(made.in_order[:240])
    asked = [int(task) for task in made.standing(schema).frozen.ids[made.standing(schema).to_ask]]
    assert {labels[task - 1] for task in asked} == {1, 2}
    assert asked == [task for task in made.in_order if task in asked]


def test_a_rare_class_whose_looks_would_cost_as_much_as_labelling_it_is_left_to_people() -> None:
    made = with_rare(6, drawn=160, sample=160)
    made.say(made.in_order[:160])
    assert made.standing().finding.rare[0].more != 0, "it is not vouched for"
    assert made.asked() == []
    assert not made.standing().accepted[np.asarray(made.labels) == 1].any()


def test_a_look_of_a_rare_class_that_nobody_can_take_is_wrong_and_the_next_ones_are_asked_for() -> None:
    made = with_rare(90, drawn=160, sample=160)
    made.say(made.in_order[:160])
    first = made.asked()
    made.gone = {first[0]}
    assert made.standing().verdicts[first[0] - 1] == WRONG
    assert first[0] not in made.asked()
    assert len(made.asked()) > len(first) - 1, "one wrong look takes more looks"


@pytest.mark.parametrize(
    ("schema", "fix"),
    [
        (replace(SCHEMA, labels=("cat", "hound")), "'dog' is not in the label config any more"),
        (replace(SCHEMA, labels=("bird",)), "'cat', 'dog' are not in"),
        (replace(SCHEMA, multiple=True), 'choice="single"'),
    ],
    ids=["renamed", "gone", "several"],
)
def test_what_cannot_be_compared_with_the_labels_of_today_is_told_with_its_fix(schema: LabelSchema, fix: str) -> None:
    told = even().standing(schema).fault
    assert told is not None
    assert fix in told
    assert "ml-backend accept stop" in told


def test_another_order_of_the_labels_or_a_new_one_changes_nothing() -> None:
    made = even()
    made.say([1, 2])
    standing = made.standing(replace(SCHEMA, labels=("dog", "bird", "cat")))
    assert standing.fault is None
    assert standing.looks.verdicts[:2].tolist() == [RIGHT, RIGHT]


def test_a_certificate_counts_the_wrong_ones_found_since_and_past_its_bound_it_is_broken() -> None:
    made = even(drawn=40, sample=40)
    made.say(made.in_order[:40])
    made.say([task for task in made.in_order[40:] if made.labels[task - 1] == 0][:3], "dog")
    kept = {"part": 200, "wrong_in_part_at_most": 3}
    assert (made.standing(certificate=kept).found, made.standing(certificate=kept).broken) == (3, None)
    made.say([made.in_order[0]], "dog" if made.labels[made.in_order[0] - 1] == 0 else "cat")
    told = made.standing(certificate=kept).broken
    assert told is not None
    assert "is broken: 4 wrong labels were found among the 200" in told


def test_a_project_that_has_become_empty_is_told_no_lie() -> None:
    made = even()
    made.gone = set(range(1, 201))
    standing = made.standing()
    assert (standing.wrong, standing.accepted.sum(), len(standing.to_ask)) == (10, 0, 0)


def test_what_is_asked_about_stays_as_it_was_frozen_whatever_a_later_release_would_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which part comes first has to be known before anybody looks."""
    made = even(drawn=80)
    made.say(made.in_order[:80])
    frozen = made.frozen
    before = made.standing()
    monkeypatch.setattr(Proposal, "parts", lambda *_: np.array([50, 100]))
    after = Standing.at(made.acceptance, frozen, made.rows(), SCHEMA)
    assert after.audit.parts.tolist() == before.audit.parts.tolist() == [200]
    assert after.finding.size == before.finding.size == 200


def test_over_many_audits_few_certificates_are_wrong_of_all_or_of_a_rare_class() -> None:
    """Followed as it is asked, to the end; the model is as often wrong in the rare class as may just not be."""
    rng, runs, of_all, of_rare = np.random.default_rng(5), 60, 0, 0
    for seed in range(runs):
        made = with_rare(100, drawn=60, seed=seed)
        inside = np.flatnonzero(np.asarray(made.labels) == 1) + 1
        wrong = set(rng.choice(inside, 11, replace=False).tolist()) | set(rng.choice(1200, 45, replace=False).tolist())
        finished = follow(made, wrong)
        accepted = set((np.flatnonzero(finished.accepted) + 1).tolist())
        of_all += len(accepted & wrong) > finished.wrong_at_most
        of_rare += len(wrong & set(inside.tolist())) > 10 and bool(accepted & set(inside.tolist()))
    assert of_all <= runs * 0.04 + 3 * (runs * 0.04) ** 0.5
    assert of_rare <= runs * 0.04 + 3 * (runs * 0.04) ** 0.5


def follow(made: LookedAt, wrong: set[int]) -> Standing:
    """Answer what is asked until nothing is, as a turn draws and ends."""
    while True:
        standing = made.standing()
        if asked := made.asked():
            made.say([task for task in asked if task not in wrong])
            for task in wrong & set(asked):
                made.say([task], CLASSES[1 - made.labels[task - 1]])
        elif made.sample is not None:
            return standing
        elif more := standing.audit.worthwhile(standing.verdicts):
            made.drawn = standing.audit.drawn(standing.verdicts) + more
        else:
            made.sample = standing.audit.drawn(standing.verdicts)
