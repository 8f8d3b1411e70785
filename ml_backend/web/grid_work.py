"""The work of the grid: choose a page of look-alikes, or of what an audit asks for; write what a person says; take it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.hosts import selected
from ml_backend.labelstudio.bulk_annotations import BY_HAND, Written, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import hotkeys
from ml_backend.labelstudio.own_answers import given_by, open_tasks, take_back
from ml_backend.look_alikes import LookAlikes
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.task_names import called
from ml_backend.web.persons import Person, Persons
from ml_backend.web.shown_pages import Given, ShownPages

if TYPE_CHECKING:
    from ml_backend.acceptance.standing import Standing

PAGE = 60
"""Images of a page."""
TAKEN = "u"
"""The page takes it to undo; of an audit, all other keys of Label Studio's page are those of their classes."""
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
        """Up to PAGE look-alikes of a class, by default of the one that most tasks are taken for; or what an audit asks for.

        While an audit is on, nothing of what the model thinks is in it.
        Raises ForbiddenError, ConflictError, NotFoundError or LabelStudioUnavailableError, each with what to do.
        """
        with self._persons.client(project, token) as client:
            person = self._persons.ask(project, client)
            if self._services.acceptances.is_blind(project):
                told = self._asked(project, person, client)
            else:
                told = self._alike(project, person, label, client)
        self._shown_of(project).hold(person.id, told["tasks"])
        names = {task.id: called(task) for task in self._services.ledger.tasks(project, told["tasks"])}
        tasks = [{"id": task, "name": names[task]} for task in told["tasks"] if task in names]
        return told | {"person": person.name, "tasks": tasks}

    def _alike(self, project: Project, person: Person, label: str | None, client: LabelStudio) -> dict[str, Any]:
        guesses = self._look_alikes.guesses(project)
        shown = self._shown_of(project)
        waiting = set(guesses.ids.tolist())
        counts = guesses.counts(shown.elsewhere(person.id, waiting), shown.refused())
        wanted = label or max(counts, key=counts.__getitem__)
        _require_label(wanted, guesses.labels)
        refused = shown.refused().get(wanted, set())

        def next_ones() -> list[int]:
            return guesses.alike(wanted, shown.elsewhere(person.id, waiting) | refused, 2 * PAGE)

        return {
            "mode": "look-alikes",
            "label": wanted,
            "asked": None,
            "next": "",
            "classes": [
                {"name": name, "key": key if key.isdigit() else "", "tasks": count}
                for (name, count), key in zip(counts.items(), hotkeys(guesses.labels), strict=True)
            ],
            "tasks": self._open(project, next_ones, client),
        }

    def _asked(self, project: Project, person: Person, client: LabelStudio) -> dict[str, Any]:
        """What the audit asks for, in the order drawn; what this person has passed by comes last."""
        shown, standing = self._shown_of(project), self._standing(project)
        asked = self._drawn(project, standing)
        rows = self._services.ledger.pool(project)
        waiting = set(rows.ids[rows.waiting].tolist())
        passed = shown.passed(person.id, asked)

        def left() -> list[int]:
            elsewhere = shown.elsewhere(person.id, waiting)
            return sorted((task for task in asked if task not in elsewhere), key=passed.__contains__)

        tasks = self._open(project, lambda: left()[: 2 * PAGE], client)
        labels = project.schema.labels
        return {
            "mode": "audit",
            "label": None,
            "asked": len(left()),
            "next": "" if tasks else _next(standing),
            "classes": [
                {"name": name, "key": key if key != TAKEN else "", "tasks": None}
                for name, key in zip(labels, hotkeys(labels), strict=True)
            ],
            "tasks": tasks,
        }

    def _open(self, project: Project, next_ones: Callable[[], list[int]], client: LabelStudio) -> list[int]:
        """Up to PAGE of the next ones that are open in Label Studio; of the others it is noted that they are not."""
        shown = self._shown_of(project)
        found: list[int] = []
        for _ in range(LOOKS):
            wanted = next_ones()
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
        here = {task.id for task in self._services.ledger.tasks(project, tasks)}
        blind = self._look_alikes.blind_among(project, here)
        labels = {task: (label,) for task in tasks if task in here - blind}
        with self._persons.client(project, token) as client:
            person = self._persons.ask(project, client)
            self._require_config(project, client)
            _require_label(label, project.schema.labels)
            done = self._label(project, person, labels, seconds, client, all_as=label, until=self._shown_still(project))
        self._shown_of(project).refuse(label, unticked)
        return _told(done, label, gone=len(set(tasks) - here), blind=len(blind))

    def answer(
        self,
        project: Project,
        token: str | None,
        answers: Sequence[tuple[int, str]],
        passed: Sequence[int],
        seconds: float,
    ) -> dict[str, Any]:
        """Give tasks that the audit asks for their classes, each its own, as the person.

        What somebody answered meanwhile keeps that answer. Safe to repeat. Raises what `write` does, and InvalidInputError, with
        nothing written, for a task that the audit does not ask for, or that stands there twice.
        """
        given = dict(answers)
        with self._persons.client(project, token) as client:
            person = self._persons.ask(project, client)
            standing = self._standing(project)
            here = {task.id for task in self._services.ledger.tasks(project, list(given))}
            _require_asked(answers, here, asked := set(self._drawn(project, standing)), standing.answered_tasks)
            self._require_config(project, client)
            for label in given.values():
                _require_label(label, project.schema.labels)
            labels = {task: (label,) for task, label in given.items() if task in asked & here}
            done = self._label(project, person, labels, seconds, client)
        self._shown_of(project).pass_by(person.id, passed)
        done.answered += here - asked
        return _told(done, None, gone=len(set(given) - here))

    def _standing(self, project: Project) -> Standing:
        """How far the audit is. Raises ConflictError where none is on, or nothing can be answered here or decided by it now."""
        acceptance = self._services.acceptances.auditing(project)
        if acceptance is None:
            raise ConflictError("The audit is over, and nothing was written: the grid shows look-alikes again.")
        if project.state.overlap > 1:
            raise ConflictError(
                f"Each image of this project is labelled by {project.state.overlap} people on their own, and an audit is on: "
                "answer what it asks for in Label Studio's queue."
            )
        standing = self._services.auditing.standing(project, acceptance)
        if standing.fault:
            raise ConflictError(standing.fault)
        return standing

    def _drawn(self, project: Project, standing: Standing) -> list[int]:
        """What the audit asks for and a turn has put before people, in the order drawn."""
        drawn = self._services.ledger.drawn_blind(project)
        return [task for task in standing.asked_tasks if task in drawn]

    def _label(
        self,
        project: Project,
        person: Person,
        labels: Mapping[int, Sequence[str]],
        seconds: float,
        client: LabelStudio,
        *,
        all_as: str | None = None,
        until: Callable[[], object] = lambda: None,
    ) -> Written:
        """Write, and remember what came of it. all_as: the label, where it is one for all. until: raises where no more is to be written."""
        shown = self._shown_of(project)
        with shown.alone(person.id):
            done = self._write(project, person, labels, seconds, client, until) if labels else Written()
        mine = {task: labels[task] for task in done.written}
        given = given_by(person.id, project.key.project_id, project.schema, mine, client)
        shown.answered([*done.written, *done.answered, *done.gone])
        if given:
            shown.give(person.id, Given(all_as, given))
        return done

    def _write(
        self,
        project: Project,
        person: Person,
        labels: Mapping[int, Sequence[str]],
        seconds: float,
        client: LabelStudio,
        until: Callable[[], object],
    ) -> Written:
        """Under a mark of the person's own: what others have under way is left alone."""
        mark, each, number = f"{BY_HAND}{person.id}-", round(seconds / len(labels), 2), project.key.project_id
        try:
            return write_annotations(number, project.schema, labels, client, mark=mark, lead_time=each, until=until)
        finally:  # of what failed some may have been written
            self._services.jobs.mark_due(project, reason="labelled in the grid")

    def _shown_still(self, project: Project) -> Callable[[], None]:
        """Raises ConflictError from the moment on from which no guess is shown: the page has waited, and an audit may have begun."""
        return lambda: self._look_alikes.require_shown(project)

    def require_shown(self, project: Project) -> None:
        """Raise ConflictError, with what to change, where images are not to be labelled here."""
        self._look_alikes.require_shown(project)

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


def _require_asked(
    answers: Sequence[tuple[int, str]], here: Collection[int], asked: Collection[int], answered: Collection[int]
) -> None:
    """A task that was answered since the page was shown is no mistake, nor is one that was deleted."""
    tasks = [task for task, _ in answers]
    if len(set(tasks)) < len(tasks):
        raise InvalidInputError("Nothing was written: a task stands there twice, and it gets one class.")
    if strange := sorted(set(tasks) & set(here) - set(asked) - set(answered)):
        raise InvalidInputError(
            f"Nothing was written: the audit does not ask for task {strange[0]}; reload this page, and answer that one in Label "
            "Studio, if anywhere."
        )


def _next(standing: Standing) -> str:
    """What there is to do where nothing is left to be shown."""
    if len(standing.to_ask):
        return (
            "What the audit asks for is answered, or on somebody else's page: the next turn, in a moment, says whether more is to "
            "be looked at."
        )
    return f"The audit asks for nothing now. Next: {standing.next_in_words}."


def _told(done: Written, label: str | None, *, gone: int, blind: int = 0) -> dict[str, Any]:
    return {
        "label": label,
        "written": len(done.written),
        "answered": len(done.answered),
        "gone": len(done.gone) + gone,
        "blind": blind,
    }
