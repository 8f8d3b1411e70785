"""What tasks and their images are called, and how images that cannot be read are named to a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

from ml_backend.host_lists import split
from ml_backend.records import Task

SHOWN = 5
"""Images named in a sentence, before "and N more"."""
LONGEST = 100
"""Characters of a name that are shown: a data: address has no other end."""
UPLOADABLE = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"})
"""Suffixes that Label Studio takes; browsers look at the content."""


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read, and why. As text: its name, its task, the reason."""

    task: Task
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {printable(self.reason).rstrip('.')}"

    @property
    def name(self) -> str:
        return called(self.task)

    def as_json(self) -> dict[str, Any]:
        return {
            "task_id": self.task.id,
            "filename": task_filename(self.task),
            "image": self.task.image,
            "name": self.name,
            "reason": printable(self.reason),
        }


def called(task: Task) -> str:
    """The image's name and its task's number, on one line whatever the name is made of."""
    name = printable(task_filename(task))
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    return f"{short} (task {task.id})" if short else f"task {task.id}"


def and_more(items: Sequence[object], total: int | None = None, most: int = SHOWN, between: str = "; ") -> str:
    """The first of `items`, then how many more there are of `total`: the end of a sentence, or lines."""
    total = len(items) if total is None else total
    shown = [str(item) for item in items[:most]]
    rest = total - len(shown)
    return between.join([*shown, f"and {rest} more"] if rest > 0 else shown)


def printable(text: str) -> str:
    """On one line: a file may be called anything, and its name must not end a line of the log or move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def task_filename(task: Task) -> str:
    """Return the image's own name: `filename` of the task data where the importer kept it, else from the address."""
    kept = task.data.get("filename")
    return kept if isinstance(kept, str) and kept else PurePosixPath(address_path(task.image or "")).name


def copied_as(task: Task) -> str:
    """The suffix of the copy that was imported in place of a file browsers do not show; empty for any other image."""
    copy, known = PurePosixPath(address_path(task.image or "")), task.data.get("sha256")
    of_it = isinstance(known, str) and bool(known) and known in copy.name
    return copy.suffix if of_it and PurePosixPath(task_filename(task)).suffix.lower() not in UPLOADABLE else ""


def address_path(image: str) -> str:
    """Return the path within an image's address: below the document root, the bucket or the host."""
    parts = split(image)
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path)


def names_of_tasks(tasks: Iterable[Task]) -> dict[str, list[int]]:
    """Every name a task goes by -> the ids of the tasks: filename, relative path, content hash, the image's address.

    `also` in the task data holds the paths of copies that were not imported; those names count where no task has them
    as its own.
    """
    known: dict[str, list[int]] = defaultdict(list)
    copies: dict[str, list[int]] = defaultdict(list)
    for task in tasks:
        data, path = task.data, address_path(task.image or "")
        names = {data.get("filename"), data.get("path"), data.get("sha256"), task.image, path, PurePosixPath(path).name}
        for name in names:
            if isinstance(name, str) and name:
                known[name].append(task.id)
        for name in _names_of_copies(data):
            copies[name].append(task.id)
    return {**copies, **known}


def _names_of_copies(data: dict[str, Any]) -> set[str]:
    also = data.get("also")
    paths = [path for path in also if isinstance(path, str) and path] if isinstance(also, list) else []
    return {name for path in paths for name in (path, PurePosixPath(path).name)}
