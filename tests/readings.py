"""What tests look up in the store, or in Label Studio, that the service itself never asks for."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ml_backend.labelstudio.client import PAGE, LabelStudio
from ml_backend.labelstudio.queue import LIVE, of_version
from ml_backend.records import Annotation
from ml_backend.store.heldout import is_held_out
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import annotation_of
from ml_backend.store.schema import answers, tasks


@dataclass(frozen=True)
class Quarantined:
    """An answer that cannot count under the present label config, and why."""

    task_id: int
    annotation_id: int
    labels: tuple[str, ...]
    reason: str


def answers_to(ledger: Ledger, project: Project, task_id: int) -> list[Annotation]:
    """What every annotator said of one task, skips and quarantined answers included, by id."""
    mine = sa.select(answers).where(answers.c.project_id == project.id, answers.c.task_id == task_id)
    with ledger.database.read() as connection:
        return [annotation_of(row) for row in connection.execute(mine.order_by(answers.c.annotation_id))]


def quarantined(ledger: Ledger, project: Project) -> list[Quarantined]:
    found = (
        sa.select(answers.c.task_id, answers.c.annotation_id, answers.c.labels, answers.c.quarantine)
        .where(answers.c.project_id == project.id, answers.c.quarantine.is_not(None))
        .order_by(answers.c.task_id, answers.c.annotation_id)
    )
    with ledger.database.read() as connection:
        return [Quarantined(*row) for row in connection.execute(found)]


def held_out_tasks(ledger: Ledger, project: Project) -> list[int]:
    """Ids of the tasks held out, asked for or not, labelled or not, ascending."""
    held = sa.select(tasks.c.task_id).where(tasks.c.project_id == project.id, is_held_out(project))
    with ledger.database.read() as connection:
        return list(connection.scalars(held.where(sa.not_(tasks.c.gone)).order_by(tasks.c.task_id)))


def read_back(client: LabelStudio, project_id: int, version: str) -> list[int]:
    """The unlabelled tasks in the order in which uncertainty sampling would serve them under `version`.

    Lowest score first, to the end of the batch; tasks with nothing but a live prediction come after it and are left out.
    """
    served: list[tuple[float, int]] = []
    page, total = 0, 1
    while page * PAGE < total:
        page += 1
        query = of_version(version)
        answer = client.listing(project_id, "id,is_labeled,predictions", query, fields="all", page=page, size=PAGE)
        total = answer["total"]
        for raw in answer["tasks"]:
            scores = [
                p["score"] for p in raw["predictions"] if p["model_version"] == version and p["score"] is not None
            ]
            if scores and min(scores) < LIVE and not raw["is_labeled"]:
                served.append((min(scores), raw["id"]))
    return [task_id for _, task_id in sorted(served)]
