"""How numbers and the words of others stand in our sentences."""

from __future__ import annotations


def amount(count: int, one: str, many: str | None = None) -> str:
    """`amount(1, "task")` is "1 task", `amount(1200, "task")` is "1,200 tasks"; `many` where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shortened(text: str, most: int = 500) -> str:
    """Return `text` on one line; where it is longer than `most` characters, it ends after a whole word with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(",;:.") + " …"
