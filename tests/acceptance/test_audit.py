"""What is accepted on a sample: as much as it vouches for, no more often wrong than the risk, and no rare class unseen."""

from __future__ import annotations

import numpy as np
import pytest

from ml_backend.acceptance.audit import RIGHT, UNSEEN, WRONG, Audit, Finding, Verdicts
from ml_backend.acceptance.proposal import FIRST_PART, Proposal

RISK = 0.05


def proposal(wrong_share: float = 0.01, size: int = 2000, classes: int = 2) -> Proposal:
    """Doubt rises evenly from 0; what the model expects of all is `wrong_share`."""
    doubt = np.linspace(0, 2 * wrong_share, size)
    return Proposal(np.arange(size), np.arange(size) % classes, doubt, classes)


def audited(audit: Audit, truth: Verdicts) -> tuple[Finding, Verdicts]:
    """Look until more looks are not worth it. truth: (n,) RIGHT or WRONG."""
    verdicts, drawn = np.full(len(truth), UNSEEN, np.int8), 0
    while more := audit.worthwhile(verdicts):
        seen = audit.order[drawn : drawn + more]
        verdicts[seen], drawn = truth[seen], drawn + len(seen)
    return audit.finding(verdicts), verdicts


def test_a_model_that_is_right_has_nearly_all_accepted_and_what_was_looked_at_is_not_among_it() -> None:
    audit = Audit(proposal(), 0.02, RISK, RISK, np.random.default_rng(0).permutation(2000))
    finding, verdicts = audited(audit, np.zeros(2000, np.int8))
    assert finding.size == 2000
    assert finding.accepted.sum() == 2000 - (verdicts != UNSEEN).sum()
    assert (verdicts != UNSEEN).sum() < 250
    assert finding.wrong == 40


def test_before_anybody_has_looked_nothing_is_accepted() -> None:
    audit = Audit(proposal(), 0.02, RISK, RISK, np.random.default_rng(0).permutation(2000))
    finding = audit.finding(np.full(2000, UNSEEN, np.int8))
    assert (finding.size, finding.accepted.sum()) == (0, 0)
    assert audit.worthwhile(np.full(2000, UNSEEN, np.int8)) > 100


def test_as_many_are_asked_for_at_a_time_as_are_worth_waiting_for() -> None:
    rng = np.random.default_rng(3)
    truth = np.where(rng.random(2000) < 0.004, WRONG, RIGHT).astype(np.int8)
    audit, asked = Audit(proposal(), 0.02, RISK, RISK, rng.permutation(2000)), []
    verdicts, drawn = np.full(2000, UNSEEN, np.int8), 0
    while more := audit.worthwhile(verdicts):
        asked.append(more)
        seen = audit.order[drawn : drawn + more]
        verdicts[seen], drawn = truth[seen], drawn + len(seen)
    assert len(asked) > 1
    assert min(asked) >= 10


def test_a_model_that_is_often_wrong_has_nothing_accepted_and_the_sample_ends_early() -> None:
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(2000) < 0.3, WRONG, RIGHT).astype(np.int8)
    finding, verdicts = audited(Audit(proposal(0.3), 0.02, RISK, RISK, rng.permutation(2000)), truth)
    assert finding.accepted.sum() == 0
    assert (verdicts != UNSEEN).sum() < 700


def test_wrong_ones_at_the_end_leave_the_front_accepted() -> None:
    """The model is right on the first three quarters, and on the rest as bad as it believes."""
    rng = np.random.default_rng(3)
    doubt = np.concatenate([np.full(1500, 0.002), np.full(500, 0.4)])
    truth = np.where(np.arange(2000) < 1500, RIGHT, np.where(rng.random(2000) < 0.4, WRONG, RIGHT)).astype(np.int8)
    audit = Audit(
        Proposal(np.arange(2000), np.zeros(2000, np.int64), doubt, 1), 0.02, RISK, RISK, rng.permutation(2000)
    )
    finding, _ = audited(audit, truth)
    assert 1450 <= finding.size <= 1600


def test_more_wrong_ones_than_stated_are_accepted_in_at_most_as_many_cases_as_the_risk_says() -> None:
    """Wherever the wrong ones are, and whatever the model believes: one more than is allowed among the first t of 600."""
    rng, broken, runs = np.random.default_rng(2), 0, 150
    for _ in range(runs):
        asked = Proposal(np.arange(600), rng.integers(0, 4, 600), np.sort(rng.random(600) * 0.2), 4)
        error = 0.05
        within = int(rng.choice(asked.parts(error)))
        truth = np.zeros(600, np.int8)
        truth[rng.choice(within, int(error * within) + 1, replace=False)] = WRONG
        finding, _ = audited(Audit(asked, error, RISK, RISK, rng.permutation(600)), truth)
        broken += int(truth[finding.accepted].sum()) > finding.wrong
    assert broken <= runs * RISK + 3 * (runs * RISK) ** 0.5


def test_wrong_ones_that_were_found_are_not_left_any_more() -> None:
    audit = Audit(proposal(), 0.05, RISK, RISK, np.random.default_rng(0).permutation(2000))
    truth = np.zeros(2000, np.int8)
    truth[audit.order[5]] = WRONG
    finding, _ = audited(audit, truth)
    assert finding.wrong == int(0.05 * finding.size) - 1


def test_more_wrong_ones_found_since_than_are_allowed_end_what_was_vouched_for() -> None:
    """Somebody looks on after it was enough: what is known to be false is not stated."""
    audit = Audit(proposal(), 0.02, RISK, RISK, np.random.default_rng(0).permutation(2000))
    verdicts = np.full(2000, UNSEEN, np.int8)
    verdicts[audit.order[:300]] = RIGHT
    assert audit.finding(verdicts).size == 2000
    verdicts[audit.order[300:341]] = WRONG
    finding = audit.finding(verdicts)
    assert (verdicts[: finding.size] == WRONG).sum() <= 0.02 * finding.size


def rare_audit() -> Audit:
    """Of 2,000 labels 200 are of class 1."""
    labels = np.zeros(2000, np.int64)
    labels[::10] = 1
    asked = Proposal(np.arange(2000), labels, np.linspace(0, 0.01, 2000), 2)
    return Audit(asked, 0.02, RISK, RISK, np.random.default_rng(4).permutation(2000))


def test_a_rare_class_is_not_accepted_until_its_own_labels_were_looked_at() -> None:
    audit = rare_audit()
    finding, verdicts = audited(audit, np.zeros(2000, np.int8))
    (rare,) = finding.rare
    assert rare.number == 1
    assert rare.more is not None
    assert rare.more > 0
    assert not finding.accepted[audit.proposal.labels == 1].any()
    own = [row for row in audit.order if audit.proposal.labels[row] == 1 and verdicts[row] == UNSEEN]
    verdicts[own[: rare.more]] = RIGHT
    vouched = audit.finding(verdicts)
    assert vouched.rare[0].more == 0
    assert vouched.accepted[audit.proposal.labels == 1].any()


def test_a_rare_class_that_swept_up_others_stays_with_people() -> None:
    audit = rare_audit()
    verdicts = audited(audit, np.zeros(2000, np.int8))[1]
    own = [row for row in audit.order if audit.proposal.labels[row] == 1 and verdicts[row] == UNSEEN]
    verdicts[own[:9]] = WRONG
    finding = audit.finding(verdicts)
    assert finding.rare[0].more is None
    assert not finding.accepted[audit.proposal.labels == 1].any()
    assert finding.accepted[audit.proposal.labels == 0].any()


def test_a_rare_class_with_more_wrong_ones_found_since_is_not_vouched_for_any_more() -> None:
    audit = rare_audit()
    verdicts = audited(audit, np.zeros(2000, np.int8))[1]
    own = [row for row in audit.order if audit.proposal.labels[row] == 1]
    verdicts[own[:100]] = RIGHT
    assert audit.finding(verdicts).rare[0].more == 0
    verdicts[own[100:109]] = WRONG
    assert audit.finding(verdicts).rare[0].more is None, "eight of 200 are allowed"


def test_a_rare_class_of_which_so_few_would_be_left_that_one_wrong_label_is_too_many_stays_with_people() -> None:
    labels = (np.arange(2000) % 34 == 0).astype(np.int64)
    asked = Proposal(np.arange(2000), labels, np.linspace(0, 0.01, 2000), 2)
    audit = Audit(asked, 0.02, RISK, RISK, np.random.default_rng(4).permutation(2000))
    verdicts = np.full(2000, UNSEEN, np.int8)
    verdicts[audit.order[:400]] = RIGHT
    own = [row for row in audit.order if labels[row] == 1]
    verdicts[own[:54]] = RIGHT
    finding = audit.finding(verdicts)
    assert finding.rare[0].more is None, "of five that are left one is a fifth"
    assert not finding.accepted[labels == 1].any()


def test_a_gap_in_the_sample_ends_it_there() -> None:
    """Whoever passes over the hard ones must not make the rest look better."""
    audit = Audit(proposal(), 0.02, RISK, RISK, np.random.default_rng(0).permutation(2000))
    verdicts = np.full(2000, UNSEEN, np.int8)
    verdicts[audit.order[:400]] = RIGHT
    assert audit.finding(verdicts).size > 0
    verdicts[audit.order[50]] = UNSEEN
    assert audit.drawn(verdicts) == 50
    assert audit.finding(verdicts).size == 0


def test_labels_are_ordered_by_what_the_head_and_the_neighbours_say_together_and_ties_by_id() -> None:
    said = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.9, 0.1]], np.float32)
    near = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]], np.float32)
    found = Proposal.of(np.array([14, 11, 12, 13]), said, near)
    assert found.ids.tolist() == [13, 14, 12, 11]
    assert found.labels.tolist() == [0, 0, 1, 0]
    assert found.doubt == pytest.approx([0.1, 0.1, 0.2, 0.1])


def test_the_first_part_is_fixed_before_a_look_and_the_last_is_all() -> None:
    asked = proposal(0.02)
    parts = asked.parts(0.02)
    assert parts[0] == pytest.approx(FIRST_PART * 2000, abs=10), "as doubt rises evenly"
    assert asked.corrected(0.5).parts(0.02)[0] == pytest.approx(2 * FIRST_PART * 2000, abs=10)
    assert parts[-1] == 2000
    assert (np.diff(parts) > 0).all()
    assert proposal(0.3).parts(0.0001)[0] > 0
