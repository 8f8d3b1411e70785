"""What is known of an answer from when it was given: who gave it, and what was asked then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from ml_backend.records import Annotation, LabelSchema
from ml_backend.store.projects import Project
from ml_backend.store.schema import answers

AT_ONCE = timedelta(seconds=1)
"""Label Studio stamps a new annotation twice."""


def as_given(project: Project, now: Annotation, known: Sequence[Annotation]) -> Annotation:
    """The answer with what is known of it from when it was given."""
    before = next((annotation for annotation in known if annotation.id == now.id), None)
    return replace(_signed(project, now, before), none_of=_none_of(project, now, before))


def several_of(project: Project) -> str:
    return project.schema.from_name if project.schema.multiple else ""


def _none_of(project: Project, now: Annotation, before: Annotation | None) -> str | None:
    """The `Choices` of which the answer says none.

    It was asked for what the label config said when it was submitted, so what was read then stays, until it is
    submitted again. While the change to this `Choices` is being noticed, nobody can tell before or after: not counted.
    """
    if before is not None and (before.labels, before.was_cancelled) == (now.labels, now.was_cancelled):
        submitted_again = before.updated_at != now.updated_at and before.ground_truth == now.ground_truth
        if not submitted_again:
            return before.none_of
    return now.none_of if project.schema.multiple and project.several_of in {None, now.none_of} else None


def _signed(project: Project, now: Annotation, before: Annotation | None) -> Annotation:
    """Say who made the answer say what it says.

    Label Studio names as its editor also who only set or unset the ground truth: what was not seen to change its labels
    leaves the name as it is. Nor does it say another thing because a label is called something else now.
    """
    same = before is not None and _renamed(project, before.labels) == _renamed(project, now.labels)
    if before is not None and before.accepted and not now.accepted:
        return replace(now, answered_by=now.editor or now.annotator)  # who let a model's label stand has said it
    if before is not None and same and before.was_cancelled == now.was_cancelled:
        return replace(now, answered_by=before.answered_by or now.annotator)
    untouched = before is None and (now.ground_truth or now.updated_at - now.created_at < AT_ONCE)
    return replace(now, answered_by=now.annotator if untouched else now.editor or now.annotator)


def _renamed(project: Project, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels by their new names, while one gets another name."""
    if project.state.relabelling is None:
        return tuple(labels)
    old, new = project.state.relabelling
    return tuple(dict.fromkeys(new if name == old else name for name in labels))


def blank(schema: LabelSchema) -> sa.ColumnElement[bool]:
    """`consensus.is_blank` of an answer that was not skipped."""
    empty = sa.and_(sa.type_coerce(answers.c.labels, sa.Text) == "[]", sa.not_(answers.c.was_cancelled))
    return sa.and_(empty, answers.c.none_of.is_distinct_from(schema.from_name)) if schema.multiple else empty
