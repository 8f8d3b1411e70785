"""How many images have each class: by people's labels, by accepted ones, and by what the model takes the rest for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from ml_backend.store.schema import accepted, labels

NONE = "(none of them)"
"""Where several labels may be given: an image of which people say that none fits."""


@dataclass(frozen=True)
class Balance:
    """people, accepted: images by class, in the order of the label config, other names behind it; an image counts for each of its labels.

    labelled, of_model: how many images have a label of people, and one that was accepted of a model.
    """

    classes: tuple[str, ...]
    people: dict[str, int]
    accepted: dict[str, int]
    labelled: int
    of_model: int


def balance(project: Project, database: Database) -> Balance:
    """Reads every label: a second for a million."""
    people, labelled = _counted(project, database, labels)
    of_model, accepted_ones = _counted(project, database, accepted)
    known = list(project.schema.labels)
    others = sorted((people.keys() | of_model.keys()) - {*known})
    return Balance((*known, *others), people, of_model, labelled, accepted_ones)


def _counted(project: Project, database: Database, table: sa.Table) -> tuple[dict[str, int], int]:
    text = sa.type_coerce(table.c.labels, sa.Text)
    statement = sa.select(text, sa.func.count()).where(table.c.project_id == project.id).group_by(text)
    counts, images = Counter[str](), 0
    with database.read() as connection:
        for names, count in connection.execute(statement):
            images += count
            for name in json.loads(names) or [NONE]:
                counts[name] += count
    return dict(counts), images
