"""Numbers in sentences: "1 task", "2 tasks"."""

from __future__ import annotations


def amount(count: int, one: str, many: str | None = None) -> str:
    """`amount(1, "task")` is "1 task", `amount(1200, "task")` is "1,200 tasks"; `many` where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
