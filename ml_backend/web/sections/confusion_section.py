"""Which classes the version that is served takes for which; a cell opens its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml_backend.insight.confusion import Confusion, cell, confusion
from ml_backend.learning.held_out_answers import HeldOutAnswers
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.version import Version
from ml_backend.task_names import printable, task_filename
from ml_backend.wording import encodable, shortened

Shown = dict[str, Any]
CLASSES, WORST, IMAGES = 16, 8, 60
"""Classes in the matrix unless all are asked for, cells told in words, and images of a cell."""
MOST_CLASSES = 60
"""And where all are asked for: more is no table that anybody reads."""
NOTHING = "(nothing)"
LONGEST = 60
"""Characters of a file's name."""


def look(project: Project, services: Services) -> Shown:
    return part(project, services, {})


def part(project: Project, services: Services, query: Mapping[str, str]) -> Shown:
    """true, guess: names of a cell's classes, "" for nothing; then its images, not the matrix. all: every class.

    Nothing while an audit is on: a new version's matrix, less that of the one before, is its guess of what was just answered.
    """
    if services.acceptances.is_blind(project):
        return {"missing": "An audit is on: what is taken for what is told again once it is over.", "cell": None}
    version = services.versions.current(project)
    answers = HeldOutAnswers.load(version.folder) if version else None
    classes = tuple((version.meta.classes if version else None) or ())
    if version is None or answers is None or not len(answers.tasks) or answers.said.shape[1] != len(classes):
        return {"missing": _missing(version), "cell": None}
    if "true" in query or "guess" in query:
        opened = _cell(project, services, answers, classes, query.get("true", ""), query.get("guess", ""))
        return {"missing": None, "cell": opened, "version": version.name}
    found = confusion(answers, classes)
    return {
        "missing": None,
        "cell": None,
        "version": version.name,
        **_matrix(found, bool(query.get("all")), len(answers.tasks)),
    }


def _missing(version: Version | None) -> str:
    if version is None:
        return "There is no model yet: what it takes for what is known once held-out images are labelled."
    if not (version.meta.metrics.holdout or {}).get("n"):
        return f"{version.name} is not measured yet: that takes labels on held-out images."
    return f"{version.name} has not kept what it said of each held-out image: the next version does."


def _matrix(found: Confusion, everything: bool, images: int) -> Shown:
    """The classes that are mistaken, or all, in the order of the label config."""
    count = len(found.classes)
    places = [*range(min(count, MOST_CLASSES))] if everything else found.most_mistaken(CLASSES)
    nothing = [count] if found.counts[count].any() or found.counts[:, count].any() else []
    shown = [*places, *nothing]
    sums = found.counts.sum(axis=1)
    wrong = found.worst(WORST)
    return {
        "images": images,
        "right": not wrong,
        "worst": [_pair(found, row, column) | {"count": n} for row, column, n in wrong],
        "columns": [_name(found, place) for place in shown],
        "rows": [
            {
                "name": _name(found, row),
                "images": int(sums[row]),
                "cells": [
                    _pair(found, row, column)
                    | {"count": int(found.counts[row, column]), "kind": _kind(found, row, column, int(sums[row]))}
                    for column in shown
                ],
            }
            for row in shown
        ],
        "left_out": count - len(places),
        "all": everything,
        "too_many": count > MOST_CLASSES,
    }


def _pair(found: Confusion, row: int, column: int) -> Shown:
    return {
        "truth": _name(found, row),
        "guess": _name(found, column),
        "query": {"true": _asked(found, row), "guess": _asked(found, column)},
    }


def _asked(found: Confusion, place: int) -> str:
    return found.classes[place] if place < len(found.classes) else ""


def _name(found: Confusion, place: int) -> str:
    return _asked(found, place) or NOTHING


def _kind(found: Confusion, row: int, column: int, of: int) -> str:
    """How strong the colour is: by the share of the row's images."""
    if row == column:
        return "right"
    share = found.counts[row, column] / max(of, 1)
    return "" if not share else f"h{1 + int(np.searchsorted([0.1, 0.25, 0.5], share))}"


def _cell(
    project: Project, services: Services, answers: HeldOutAnswers, classes: Sequence[str], true: str, guess: str
) -> Shown:
    """Images that wait for an answer of somebody else are left out: nobody is to see the guess before."""
    told = {
        "truth": true or NOTHING,
        "guess": guess or NOTHING,
        "right": true == guess,
        "images": [],
        "more": 0,
        "hidden": 0,
    }
    if any(name and name not in classes for name in (true, guess)):
        return told | {"unknown": True}
    row, column = (classes.index(name) if name else -1 for name in (true, guess))
    places = cell(answers, row, column)
    ids = answers.tasks[places].tolist()
    settled = services.ledger.settled(project, ids)
    there = [(task, float(sure)) for task, sure in zip(ids, answers.confidence[places], strict=True) if task in settled]
    first = there[:IMAGES]
    tasks = {task.id: task for task in services.ledger.tasks(project, [task for task, _ in first])}
    images = [
        {
            "id": task,
            "name": shortened(encodable(printable(task_filename(tasks[task]))), LONGEST) or f"task {task}",
            "sure": f"{sure:.0%}",
        }
        for task, sure in first
        if task in tasks
    ]
    return told | {
        "unknown": False,
        "images": images,
        "more": len(there) - len(first),
        "hidden": len(ids) - len(there),
    }
