"""How commands answer: text for people, one JSON document for programs, and progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ml_backend.settings import Settings
from ml_backend.store_identity import Store
from ml_backend.task_names import and_more, printable
from ml_backend.wording import amount

MOST = 20
"""Items named in a warning."""


class Answer:
    """Speaks to a person, or with `as_json` keeps standard output for one JSON document."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str = "") -> None:
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def warn(self, text: str) -> None:
        print(f"Warning: {text}", file=sys.stderr, flush=True)

    def warn_of(self, items: Sequence[str], one: str, several: str) -> None:
        """Warn of these items, the first of them by name; says nothing where there are none."""
        if items:
            shown = and_more([printable(item) for item in items], most=MOST, between="\n  ")
            self.warn(f"{amount(len(items), one, several)}:\n  {shown}")

    def result(self, document: Any, text: str | Callable[[], str]) -> None:
        """The command's one answer: `document` for programs, with the store it is about, and `text` for people."""
        if self.as_json:
            if isinstance(document, dict):
                document = {**document, "store": Store.of(Settings.from_environ(os.environ)).as_json()}
            print(json.dumps(document, ensure_ascii=False, indent=2), flush=True)
        else:
            print(text if isinstance(text, str) else text(), flush=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns; numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), *map(line, cells)])


@contextmanager
def bar(title: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal. Tell it how many have been done since last told."""
    with tqdm(desc=title, total=total, unit=unit, disable=None, file=sys.stderr, leave=False) as drawn:

        def advance(count: int) -> None:
            drawn.update(count)

        yield advance


def counted(items: Iterable[Any], title: str, total: int | None = None) -> Iterator[Any]:
    """Pass `items` on, with a progress bar."""
    yield from tqdm(items, desc=title, total=total, disable=None, file=sys.stderr, leave=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True
