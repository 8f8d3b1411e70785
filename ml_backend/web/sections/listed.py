"""The sections of a project's page, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.sections import (
    annotators_section,
    balance_section,
    classes_section,
    compare_section,
    conflicts_section,
    confusion_section,
    curve_section,
    downloads_section,
    health_section,
    log_section,
    problems_section,
    progress_section,
    queue_section,
    settings_section,
    turn_section,
    versions_section,
)

Event = Literal["turn", "labels", "served", "settings", "acts"]
"""turn: progress of a running turn, and what waits. labels: an answer came in, or labels were read. served: another version or
queue. settings: something about the project was changed. acts: somebody did something on a page."""


@dataclass(frozen=True)
class Section:
    """A part of the page, which is asked for by itself.

    name: of its address, `page/<name>`, and of its template, `pages/sections/<name>.html`.
    look: what the template takes, beside `may_act`, `person`, `project`, `number` (its number here), `in_label_studio` (its address there)
        and `who`, which says what a user of Label Studio is called, by number.
        It never raises for a project without labels, model or queue: it says what is missing, and what to do.
    on: the events after which it is asked for again.
    listed: False for what is not on the page, and asked for by another section.
    part: takes the place of `look` where the address has a query, which it is given, as in `page/confusion?true=owl`.
    """

    name: str
    title: str
    look: Callable[[Project, Services], Mapping[str, Any]]
    on: tuple[Event, ...] = ()
    part: Callable[[Project, Services, Mapping[str, str]], Mapping[str, Any]] | None = None
    listed: bool = True

    @property
    def trigger(self) -> str:
        """When htmx asks for it. acted: after an act of one's own."""
        return ", ".join(["load", "acted", *(f"sse:{event}" for event in self.on)])


SECTIONS: tuple[Section, ...] = (
    Section("progress", "How far it is", progress_section.look, on=("served", "labels")),
    Section("problems", "What is wrong", problems_section.look, on=("served", "settings", "labels")),
    Section("turn", "The model's turn", turn_section.look, on=("turn", "settings")),
    Section("curve", "Is it learning?", curve_section.look, on=("served",), part=curve_section.part),
    Section("queue", "The queue", queue_section.look, on=("served", "labels")),
    Section("classes", "Classes", classes_section.look, on=("served", "labels")),
    Section("confusion", "What is taken for what", confusion_section.look, on=("served",), part=confusion_section.part),
    Section("balance", "How many of each class", balance_section.look, on=("served", "labels")),
    Section("annotators", "Annotators", annotators_section.look, on=("labels",)),
    Section("conflicts", "Who disagrees", conflicts_section.look, on=("labels",), part=conflicts_section.part),
    Section("versions", "Versions of the model", versions_section.look, on=("served",), part=versions_section.part),
    Section("compare", "Two versions compared", compare_section.look, part=compare_section.part, listed=False),
    Section("settings", "Settings", settings_section.look, on=("settings",)),
    Section("health", "Health", health_section.look),
    Section("downloads", "Downloads", downloads_section.look, on=("served",)),
    Section("log", "What people did here", log_section.look, on=("acts",), part=log_section.part),
)
