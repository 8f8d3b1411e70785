"""The learning curve, beside it what labels at random would have given, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.insight.curve import Curve, Point, RandomPoint, beside, curve, thinned, to_forecast
from ml_backend.insight.forecast import CONFIDENCE, Expected, forecast, too_early
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.charts import Picture, Series, Spot
from ml_backend.wording import amount, measured, per_cent, small_slice

DRAWN, LISTED, DENSE, BARS = 150, 20, 40, 12
"""Versions in the picture, in the table unless all are asked for, and more than which are drawn small; and points of the random
arm that have a bar for their interval."""
STATES = {
    "promoted": "served before",
    "passed": "good enough",
    "rejected": "not good enough",
    "rolled_back": "rolled back",
    "candidate": "not judged yet",
}


def look(project: Project, services: Services) -> dict[str, Any]:
    return part(project, services, {})


def part(project: Project, services: Services, query: Mapping[str, str]) -> dict[str, Any]:
    """all: every version in the table."""
    known = curve(project, services.database, services.findings.notes(("curve", project.id)))
    points = known.measured
    rows = list(reversed(known.points))
    shown = rows if query.get("all") else rows[:LISTED]
    coming, why = _forecast(known, project, services)
    return {
        "missing": _missing(known, project, services),
        "chart": _picture(known, coming).drawn() if points else None,
        "about": _about(known),
        "rows": [_row(point) for point in shown],
        "more": len(rows) - len(shown),
        "served": _served(known),
        "arm": _arm(known),
        "arm_rows": [_arm_row(point) for point in reversed(known.at_random)][: None if query.get("all") else LISTED],
        "forecast": [_expected(each) for each in coming[1:]],
        "confidence": per_cent(CONFIDENCE),
        "too_early": why,
    }


def _missing(known: Curve, project: Project, services: Services) -> str | None:
    """What there is to do before anything can be drawn."""
    if known.measured:
        return None
    if not known.points:
        labelled = services.known_counts.of(project).labelled
        return (
            f"There is no model yet, with {amount(labelled, 'label')}: it takes labels of two classes. Press "
            '"Label All Tasks" in Label Studio.'
        )
    return "No version is measured yet: that takes labels on the images that are held out, which every queue asks for."


def _picture(known: Curve, coming: Sequence[Expected]) -> Picture:
    drawn = thinned(known.measured, DRAWN)
    passed = [point for point in drawn if point.passed or point.served]
    picture = Picture([Series("passed", [_place(point) for point in passed])])
    chance = thinned_chance(known.at_random)
    if chance:
        points = [(float(each.labels), each.accuracy, each.low, each.high) for each in chance]
        picture.series.append(Series("random", points, band=False))
        kind = "random whisker" if len(chance) <= BARS else "random"
        for each, place in zip(chance, points, strict=True):
            picture.spots.append(Spot(kind, *place, says=_says_chance(each)))
    ahead = [each for each in coming if each.labels <= 2 * max(coming[0].labels, 50)]
    if len(ahead) > 1:
        points = [(float(each.labels), each.accuracy, each.low, each.high) for each in ahead]
        picture.series.append(Series("forecast", points))
    picture.spots += [_spot(point, "dense" if len(drawn) > DENSE else "") for point in drawn]
    return picture


def thinned_chance(points: Sequence[RandomPoint], most: int = 60) -> list[RandomPoint]:
    step = max(1, -(-len(points) // most))
    return [*reversed(list(reversed(points))[::step])]


def _place(point: Point) -> tuple[float, float, float, float]:
    return float(point.labels), point.accuracy or 0.0, point.low, point.high


def _spot(point: Point, size: str) -> Spot:
    marks = ("served" if point.served else size, "pinned" if point.pinned else "")
    refused = not point.passed and point.state != "candidate"
    kind = " ".join(filter(None, ("rejected" if refused else "passed", *marks)))
    return Spot(
        kind, *_place(point), says=f"{point.name}: {point.labels:,} labels, {_accuracy(point)}, {_state(point)}"
    )


def _says_chance(point: RandomPoint) -> str:
    return f"{amount(point.labels, 'label')} at random: {_told(point)}"


def _accuracy(point: Point) -> str:
    return measured({**vars(point)}) if point.accuracy is not None else "not measured"


def _told(point: RandomPoint) -> str:
    return measured({"accuracy": point.accuracy, "low": point.low, "high": point.high, "n": point.n})


def _state(point: Point) -> str:
    if point.served:
        return "served now, pinned" if point.pinned else "served now"
    if point.state == "pruned":
        return "served before, files deleted" if point.was_served else "files deleted"
    return STATES.get(point.state, point.state)


def _row(point: Point) -> dict[str, Any]:
    return {
        "name": point.name,
        "labels": point.labels,
        "accuracy": _accuracy(point),
        "state": _state(point),
        "served": point.served,
        "bad": point.state == "rejected",
        "at": f"{point.created_at:%Y-%m-%d %H:%M}",
    }


def _served(known: Curve) -> dict[str, Any] | None:
    """The version that answers, in the words of `sync status`."""
    point = next((each for each in known.points if each.served), None)
    if point is None:
        return None
    holdout = {**vars(point)} if point.accuracy is not None else None
    words = [text for text in (small_slice(holdout),) if text]
    return {"name": point.name, "labels": point.labels, "accuracy": measured(holdout), "words": words}


def _about(known: Curve) -> str:
    points = known.measured
    if not points:
        return ""
    first, last = points[0], points[-1]
    parts = [f"{amount(len(points), 'measured version')}, from {first.labels:,} to {last.labels:,} labels."]
    served = next((point for point in points if point.served), None)
    if served:
        parts.append(f"Served is {served.name}: {_accuracy(served)}.")
    return " ".join(parts)


def _arm(known: Curve) -> dict[str, str] | None:
    """Both arms at the same number of labels, or what there is."""
    if not known.at_random:
        return None
    last = known.at_random[-1]
    told = {
        "random": f"{amount(last.labels, 'label')} drawn at random give {_told(last)}",
        "of": f"{amount(last.of, 'label')} of this project were drawn at random",
        "chosen": "",
        "verdict": "",
    }
    if (found := beside(known)) is None:
        return told
    _, point = found
    told["chosen"] = (
        f"{point.name} learned from {amount(point.labels, 'label')} as they were asked for: {_accuracy(point)}"
    )
    told["verdict"] = _verdict(last, point)
    return told


def _verdict(last: RandomPoint, point: Point) -> str:
    """Said only where the intervals are apart: they are of different moments, so nothing finer can be told."""
    if point.low > last.high:
        return "What was asked for has taught more than labels at random."
    if point.high < last.low:
        return "Labels at random would have taught more."
    return "The intervals overlap: that does not show which is better."


def _arm_row(point: RandomPoint) -> dict[str, Any]:
    return {"with": f"v{point.number}", "labels": point.labels, "of": point.of, "accuracy": _told(point)}


def _forecast(known: Curve, project: Project, services: Services) -> tuple[list[Expected], str | None]:
    """What is expected with the labels of now, where the line begins, with 100 and 500 more, and with twice as many, if there are tasks."""
    newest = known.points[-1].labels if known.points else None
    points = to_forecast(known.points, newest)
    if (why := too_early(points)) is not None:
        return [], why
    now = points[-1].labels
    most = services.known_counts.of(project).tasks
    wanted = sorted({count for count in (now, now + 100, now + 500, 2 * now) if count <= max(most, now)})
    return forecast(points, wanted), None


def _expected(each: Expected) -> dict[str, Any]:
    return {
        "labels": each.labels,
        "accuracy": f"{each.accuracy:.0%}",
        "low": f"{each.low:.0%}",
        "high": f"{each.high:.0%}",
    }
