"""How numbers and the words of others stand in our sentences."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import Any

WIDE = 0.1
"""An interval of more than ten points is also told in words."""
_EVENTS = {
    "ANNOTATION_CREATED": "new labels",
    "ANNOTATIONS_CREATED": "new labels",
    "ANNOTATION_UPDATED": "changed labels",
    "ANNOTATIONS_DELETED": "deleted labels",
    "TASKS_CREATED": "new tasks",
    "TASKS_DELETED": "deleted tasks",
    "PROJECT_UPDATED": "the project was changed",
    "PROJECT_DELETED": "the project was deleted",
    "START_TRAINING": "Start Training was pressed",
    "poll": "a regular check",
}


def amount(count: int, one: str, many: str | None = None) -> str:
    """`amount(1, "task")` is "1 task", `amount(1200, "task")` is "1,200 tasks"; `many` where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def per_cent(share: float) -> str:
    """As it was asked for: 0.25 % is not told as 0.2, nor 99.9999 % as 100."""
    return f"{100 * share:.10g}%"


def encodable(text: str) -> str:
    """Return `text` with half characters (lone surrogates, which JSON may hold) written out: they go into no answer."""
    return text.encode("utf-8", "backslashreplace").decode()


def measured(holdout: Mapping[str, Any] | None) -> str:
    """The held-out accuracy with its interval, as it stands in tables and in the status."""
    if not holdout or not holdout.get("n"):
        return "not measured yet"
    undecided = f", {holdout['undecided']} without a label" if holdout.get("undecided") else ""
    return f"{holdout['accuracy']:.1%} ({holdout['low']:.1%} to {holdout['high']:.1%}, n={holdout['n']}{undecided})"


def interval(value: Mapping[str, Any] | None) -> str:
    """A number with its 95 % interval; nothing where there is none."""
    return f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})" if value else ""


def small_slice(holdout: Mapping[str, Any] | None) -> str | None:
    """What few measured images leave open, in words; None where the interval is narrow, or nothing is measured."""
    if not holdout or not holdout.get("n") or holdout["high"] - holdout["low"] <= WIDE:
        return None
    low, high = floor(100 * holdout["low"]), ceil(100 * holdout["high"])
    between = f"anywhere between {low}% and {high}%" if high < 100 else f"{low}% or more"
    return f"{amount(holdout['n'], 'image')} measured: the true accuracy may be {between}"


def imbalance(holdout: Mapping[str, Any] | None) -> str | None:
    """What the accuracy hides where one class is about as common as it is high; None where it does not."""
    commonest, balanced = ((holdout or {}).get(name) for name in ("commonest", "balanced_accuracy"))
    if not holdout or not commonest or not balanced or commonest["share"] <= max(holdout["low"], 0.5):
        return None
    return (
        f"always answering {commonest['name']!r} would be right on {commonest['share']:.1%}: go by the balanced accuracy, "
        f"{interval(balanced)}, the mean recall of {amount(balanced['classes'], 'class', 'classes')}"
    )


def undecided(holdout: Mapping[str, Any] | None) -> str | None:
    """What the images without a label leave open that belong to the measured ones, in words; None where there are none.

    They may be the hard ones, or images that nothing can be said of: so the interval is told for both.
    """
    if not holdout or not holdout.get("n") or not (count := holdout.get("undecided")):
        return None
    of = holdout["n"] + count
    low, high = floor(100 * holdout["worst"]), ceil(100 * holdout["best"])
    was, those = ("was", "it") if count == 1 else ("were", "those")
    return (
        f"{count} of {of} images {was} skipped or {'has' if count == 1 else 'have'} no agreed label, and may be hard: with "
        f"{those} the true accuracy is between {low}% and {high}%"
    )


def shortened(text: str, most: int = 500) -> str:
    """Return `text` on one line; where it is longer than `most` characters, it ends after a whole word with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(",;:.") + " …"


def job_reason(reason: str) -> str:
    """Why a job is due, for a person: Label Studio's names of events in words, all else as it is."""
    return _EVENTS.get(reason, reason)
