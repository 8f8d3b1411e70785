"""From the answers of many annotators to the one label of a task. Pure, and told in full here.

1. A skip is no answer, a draft never arrives here, an answer without a choice is blank: none of them votes. With
   `choice="multiple"`, though, an answer that says nothing at all says that none of them fits: it votes like any other.
   One to another control, or from before several could be chosen, is blank.
2. An answer with a name that is not in the label config, or with several names where the config asks for one, is
   quarantined as a whole: kept, told, not counted. It votes again when the config takes it back.
3. One vote per annotator: the most recent of their answers. Unknown annotators vote each for themselves. The most
   recent answer, here and below, is the one given last, whenever it was changed since: `updated_at` moves with anything,
   and an answer must not win because somebody set and unset its ground truth.
4. Ground truth first: where there is one, only ground-truth answers decide.
5. Majority: the answer that most voters gave; ties go to the most recent vote among the tied answers.
   With `choice="multiple"`, each choice is voted on by itself: it belongs to the label if more than half of the voters
   ticked it, and at exactly half if the most recent vote ticked it. Should nothing remain, the label is none of them if
   any voter said so, else the most recent vote.
6. `conflict` is set when any two voters (ground truth or not) differ; `agreement` is the share of voters whose answer
   is exactly the label.
7. A label that was accepted of a model is nobody's vote, and makes no conflict. It stands, apart from the label, where
   no person votes; the most recent where there are several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ml_backend.records import AcceptedLabel, Annotation, Label, LabelSchema

Vote = Literal["majority", "most_recent", "unanimous"]
Tie = Literal["most_recent", "oldest", "none"]


@dataclass(frozen=True)
class ConsensusRule:
    """What is configurable: whether ground truth comes first, how voters decide, and who wins a tie.

    "unanimous" and the tie "none" give no label where annotators differ; the conflict is counted all the same.
    """

    ground_truth_first: bool = True
    vote: Vote = "majority"
    tie: Tie = "most_recent"


@dataclass(frozen=True)
class Verdict:
    """What the annotations of one task come to. `quarantined` maps annotation id to the reason.

    label: what people say. accepted: what a model says, where no person does. answers: of both; of_model: those accepted.
    """

    label: Label | None
    accepted: AcceptedLabel | None
    conflict: bool
    answers: int
    of_model: int
    skips: int
    blanks: int
    quarantined: dict[int, str]


def consensus(annotations: Iterable[Annotation], schema: LabelSchema, rule: ConsensusRule) -> Verdict:
    """Decide one task. The order of `annotations` does not matter."""
    given = list(annotations)
    answered = [a for a in given if not a.was_cancelled]
    quarantined = {a.id: why for a in answered if (why := _why_quarantined(a, schema))}
    fit = [a for a in answered if not is_blank(a, schema) and a.id not in quarantined]
    votes = _one_vote_each(a for a in fit if a.accepted is None)
    label = _decide(votes, schema, rule) if votes else None
    return Verdict(
        label=label,
        accepted=None if votes else _accepted([a for a in fit if a.accepted is not None]),
        conflict=len({frozenset(v.labels) for v in votes}) > 1,
        answers=len(answered),
        of_model=sum(a.accepted is not None for a in answered),
        skips=len(given) - len(answered),
        blanks=sum(is_blank(a, schema) for a in answered),
        quarantined=quarantined,
    )


def _accepted(of_model: Sequence[Annotation]) -> AcceptedLabel | None:
    if not of_model:
        return None
    last = max(of_model, key=_recency)
    return AcceptedLabel(last.task_id, last.labels, str(last.accepted), last.id, last.annotator, last.created_at)


def is_blank(answer: Annotation, schema: LabelSchema) -> bool:
    """Whether nothing is chosen, and that does not say "none of them"."""
    return not answer.labels and not (schema.multiple and answer.none_of == schema.from_name)


def _why_quarantined(annotation: Annotation, schema: LabelSchema) -> str | None:
    unknown = sorted(set(annotation.labels) - set(schema.labels))
    if unknown:
        return f"not in the label config: {', '.join(unknown)}"
    if not schema.multiple and len(set(annotation.labels)) > 1:
        return f"{len(set(annotation.labels))} choices, but the label config allows only one"
    return None


def _recency(annotation: Annotation) -> tuple[float, int]:
    return annotation.created_at.timestamp(), annotation.id


def _one_vote_each(answers: Iterable[Annotation]) -> list[Annotation]:
    """Return the most recent answer of each annotator, oldest first."""
    votes: dict[object, Annotation] = {}
    for answer in sorted(answers, key=_recency):
        votes[answer.annotator if answer.annotator is not None else ("unknown", answer.id)] = answer
    return sorted(votes.values(), key=_recency)


def _decide(votes: Sequence[Annotation], schema: LabelSchema, rule: ConsensusRule) -> Label | None:
    truths = [v for v in votes if v.ground_truth] if rule.ground_truth_first else []
    deciding = truths or votes
    chosen = _chosen(deciding, rule, multiple=schema.multiple)
    if chosen is None:
        return None
    same = [v for v in deciding if frozenset(v.labels) == chosen] or deciding
    decisive = same[-1]
    return Label(
        task_id=decisive.task_id,
        labels=tuple(name for name in schema.labels if name in chosen),
        annotation_id=decisive.id,
        annotators=tuple(sorted({name for v in votes if (name := v.answered_by or v.annotator) is not None})),
        agreement=sum(frozenset(v.labels) == chosen for v in votes) / len(votes),
        conflict=len({frozenset(v.labels) for v in votes}) > 1,
        ground_truth=bool(truths),
        labelled_at=decisive.updated_at,
    )


def _chosen(votes: Sequence[Annotation], rule: ConsensusRule, *, multiple: bool) -> frozenset[str] | None:
    """Return the winning set of names; `votes` are oldest first. None: the rule leaves it open."""
    answers = [frozenset(v.labels) for v in votes]
    if rule.vote == "most_recent" or len(set(answers)) == 1:
        return answers[-1]
    if rule.vote == "unanimous":
        return None
    return _majority_per_choice(answers, rule.tie) if multiple else _majority(answers, rule.tie)


def _majority(answers: Sequence[frozenset[str]], tie: Tie) -> frozenset[str] | None:
    counts = Counter(answers)
    most = max(counts.values())
    tied = [answer for answer in answers if counts[answer] == most]
    if tie == "none" and len(set(tied)) > 1:
        return None
    return tied[-1] if tie != "oldest" else tied[0]


def _majority_per_choice(answers: Sequence[frozenset[str]], tie: Tie) -> frozenset[str] | None:
    ticked = Counter(name for answer in answers for name in answer)
    even = {name for name, count in ticked.items() if 2 * count == len(answers)}
    if even and tie == "none":
        return None
    breaker = answers[0] if tie == "oldest" else answers[-1]
    chosen = {name for name, count in ticked.items() if 2 * count > len(answers)} | (even & breaker)
    if chosen or frozenset() in answers:
        return frozenset(chosen)
    return None if tie == "none" else breaker
