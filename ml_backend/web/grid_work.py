"""The work of the grid: choose a page of look-alikes, write what a person says of it under their name, take it back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.hosts import selected
from ml_backend.labelstudio.bulk_annotations import BY_HAND, Written, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import hotkeys
from ml_backend.labelstudio.own_answers import given_by, open_tasks, take_back
from ml_backend.look_alikes import Guesses, LookAlikes
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.task_names import called
from ml_backend.web.persons import Person, Persons
from ml_backend.web.shown_pages import Given, ShownPages

PAGE = 60
"""Images of a page."""
LOOKS = 5
"""How often Label Studio is asked, for one page, which of the tasks are open; the ledger knows of most."""


class GridWork:
    """The grids of all projects of this process. Every method may take seconds: it asks Label Studio."""

    def __init__(self, services: Services, persons: Persons) -> None:
        self._services, self._persons = services, persons
        self._look_alikes = LookAlikes(
            services.ledger, services.features, services.predictor, services.settings, services.acceptances
        )
        self._shown: dict[int, ShownPages] = {}
        self._lock = threading.Lock()

    def page(self, project: Project, token: str | None, label: str | None) -> dict[str, Any]:
        """Up to PAGE look-alikes of a class, by default of the one that most tasks are taken for.

        Raises ForbiddenError, ConflictError, NotFoundError or LabelStudioUnavailableError, each with what to do.
        """
        with self._persons.client(project, token) as client:
            person = self._persons.ask(project, client)
            guesses = self._look_alikes.guesses(project)
            shown = self._shown_of(project)
            waiting = set(guesses.ids.tolist())
            counts = guesses.counts(shown.elsewhere(person.id, waiting), shown.refused())
            label = label or max(counts, key=counts.__getitem__)
            _require_label(label, guesses.labels)
            tasks = self._open_look_alikes(project, person, label, guesses, client)
        shown.hold(person.id, tasks)
        names = {task.id: called(task) for task in self._services.ledger.tasks(project, tasks)}
        return {
            "label": label,
            "person": person.name,
            "classes": [
                {"name": name, "key": key if key.isdigit() else "", "tasks": count}
                for (name, count), key in zip(counts.items(), hotkeys(guesses.labels), strict=True)
            ],
            "tasks": [{"id": task, "name": names[task]} for task in tasks if task in names],
        }

    def _open_look_alikes(
        self, project: Project, person: Person, label: str, guesses: Guesses, client: LabelStudio
    ) -> list[int]:
        shown, waiting = self._shown_of(project), set(guesses.ids.tolist())
        refused = shown.refused().get(label, set())
        found: list[int] = []
        for _ in range(LOOKS):
            wanted = guesses.alike(label, shown.elsewhere(person.id, waiting) | refused, 2 * PAGE)
            still = open_tasks(project.key.project_id, wanted, client)
            shown.answered(set(wanted) - still)
            found = [task for task in wanted if task in still]
            if len(found) >= PAGE or len(found) == len(wanted):
                break
        return found[:PAGE]

    def write(
        self,
        project: Project,
        token: str | None,
        label: str,
        tasks: Sequence[int],
        unticked: Sequence[int],
        seconds: float,
    ) -> dict[str, Any]:
        """Label these tasks as the person; the unticked ones are not shown as this class again.

        What somebody answered meanwhile keeps that answer; what was held out or drawn for an audit meanwhile stays blind.
        Safe to repeat. Raises what `page` does, and InvalidInputError for a class that the project does not have.
        """
        self._look_alikes.require_shown(project)
        shown = self._shown_of(project)
        here = {task.id for task in self._services.ledger.tasks(project, tasks)}
        blind = self._look_alikes.blind_among(project, here)
        labels = {task: (label,) for task in tasks if task in here - blind}
        with self._persons.client(project, token) as client:
            person = self._persons.ask(project, client)
            self._require_config(project, client)
            _require_label(label, project.schema.labels)
            with shown.alone(person.id):
                done = self._write(project, person, labels, seconds, client) if labels else Written()
            given = given_by(person.id, label, project.key.project_id, project.schema, done.written, client)
        shown.refuse(label, unticked)
        shown.answered([*done.written, *done.answered, *done.gone])
        if given:
            shown.give(person.id, Given(label, given))
        return {
            "label": label,
            "written": len(done.written),
            "answered": len(done.answered),
            "gone": len(done.gone) + len(set(tasks) - here),
            "blind": len(blind),
        }

    def _write(
        self,
        project: Project,
        person: Person,
        labels: Mapping[int, Sequence[str]],
        seconds: float,
        client: LabelStudio,
    ) -> Written:
        """Under a mark of the person's own: what others have under way is left alone."""
        mark, each = f"{BY_HAND}{person.id}-", round(seconds / len(labels), 2)
        try:
            return write_annotations(project.key.project_id, project.schema, labels, client, mark=mark, lead_time=each)
        finally:  # of what failed some may have been written
            self._services.jobs.mark_due(project, reason="labelled in the grid")

    def undo(self, project: Project, token: str | None) -> dict[str, Any]:
        """Delete what the person's last page wrote, but for answers that somebody has changed since."""
        shown = self._shown_of(project)
        with self._persons.client(project, token) as client:
            person = self._persons.ask(project, client)
            last = shown.last(person.id)
            if last is None or not last.answers:
                raise ConflictError("There is no page of yours to take back: change single answers in Label Studio.")
            with shown.alone(person.id):
                gone, kept = take_back(project.key.project_id, project.schema, last.answers, client)
            self._services.jobs.mark_due(project, reason="taken back in the grid")
        shown.taken_back(person.id, gone)
        return {"label": last.label, "deleted": len(gone), "kept": len(kept)}

    def _require_config(self, project: Project, client: LabelStudio) -> None:
        """A label is written in the names that Label Studio has now."""
        now = client.get_project(project.key.project_id)["label_config"]
        if now != project.label_config and self._services.registry.schema(now, selected(project)) != project.schema:
            raise ConflictError(
                "The label config was changed in Label Studio, and nothing was written: reload this page in a few seconds, "
                "when the service has seen the change."
            )

    def _shown_of(self, project: Project) -> ShownPages:
        with self._lock:
            return self._shown.setdefault(project.id, ShownPages())


def _require_label(label: str, labels: Sequence[str]) -> None:
    if label not in labels:
        raise InvalidInputError(f"{label!r} is no label of this project: choose one of {', '.join(labels)}.")
