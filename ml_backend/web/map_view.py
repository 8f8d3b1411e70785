"""What the map tells the page: what points can be coloured by, and their numbers in parts, as bytes.

A part has the x of all its points, then their y: 16 bits each, the low byte first. Of a colour, a part has one number a point, of
`width` bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import ConflictError, NotFoundError
from ml_backend.learning.projection import SAMPLE
from ml_backend.store.map_points import Points
from ml_backend.store.map_rows import NONE, SEVERAL
from ml_backend.store.projects import Project
from ml_backend.web.finding import KINDS
from ml_backend.web.map_work import MapWork
from ml_backend.wording import amount

FIRST, LATER = 50_000, 250_000
"""Points of the first part, which is painted at once, and of the others."""
NARROW = 255
"""Values of a byte: with more of them a colour takes two."""


def parts(points: Points) -> list[int]:
    """How many points each part has."""
    first = min(len(points.ids), FIRST)
    rest = len(points.ids) - first
    return [first, *([LATER] * (rest // LATER)), *([rest % LATER] if rest % LATER else [])]


def coordinates(points: Points, part: int) -> bytes:
    """The x and the y of a part. Raises NotFoundError."""
    some = points.places[_part(points, part)]
    return np.ascontiguousarray(some.T.astype("<u2")).tobytes()


def values(project: Project, points: Points, colour: str, part: int, maps: MapWork) -> bytes:
    """What the points of a part are coloured by. Raises NotFoundError, and ConflictError where that may not be shown now."""
    numbers = _numbers(project, points, colour, maps)[_part(points, part)]
    if _width(points, colour) == 1:
        return np.minimum(numbers, NARROW).astype(np.uint8).tobytes()
    return numbers.astype("<u2").tobytes()


def colours(project: Project, points: Points, maps: MapWork) -> tuple[list[dict[str, Any]], str]:
    """All that there is to colour by, and why some is not; "" where all is."""
    found, hidden = [], ""
    for name, title in TITLES.items():
        try:
            numbers = _numbers(project, points, name, maps)
        except ConflictError as error:
            hidden = str(error)
            continue
        names = _names(points, name)
        counts = np.bincount(numbers[numbers != NONE], minlength=len(names))[: len(names)].tolist() if names else []
        found.append({"name": name, "title": title, "names": names, "counts": counts, "width": _width(points, name)})
    return found, hidden


TITLES = {"label": "label", "guess": "guess", "doubt": "doubt", "kind": "split", "annotator": "annotator"}


def in_words(points: Points) -> str:
    """How the images were laid out, and what that means."""
    if points.method == "pca":
        return (
            "Laid out by the two directions in which the images differ most (PCA). A finer layout, by t-SNE, is made in the background "
            "when the service has nothing else to do, and is shown when this page is opened again."
        )
    most = min(SAMPLE["t-sne"], len(points.ids))
    return (
        f"Laid out by t-SNE of {amount(most, 'image')} drawn at random; each of the others lies by its nearest ones among them. What is near "
        "each other looks alike; how far apart two groups are says little."
    )


def _part(points: Points, part: int) -> slice:
    sizes = parts(points)
    if not 0 <= part < len(sizes):
        raise NotFoundError(f"The map has {amount(len(sizes), 'part')}, counted from 0.")
    start = sum(sizes[:part])
    return slice(start, start + sizes[part])


def _numbers(project: Project, points: Points, colour: str, maps: MapWork) -> NDArray[np.uint16]:
    if colour in {"guess", "doubt"}:
        guess, doubt = maps.guesses(project, points)
        if not points.version:
            raise ConflictError("There is no model yet that says what it takes an image for.")
        if colour == "guess":
            return guess
        return np.where(guess == NONE, NONE, doubt).astype(np.uint16)
    if colour == "kind":
        return points.kind.astype(np.uint16)
    if colour in TITLES:
        return points.label if colour == "label" else points.annotator
    raise NotFoundError(f"Points are coloured by {', '.join(TITLES)}, not by {colour!r}.")


def _names(points: Points, colour: str) -> list[str]:
    if colour == "kind":
        return list(KINDS)
    if colour == "annotator":
        return ["several people" if one == SEVERAL else f"user {one}" for one in points.people]
    return [] if colour == "doubt" else list(points.labels)


def _width(points: Points, colour: str) -> int:
    return 1 if len(_names(points, colour)) < NARROW else 2
