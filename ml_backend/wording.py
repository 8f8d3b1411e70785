"""How numbers and the words of others stand in our sentences."""

from __future__ import annotations

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


def encodable(text: str) -> str:
    """Return `text` with half characters (lone surrogates, which JSON may hold) written out: they go into no answer."""
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(text: str, most: int = 500) -> str:
    """Return `text` on one line; where it is longer than `most` characters, it ends after a whole word with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(",;:.") + " …"


def job_reason(reason: str) -> str:
    """Why a job is due, for a person: Label Studio's names of events in words, all else as it is."""
    return _EVENTS.get(reason, reason)
