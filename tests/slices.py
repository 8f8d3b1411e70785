"""A split as a test wants it, in place of what the content of its images would give."""

from __future__ import annotations

from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.schema import tasks


def held_out(ledger: Ledger, project: Project, *task_ids: int, round_: int | None = 1) -> Project:
    """Hold these tasks out, asked for in this order from round `round_` on, and no others; returns the project as it is."""
    with ledger.database.write() as connection:
        mine = tasks.update().where(tasks.c.project_id == project.id)
        connection.execute(mine.values(place=0.9, reached=None, found=None))
        for rank, task in enumerate(task_ids):
            this = mine.where(tasks.c.task_id == task)
            connection.execute(this.values(place=rank / 1e6, reached=round_, found=False))
    return ledger.configure(project, reserved_share=0.001)  # as good as nothing else lies below
