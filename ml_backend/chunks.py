"""Many items, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in order, `size` at a time. Takes no more of them than were asked for."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
