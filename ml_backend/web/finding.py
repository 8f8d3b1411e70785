"""Finding images: by name, by what is known of them, by another image, by words, or by where they lie; and what is shown of those found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import ConflictError, InvalidInputError, NotFoundError
from ml_backend.services import Services
from ml_backend.store.map_points import UNSURE, Points
from ml_backend.store.map_rows import ASIDE, NONE, WAITS
from ml_backend.store.projects import Project
from ml_backend.store.task_search import is_named, tasks_named
from ml_backend.task_names import called
from ml_backend.web.map_work import MapWork
from ml_backend.web.protocol import FindRequest
from ml_backend.wording import amount

MOST = 5_000
"""Images that are found at most, and that an act takes."""
SHOWN = 60
"""Of them, those that are told one by one."""
ALIKE = 60
FEW = 50_000
"""Tasks whose names are looked at one by one: half a second."""
KINDS = (
    "labelled", "waiting for a label", "held out, labelled", "held out, waiting", "skipped", "accepted of the model",
    "answered otherwise", "set aside",
)  # fmt: skip
"""By `store.map_rows`."""


@dataclass(frozen=True)
class Found:
    """ids: MOST at most, in order. total: how many there are; None where nobody has counted beyond MOST."""

    ids: Sequence[int]
    total: int | None


@dataclass(frozen=True)
class Finder:
    """Looks things up in all projects. Nothing changes anything."""

    services: Services
    maps: MapWork

    def find(self, project: Project, asked: FindRequest) -> Found:
        """What is asked for. Raises InvalidInputError, ConflictError or NotFoundError, each with what to do."""
        if asked.places is not None:
            return self._lying(project, asked.key, asked.places)
        if asked.ids is not None:
            return Found([task.id for task in self.services.ledger.tasks(project, asked.ids)], None)
        if asked.like is not None:
            return self._like(project, asked.like)
        if asked.words:
            return self._said(project, asked.words)
        return self._by_facts(project, asked)

    def told(self, project: Project, ids: Sequence[int]) -> list[dict[str, Any]]:
        """What is shown of these tasks: a guess of those alone that may have one now."""
        tasks = {task.id: task for task in self.services.ledger.tasks(project, ids)}
        try:
            made = self.maps.look(project)
        except ConflictError:  # there is no map, and names are found all the same
            made = None
        known = self._facts(project, made.points, list(tasks)) if made is not None else {}
        aside = set(self.services.ledger.aside_waiting(project, list(tasks)))
        nothing = {"label": None, "guess": None, "confidence": None, "kind": None}
        return [
            {"id": task, "name": called(tasks[task])} | _as_of_now(known.get(task, nothing), aside=task in aside)
            for task in ids
            if task in tasks
        ]

    def reads_text(self, project: Project) -> bool:
        """Whether images can be looked for by words."""
        return _text_encoder(self.services, project) is not None

    def _facts(self, project: Project, points: Points, ids: list[int]) -> dict[int, dict[str, Any]]:
        try:
            guess, doubt = self.maps.guesses(project, points)
        except ConflictError:
            guess, doubt = np.full_like(points.guess, NONE), np.full_like(points.doubt, UNSURE)
        blind = self.services.ledger.held_out(project, ids)  # as it is now
        found = {}
        for task, place in zip(ids, points.at(np.array(ids, np.int64)).tolist(), strict=True):
            if place >= 0:
                says = task not in blind and guess[place] != NONE
                found[task] = {
                    "label": _name(points.labels, points.label[place]),
                    "guess": _name(points.labels, guess[place]) if says else None,
                    "confidence": 100 - int(doubt[place]) if says else None,
                    "kind": KINDS[points.kind[place]],
                }
        return found

    def _lying(self, project: Project, key: str, places: Sequence[int]) -> Found:
        points = self.maps.known(project, key)
        if places and max(places) >= len(points.ids):
            raise InvalidInputError(f"The map has {amount(len(points.ids), 'point')}, counted from 0.")
        return Found([int(task) for task in points.ids[np.array(places[:MOST], np.int64)]], len(places))

    def _like(self, project: Project, task: int) -> Found:
        points = self.maps.here(project)
        place = int(points.at(np.array([task], np.int64))[0])
        if place < 0:
            raise NotFoundError(f"The image of task {task} was not read yet, or cannot be read: nothing is like it.")
        matrix = self.services.features.matrix(points.encoder_id)
        return self._nearest(points, np.array(matrix[points.rows[place]]), matrix)

    def _said(self, project: Project, words: str) -> Found:
        encoder = _text_encoder(self.services, project)
        if encoder is None:
            raise ConflictError(
                "The encoder of this project cannot read words: choose one that can (docs/encoders.md, encode_text), or look for "
                "a filename, or for images like another one."
            )
        points = self.maps.here(project)
        matrix = self.services.features.matrix(points.encoder_id)
        return self._nearest(points, encoder.encode_text([words])[0], matrix)

    def _nearest(self, points: Points, vector: NDArray[Any], matrix: NDArray[np.float16]) -> Found:
        found = points.ids[points.alike(vector, matrix, ALIKE)]
        return Found([int(task) for task in found], len(found))

    def _by_facts(self, project: Project, asked: FindRequest) -> Found:
        """By name alone, or what is set aside, the database looks, from `after` on; with anything else, or without a name, what is on the map."""
        facts = any(each is not None for each in (asked.label, asked.guess, asked.least, asked.most, asked.kind))
        if asked.name and not facts:
            named = self._named(project, asked.name, asked.after)
            first = list(islice(named, MOST + 1))
            return Found(first[:MOST], len(first) if len(first) <= MOST and not asked.after else None)
        if asked.kind == ASIDE and (asked.label, asked.guess, asked.least, asked.most) == (None,) * 4:
            ids = np.array(self.services.ledger.aside_waiting(project), np.int64)  # as of now, on the map or not
        else:
            points = self.maps.here(project)
            ids = np.sort(points.ids[self._fitting(project, points, asked)])
        ids = ids[ids > asked.after]
        if not asked.name:
            return Found(ids[:MOST].tolist(), len(ids))
        first = list(islice(self._named_of(project, asked.name, asked.after, ids), MOST + 1))
        return Found(first[:MOST], len(first) if len(first) <= MOST else None)

    def _named_of(self, project: Project, name: str, after: int, ids: NDArray[np.int64]) -> Iterator[int]:
        """Those of these tasks, ascending, that have the name: a few are looked at themselves, of many the database's finds."""
        if len(ids) <= FEW:
            few = self.services.ledger.tasks(project, ids.tolist())
            return (task.id for task in few if is_named(task, name))
        named = self._named(project, name, after)
        return (task for task in named if ids[min(int(np.searchsorted(ids, task)), len(ids) - 1)] == task)

    def _named(self, project: Project, name: str, after: int) -> Iterator[int]:
        return (task.id for task in tasks_named(self.services.database, project, name, after=after))

    def _fitting(self, project: Project, points: Points, asked: FindRequest) -> NDArray[np.bool_]:
        found = np.ones(len(points.ids), np.bool_)
        if asked.label is not None:
            found &= points.label == _place(points.labels, asked.label)
        if asked.kind is not None:
            found &= points.kind == asked.kind
        if asked.guess is not None or asked.least is not None or asked.most is not None:
            guess, doubt = self.maps.guesses(project, points)
            found &= guess != NONE
            if asked.guess is not None:
                found &= guess == _place(points.labels, asked.guess)
            sure = 100 - doubt.astype(np.int16)
            found &= (sure >= (asked.least or 0)) & (sure <= (100 if asked.most is None else asked.most))
        return found


def _as_of_now(facts: dict[str, Any], *, aside: bool) -> dict[str, Any]:
    """What the map knew of a task, with whether it is set aside by now."""
    if aside:
        return facts | {"kind": KINDS[ASIDE]}
    return facts | {"kind": KINDS[WAITS]} if facts["kind"] == KINDS[ASIDE] else facts


def _place(labels: Sequence[str], name: str) -> int:
    if name not in labels:
        raise InvalidInputError(f"{name!r} is no label of this project.")
    return labels.index(name)


def _name(labels: Sequence[str], place: int) -> str | None:
    return None if place == NONE else labels[place]


def _text_encoder(services: Services, project: Project) -> Any:
    """The encoder of the version that answers, where words have vectors among those of its images."""
    model = services.predictor.current(project)
    encoder = model.encoder if model is not None else None
    return encoder if getattr(encoder, "reads_text", False) else None
