"""The options of every command as rows of a Markdown table: what docs/commands.md has to hold."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from ml_backend.cli import COMMANDS, build_parser


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """("sync query", its parser), for every command and each of its verbs."""
    for name in COMMANDS:
        command = _below(build_parser(name))[name]
        yield name, command
        for verb, parser in _below(command).items():
            yield f"{name} {verb}", parser


def rows(parser: argparse.ArgumentParser) -> list[str]:
    kept = [a for a in parser._actions if not isinstance(a, argparse._HelpAction | argparse._SubParsersAction)]
    return [f"| `{_shown(action)}` | {_help(action)} |" for action in kept]


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def _shown(action: argparse.Action) -> str:
    if not action.option_strings:
        return action.dest if action.choices is None else "\\|".join(map(str, action.choices))
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    meta = action.metavar if isinstance(action.metavar, str) else None
    values = meta or ("\\|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{', '.join(action.option_strings)} {values}"


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%").replace("|", "\\|")


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
