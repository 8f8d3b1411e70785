"""What may be changed of a project while it runs: some settings, and whether it is paused; with the job that waits.

Each change is one transaction, so that a process killed anywhere leaves all of it or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from ml_backend.store.database import Database
from ml_backend.store.jobs import Jobs
from ml_backend.store.project_state import ProjectState
from ml_backend.store.projects import Project, lock
from ml_backend.store.schema import projects

QUEUE = frozenset({"strategy", "batch_size"})
"""What decides the queue: once it is changed, a turn is due that renews it."""


@dataclass(frozen=True)
class Tuning:
    """The settings of single projects, in one store."""

    database: Database
    jobs: Jobs

    def choose(self, project: Project, **changes: Any) -> tuple[Project, Project]:
        """Change these settings, which were looked at before; None: as the service is set. Returns the project before and after.

        What waits is due as it would be had its labels come now; a changed queue is due at once. Others stay as they are, whoever
        changes them meanwhile.
        """
        with self.database.write() as connection:
            before = lock(connection, project.id)
            chosen = before.state.chosen.changed(**changes)
            now_chosen = chosen.as_json() or None
            if now_chosen == (before.state.chosen.as_json() or None):
                return before, before
            after = _keep(connection, before, before.state.changed(chosen=now_chosen))
            self.jobs.retime_in(connection, before, after)
            if any(getattr(before.state.chosen, name) != getattr(chosen, name) for name in QUEUE):
                self.jobs.mark_due_in(connection, project.id, immediately=True, reason="settings changed")
            return before, after

    def pause(self, project: Project) -> tuple[Project, Project]:
        """From now on no turn begins, until `resume`; one that is under way ends. Returns the project before and after."""
        with self.database.write() as connection:
            before = lock(connection, project.id)
            if before.state.paused:
                return before, before
            return before, _keep(connection, before, before.state.changed(paused=self.jobs.clock().isoformat()))

    def resume(self, project: Project) -> tuple[Project, Project]:
        """Turns begin again, the first at once: nobody has looked meanwhile. Returns the project before and after."""
        with self.database.write() as connection:
            before = lock(connection, project.id)
            if not before.state.paused:
                return before, before
            after = _keep(connection, before, before.state.changed(paused=None))
            self.jobs.mark_due_in(connection, project.id, immediately=True, reason="resumed")
            return before, after


def _keep(connection: Connection, project: Project, state: ProjectState) -> Project:
    connection.execute(projects.update().where(projects.c.id == project.id).values(settings=state.as_json()))
    return lock(connection, project.id)
