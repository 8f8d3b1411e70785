"""How many images have each class: labels of people, accepted ones, and what the model takes the rest for."""

from __future__ import annotations

from typing import Any

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.charts import bar
from ml_backend.web.sections.classes_section import found_balance

Shown = dict[str, Any]


def look(project: Project, services: Services) -> Shown:
    """Where nobody is to be shown a guess, nothing of what the model takes the rest for."""
    found, guessed = found_balance(project, services), project.state.guessed
    blind = services.acceptances.is_blind(project)
    shows = services.atlas.shows_guesses(project)
    told = guessed if shows else None
    known = found.value
    people, accepted = (known.people, known.accepted) if known else ({}, {})
    counts = told.counts if told else {}
    labelled, of_model = (known.labelled, known.of_model) if known else (0, 0)
    asked = told.asked if told else 0
    names = [*dict.fromkeys([*(known.classes if known else project.schema.labels), *counts])]
    shares = [
        _share(each.get(name, 0), of)
        for name in names
        for each, of in ((people, labelled), (accepted, of_model), (counts, asked))
    ]
    most = max(shares, default=0.0)
    rows = [
        {
            "name": name,
            "people": people.get(name, 0),
            "accepted": accepted.get(name, 0),
            "guessed": _per_cent(counts.get(name, 0), asked),
            "bars": {
                "people": bar(_share(people.get(name, 0), labelled), most),
                "accepted": bar(_share(accepted.get(name, 0), of_model), most),
                "guessed": bar(_share(counts.get(name, 0), asked), most),
            },
        }
        for name in names
    ]  # fmt: skip
    return {
        "coming": not found.is_current,
        "known": known is not None,
        "labelled": labelled,
        "of_model": of_model,
        "blind": blind,
        "hidden": not shows,
        "guessed": told and {"version": f"v{told.version}", "waiting": told.waiting, "asked": told.asked},
        "rows": sorted(rows, key=lambda row: -int(row["people"])),
    }


def _share(count: int, of: int) -> float:
    return count / of if of else 0.0


def _per_cent(count: int, of: int) -> str:
    """Of a share that was asked of some, no more than is known: half a per cent."""
    if not of:
        return ""
    if not count:
        return "none"
    return "under 1%" if count / of < 0.01 else f"{count / of:.0%}"
