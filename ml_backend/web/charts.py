"""Charts as SVG: numbers to places in a picture. The templates in pages/charts.html draw them; nothing here is text of others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 30, 14, 40
TICKS = 6
"""About so many on an axis."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point, with its interval. kind: a class of the style sheet. says: what a person reads who points at it."""

    x: float
    y: float
    low: float
    high: float
    kind: str
    says: str


@dataclass(frozen=True)
class Line:
    """points, band: as SVG takes them; the band is empty where there is none. kind: a class of the style sheet."""

    points: str
    band: str
    kind: str


@dataclass(frozen=True)
class Series:
    """What is drawn of one kind: (x, value, low, high) in the order of x, values in 0..1."""

    kind: str
    points: Sequence[tuple[float, float, float, float]]
    band: bool = True


@dataclass(frozen=True)
class Spot:
    """A point by itself."""

    kind: str
    x: float
    value: float
    low: float
    high: float
    says: str


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        span = self.high - self.low or 1.0
        return round(self.start + (self.end - self.start) * (inside - self.low) / span, 1)


@dataclass
class Picture:
    """What is to be drawn."""

    series: list[Series] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)

    def drawn(self) -> dict[str, Any]:
        """What the macro `shares` of charts.html takes: shares over a number, WIDTH by HEIGHT."""
        xs = [x for each in self.series for x, *_ in each.points] + [spot.x for spot in self.spots]
        across = Scale(0.0, max([1.0, *xs]), LEFT, WIDTH - RIGHT)
        floor = self._floor()
        up = Scale(floor, 1.0, HEIGHT - BOTTOM, TOP)
        return {
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "bottom": HEIGHT - BOTTOM,
            "x_ticks": [Tick(across.at(value), f"{value:,}") for value in whole_ticks(across.high)],
            "y_ticks": [Tick(up.at(value / 100), f"{value}%") for value in _per_cents(floor)],
            "lines": [_line(each, across, up) for each in self.series],
            "marks": [
                Mark(across.at(s.x), up.at(s.value), up.at(s.low), up.at(s.high), s.kind, s.says) for s in self.spots
            ],
        }

    def _floor(self) -> float:
        """A round share below every point, and below the intervals of the later half: those of the first few would be all there is."""
        later = [low for each in self.series for _, _, low, _ in each.points[len(each.points) // 2 :] if each.band]
        values = [spot.value for spot in self.spots] + [value for each in self.series for _, value, *_ in each.points]
        return max(0.0, math.floor(10 * min([0.9, *later, *values]) + 1e-9) / 10)


def whole_ticks(highest: float) -> list[int]:
    """0 and round numbers up to the highest."""
    step = max(1, round(nice(highest / TICKS)))
    return list(range(0, int(highest) + 1, step))


def nice(step: float) -> float:
    """The least of 1, 2, 5, 10, 20, ... that is no less."""
    size = 10.0 ** math.floor(math.log10(max(step, 1e-9)))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= step * (1 - 1e-9))


def bar(value: float, of: float, width: int = 100) -> float:
    """How long a bar is, of `width`: what is more than nothing can be seen."""
    if value <= 0 or of <= 0:
        return 0.0
    return max(1.0, round(width * value / of, 1))


def _per_cents(floor: float) -> Iterable[int]:
    step = 10 if floor >= 0.4 else 20
    lowest = round(100 * floor)
    return [value for value in range(0, 101, step) if value >= lowest]


def _line(series: Series, across: Scale, up: Scale) -> Line:
    upper = [f"{across.at(x)},{up.at(high)}" for x, _, _, high in series.points]
    lower = [f"{across.at(x)},{up.at(low)}" for x, _, low, _ in series.points]
    band = " ".join([*upper, *reversed(lower)]) if series.band and len(series.points) > 1 else ""
    return Line(" ".join(f"{across.at(x)},{up.at(value)}" for x, value, *_ in series.points), band, series.kind)
