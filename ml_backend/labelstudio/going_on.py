"""What is said where Label Studio ends long work in the middle: how far it came, and that the same command goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ml_backend.errors import LabelStudioError

Progress = Callable[[int], None]


@dataclass
class Count:
    """Called with what was done since, which it adds up and tells on."""

    on_progress: Progress
    done: int = 0

    def __call__(self, more: int) -> None:
        self.done += more
        self.on_progress(more)


@contextmanager
def goes_on(what: str, on_progress: Progress, *, until_then: str = "") -> Iterator[Count]:
    """Count what is done; an error of Label Studio's is raised as it was, with how far that is and how to go on.

    what: of the work, said after its number, such as "tasks are labelled". until_then: a sentence more.
    """
    count = Count(on_progress)
    try:
        yield count
    except LabelStudioError as error:
        further = f" {until_then}" if until_then else ""
        raise type(error)(
            f"{error} Nothing is lost, and {count.done:,} {what}: run the same command again to go on.{further}"
        ) from error
