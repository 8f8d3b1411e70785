"""Acts on images that were chosen on the map, or found: have them asked for next, or no more, or shown in Label Studio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ml_backend.errors import ConflictError, InvalidInputError, LabelStudioError, NotFoundError
from ml_backend.labelstudio.chosen_tab import TAB, filters_of, show_chosen
from ml_backend.services import Services
from ml_backend.store.map_rows import ASIDE, MEASURES, SKIPPED, TO_MEASURE, WAITS, map_rows
from ml_backend.store.projects import Project
from ml_backend.web.acts.page_act import Asked, Done, Given, PageAct
from ml_backend.web.finding import MOST
from ml_backend.web.protocol import LARGEST_ID
from ml_backend.web.visitors import Visitor
from ml_backend.wording import amount
from ml_backend.worker import foreground

PATIENCE_S = 120.0
"""The longest that somebody waits before a page for a turn that runs."""
ASKABLE = {WAITS, TO_MEASURE, SKIPPED}


def tasks_of(given: Given) -> list[int]:
    """The tasks that an act was asked for with, in order. Raises InvalidInputError."""
    tasks = given.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise InvalidInputError("No image is chosen: draw around some on the map, or find some.")
    if len(tasks) > MOST:
        raise InvalidInputError(f"{len(tasks):,} images are chosen: choose {MOST:,} at most.")
    if any(type(task) is not int or not 0 <= task <= LARGEST_ID for task in tasks):
        raise InvalidInputError("Say which tasks: a list of their ids, which are whole numbers.")
    return list(dict.fromkeys(tasks))


def kinds_of(project: Project, services: Services, tasks: list[int]) -> dict[int, int]:
    """What each of the tasks is (`store.map_rows`), of those that the project has. Raises NotFoundError where it has none."""
    found: dict[int, int] = {}
    for part in map_rows(services.database, project, tasks):
        found |= dict(zip(part.ids.tolist(), part.kind.tolist(), strict=True))
    if not found:
        raise NotFoundError("None of these tasks is in the project any more: choose others.")
    return found


def _check_ask(project: Project, services: Services, given: Given) -> None:
    tasks = tasks_of(given)
    if services.acceptances.is_blind(project):
        raise ConflictError(
            "An audit is on, and its tasks are the queue until they are answered: end it first, under Accept the rest."
        )
    kinds = kinds_of(project, services, tasks).values()
    if not any(kind in ASKABLE for kind in kinds):
        if ASIDE in kinds:
            raise ConflictError("None of these can be asked for: take back those that are set aside first.")
        raise ConflictError("All of these have an answer already: choose images that wait for one.")


def _would_ask(project: Project, services: Services, given: Given) -> str:
    tasks = tasks_of(given)
    kinds = kinds_of(project, services, tasks)
    counts = Counter(kinds.values())
    asked = sum(counts[kind] for kind in ASKABLE)
    said = f"{amount(asked, 'image')} would be asked for next, in this order, in place of the queue as it is, until half are answered."
    if counts[TO_MEASURE]:
        said += f" {amount(counts[TO_MEASURE], 'of them is', 'of them are')} held out to measure the accuracy, and would open without a guess."
    if left := len(tasks) - asked:
        said += f" {amount(left, 'other')} would be left out: answered already, set aside, or gone."
    return said


def _ask(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    tasks = tasks_of(given)
    with foreground.alone(project, services, "prioritize", lambda *_: None, wait=PATIENCE_S):
        queue = services.manual_queue
        batch = queue.batch(project, {task: float(len(tasks) - place) for place, task in enumerate(tasks)})
        left = (
            f" {amount(len(batch.skipped), 'image')} left out, as answered, set aside, gone or unreadable."
            if batch.skipped
            else ""
        )
        before = services.ledger.last_round(project)
        try:
            round_ = queue.push(project, batch)
        except LabelStudioError as error:
            last = services.ledger.last_round(project)
            if last is None or (before is not None and last.number == before.number):
                raise
            services.jobs.mark_due(project, immediately=True, reason="prioritize")
            return Done(
                f"{error} The next turn that reaches it makes the queue {amount(len(batch.queries), 'image')}.{left}"
            )
    return Done(f"The queue in Label Studio is now {amount(len(batch.queries), 'image')} ({round_.served_name}).{left}")


def _check_show(project: Project, services: Services, given: Given) -> None:
    filters_of(kinds_of(project, services, tasks_of(given)))


def _would_show(project: Project, services: Services, given: Given) -> str:
    shown = len(kinds_of(project, services, tasks_of(given)))
    return f"The tab {TAB!r} of Label Studio's Data Manager would show {amount(shown, 'image')}, in place of those it shows now, for everybody."


def _show(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    shown = sorted(kinds_of(project, services, tasks_of(given)))
    number, client = project.key.project_id, services.hosts.client(project.key.host)
    tab = show_chosen(client, number, shown)
    return Done(
        f"Label Studio shows {amount(len(shown), 'image')} in the tab {TAB!r}: {project.key.host}/projects/{number}/data?tab={tab}"
    )


def would_label(project: Project, services: Services, given: Given, label: str) -> str:
    """What it would come to that a person labels the tasks so. Raises ConflictError where none can be."""
    kinds = kinds_of(project, services, tasks_of(given))
    free = sum(kind in {WAITS, SKIPPED} for kind in kinds.values())
    held = sum(kind in {MEASURES, TO_MEASURE} for kind in kinds.values())
    if not free:
        raise ConflictError(
            "None of these waits for a label, or all are held out, which are labelled one by one in Label Studio."
        )
    said = f"{amount(free, 'image')} would get the label {label!r}, under your own name."
    if held:
        said += (
            f" {amount(held, 'image')} held out to measure the accuracy would be left out: label those in Label Studio."
        )
    if others := len(kinds) - free - held:
        said += f" {amount(others, 'image')} with an answer would keep it."
    return said


def labelled(done: Mapping[str, Any]) -> str:
    """What came of labelling, in words. done: as `GridWork.write` returns it."""
    said = f"{amount(done['written'], 'image')} labelled {done['label']!r}: `U` in the grid takes that back."
    if done["blind"]:
        said += f" {amount(done['blind'], 'image')} held out, and left alone."
    if left := done["answered"] + done["gone"]:
        said += f" {amount(left, 'image')} answered by somebody meanwhile, or gone."
    return said


def _refuse_audited(project: Project, services: Services) -> None:
    if services.acceptances.is_blind(project):
        raise ConflictError("An audit is on, and may ask for these: end it first, under Accept the rest.")


def _these(project: Project, services: Services, given: Given) -> list[int]:
    """The tasks, as `tasks_of`; or those of the act of this id, which is undone."""
    number = given.get("of")
    if type(number) is int and 0 < number <= LARGEST_ID:
        for act in services.acts.list(project, limit=1, before=number + 1):
            undo = act.detail.get("undo")
            if act.id == number and isinstance(undo, dict):
                return tasks_of(undo["given"])
        raise NotFoundError("What was done is forgotten: find the images that are set aside by the split 'set aside'.")
    return tasks_of(given)


def _check_set_aside(project: Project, services: Services, given: Given) -> None:
    _refuse_audited(project, services)
    kinds = kinds_of(project, services, _these(project, services, given)).values()
    if WAITS in kinds:
        return
    if TO_MEASURE in kinds:
        raise ConflictError(
            "These are held out to measure the accuracy, which needs them all: label or skip them in Label Studio."
        )
    if ASIDE in kinds:
        raise ConflictError("These are set aside already: find those under the split 'set aside' to take them back.")
    raise ConflictError("All of these have an answer already, and are not asked for: there is nothing to set aside.")


def _would_set_aside(project: Project, services: Services, given: Given) -> str:
    kinds = kinds_of(project, services, _these(project, services, given))
    counts = Counter(kinds.values())
    said = f"{amount(counts[WAITS], 'image')} would not be asked for any more until somebody takes {'it' if counts[WAITS] == 1 else 'them'} back; {_renewed(project)}."
    if held := counts[TO_MEASURE] + counts[MEASURES]:
        said += f" {amount(held, 'image')} held out to measure the accuracy would be left as {'it is' if held == 1 else 'they are'}."
    if others := len(kinds) - counts[WAITS] - held:
        said += f" {amount(others, 'other')} would be left out: answered, skipped, or set aside already."
    return said


def _set_aside(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    tasks = _these(project, services, given)
    done = services.ledger.set_aside(project, tasks)
    if not done:
        raise ConflictError("None of these can be set aside any more: each was answered or held out meanwhile.")
    services.jobs.mark_due(project, immediately=True, reason="set aside")
    left = f" {amount(len(tasks) - len(done), 'image')} left as before." if len(done) < len(tasks) else ""
    return Done(
        f"{amount(len(done), 'image')} set aside: {_renewed(project)}.{left}", Asked("take-back", {"tasks": done})
    )


def _renewed(project: Project) -> str:
    return "the queue is made anew once the project goes on" if project.state.paused else "the queue is made anew"


def _check_take_back(project: Project, services: Services, given: Given) -> None:
    _refuse_audited(project, services)
    if not services.ledger.aside(project, _these(project, services, given)):
        raise ConflictError("None of these is set aside: there is nothing to take back.")


def _would_take_back(project: Project, services: Services, given: Given) -> str:
    tasks = _these(project, services, given)
    back = len(services.ledger.aside(project, tasks))
    said = f"{amount(back, 'image')} would be asked for again as any others; {_renewed(project)}."
    return said + (
        f" {amount(len(tasks) - back, 'other is', 'others are')} not set aside." if len(tasks) > back else ""
    )


def _take_back(project: Project, services: Services, given: Given, _by: Visitor) -> Done:
    done = services.ledger.take_back(project, _these(project, services, given))
    if not done:
        raise ConflictError("None of these is set aside any more: somebody took them back meanwhile.")
    services.jobs.mark_due(project, immediately=True, reason="taken back")
    return Done(
        f"{amount(len(done), 'image')} taken back, and asked for as any others: {_renewed(project)}.",
        Asked("set-aside", {"tasks": done}),
    )


ACTS = (
    PageAct("ask-next", "Ask for these next?", "Ask these next", _would_ask, _ask, _check_ask, waits=True),
    PageAct("show-chosen", "Show these in Label Studio?", "Show them", _would_show, _show, _check_show),
    PageAct("set-aside", "Set these aside?", "Set them aside", _would_set_aside, _set_aside, _check_set_aside),
    PageAct("take-back", "Take these back?", "Take them back", _would_take_back, _take_back, _check_take_back),
)
