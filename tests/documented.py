"""What a Markdown page tells its reader to type."""

from __future__ import annotations

import re

FENCED = re.compile(r"^```(\w*)\n.*?^```$", re.MULTILINE | re.DOTALL)


def command_lines(page: str) -> list[str]:
    """Every line of the indented code in a Markdown page: what a reader is told to type. Comments are left out."""
    lines, code = [], True
    for line in FENCED.sub("", page).splitlines():
        code = bool(line.startswith("    ")) and (code or line == "") if line.strip() else True
        if code and line.strip():
            lines.append(line.strip())
    return lines


def named_commands(page: str) -> list[list[str]]:
    """Every `ml-backend ...` in the text of a Markdown page, in words; what stands in angle brackets is a placeholder."""
    named = re.findall(r"`ml-backend ([^`]*)`", FENCED.sub("", page).replace("\n", " "))
    return [text.split() for text in named if not text.startswith("<")]
