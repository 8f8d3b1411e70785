"""The queue of a project as it is served: which images are asked for, in which order, with which guess, and why."""

from __future__ import annotations

from typing import Any

from ml_backend.records import BLIND, Query, Task
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.rounds import UNGUESSED, Round
from ml_backend.task_names import printable, task_filename
from ml_backend.wording import encodable, shortened

SHOWN = 60
"""Images at a time."""
LONGEST = 60
"""Characters of a file's name."""


def look(project: Project, services: Services) -> dict[str, Any]:
    round_ = services.ledger.current_round(project)
    if round_ is None:
        return {"queue": None, "missing": _missing(project, services)}
    queries, done = services.ledger.queries(round_), services.ledger.answered_of(round_)
    there = [query for query in queries if query.task_id in done]
    waiting = [query for query in there if not done[query.task_id]]
    first = (waiting + [query for query in there if done[query.task_id]])[:SHOWN]
    shown = sorted(first, key=lambda query: query.rank)
    audited = services.acceptances.is_blind(project) or bool(round_.params.get(UNGUESSED))
    hidden = not services.atlas.shows_guesses(project) or bool(round_.params.get(UNGUESSED))
    ids = [query.task_id for query in shown]
    tasks = {task.id: task for task in services.ledger.tasks(project, ids)}
    held = services.ledger.held_out(project, ids) | services.ledger.drawn_blind(project)
    return {
        "missing": "",
        "queue": _told(round_) | {"tasks": len(queries), "waiting": len(waiting), "blind": audited, "hidden": hidden},
        "more": len(there) - len(shown),
        "images": [
            _image(query, tasks[query.task_id], answered=done[query.task_id], blind=hidden or query.task_id in held)
            for query in shown
            if query.task_id in tasks
        ],
    }


def _told(round_: Round) -> dict[str, Any]:
    since = round_.verified_at or round_.pushed_at or round_.created_at
    return {
        "name": round_.served_name,
        "strategy": round_.strategy,
        "state": round_.state,
        "since": f"{since:%Y-%m-%d %H:%M} UTC",
    }


def _image(query: Query, task: Task, *, answered: bool, blind: bool) -> dict[str, Any]:
    """Nothing that a model says of it, where people are to answer without."""
    hidden = blind or query.arm in BLIND
    return {
        "id": task.id,
        "rank": query.rank,
        "name": shortened(encodable(printable(task_filename(task))), LONGEST) or f"task {task.id}",
        "answered": answered,
        "guess": "" if hidden else encodable(" + ".join(query.prediction)),
        "confidence": None if hidden else query.confidence,
        "why": "asked for without a guess" if hidden else _why(query),
    }


def _why(query: Query) -> str:
    if query.arm == "random":
        return "drawn at random, to compare with"
    return encodable(shortened(query.reason, 200))


def _missing(project: Project, services: Services) -> str:
    counts = services.ledger.counts(project)
    if not counts.tasks:
        return "The project has no image that is known here: import some, as with `ml-backend import-images`."
    return "There is no queue yet: the first turn makes one."
