"""The learning curve of a project: what its versions were measured to be, beside the labels that they learned from.

The figures are those that were kept with each version as it was made; `sync status` and `versions list` tell the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from ml_backend.insight.forecast import Measured
from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from ml_backend.store.rows import pieces
from ml_backend.store.schema import serving, versions
from ml_backend.store.version import was_good_enough


@dataclass(frozen=True)
class Point:
    """A version. n, accuracy, low, high, undecided: as `learning.metrics.measured`; accuracy is None where nothing was measured.

    passed: it was good enough to be served, and not taken back, whether its files are still there or not. was_served: now or before.
    """

    number: int
    state: str
    mode: str | None
    labels: int
    n: int
    accuracy: float | None
    low: float
    high: float
    undecided: int
    created_at: datetime
    passed: bool = True
    was_served: bool = False
    served: bool = False
    pinned: bool = False

    @property
    def name(self) -> str:
        return f"v{self.number}"


@dataclass(frozen=True)
class RandomPoint:
    """What labels chosen at random gave: see `steps.random_arm.told`."""

    number: int
    labels: int
    of: int
    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Of all versions, oldest first."""

    points: tuple[Point, ...]
    at_random: tuple[RandomPoint, ...]

    @property
    def measured(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.accuracy is not None)


Kept = dict[str, Any]
"""Of a version's meta.json, what a curve needs. It never changes."""


def curve(project: Project, database: Database, known: dict[int, Kept] | None = None) -> Curve:
    """known: what was read before of versions by number, and is added to: 500 of them are megabytes of JSON."""
    known = {} if known is None else known
    mine = versions.c.project_id == project.id
    columns = (versions.c.number, versions.c.state, versions.c.created_at, versions.c.promoted_at, versions.c.reason)
    states = sa.select(*columns).where(mine)
    pointer = sa.select(serving.c.number, serving.c.pinned).where(serving.c.project_id == project.id)
    with database.read() as connection:
        rows = connection.execute(states.order_by(versions.c.number)).all()
        served = connection.execute(pointer).one_or_none()
        new = [row.number for row in rows if row.number not in known]
        for piece in pieces(new):
            metas = sa.select(versions.c.number, versions.c.meta).where(mine, versions.c.number.in_(piece))
            known.update({row.number: _kept(row.meta) for row in connection.execute(metas)})
    points = tuple(_point(row, known[row.number], served) for row in rows)
    return Curve(points, tuple(found for row in rows if (found := _random_point(row.number, known[row.number]))))


def _kept(meta: dict[str, Any]) -> Kept:
    metrics = meta.get("metrics") or {}
    holdout = {name: value for name, value in (metrics.get("holdout") or {}).items() if name in _DRAWN}
    return {"labels": meta.get("labels"), "mode": meta.get("mode"), "holdout": holdout, "random": metrics.get("random")}


_DRAWN = {"n", "accuracy", "low", "high", "undecided"}


def _point(row: Any, kept: Kept, served: Any) -> Point:
    mine, found = served is not None and served.number == row.number, kept["holdout"]
    measured = bool(found.get("n"))
    return Point(
        number=row.number,
        state=row.state,
        mode=kept["mode"],
        labels=int(kept["labels"] or 0),
        n=int(found["n"]) if measured else 0,
        accuracy=found["accuracy"] if measured else None,
        low=found["low"] if measured else 0.0,
        high=found["high"] if measured else 1.0,
        undecided=int(found.get("undecided") or 0),
        created_at=row.created_at,
        passed=was_good_enough(row.state, row.reason, row.promoted_at),
        was_served=row.promoted_at is not None,
        served=mine,
        pinned=mine and served.pinned,
    )


def _random_point(number: int, kept: Kept) -> RandomPoint | None:
    found = kept["random"]
    if not found or not found.get("n"):
        return None
    return RandomPoint(number, *(found[name] for name in ("labels", "of", "n", "accuracy", "low", "high")))


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many and two: the first, the last, the one served, and others evenly spread."""
    if len(points) <= most:
        return list(points)
    kept = set(np.linspace(0, len(points) - 1, most).round().astype(int).tolist())
    return [point for place, point in enumerate(points) if place in kept or point.served]


def to_forecast(points: Sequence[Point], labels: int | None) -> list[Measured]:
    """What a forecast goes by: versions good enough to be served, trained here, on ever more labels up to those of now.

    labels: of the newest version; versions with more were trained before labels were taken away.
    """
    found: list[Measured] = []
    for point in points:
        if point.accuracy is None or not point.passed or point.mode == "import":
            continue
        if labels is not None and point.labels > labels:
            continue
        while found and found[-1].labels >= point.labels:
            found.pop()
        found.append(Measured(point.labels, point.n, round(point.accuracy * point.n)))
    return found


def beside(curve_: Curve) -> tuple[RandomPoint, Point] | None:
    """The last measurement at random, and the version that learned from as many labels, or the next fewer.

    None where either is missing. The version never had more labels than the other: that would flatter it.
    """
    if not curve_.at_random:
        return None
    last = curve_.at_random[-1]
    near = [p for p in curve_.measured if p.mode != "import" and p.labels <= last.labels]
    return (last, max(near, key=lambda p: (p.labels, p.number))) if near else None
