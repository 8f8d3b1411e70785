"""Write the options of every command into docs/commands.md, from the parsers: `make commands`.

There is a section for each command and each of its verbs, in the parsers' order. The text of a section is written by hand
and stays; its table of options is written here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ml_backend.cli import COMMANDS, build_parser

PAGE = Path(__file__).parent / "commands.md"
HEAD = "| option | what it does |\n|---|---|\n"
NOT_SHOWN = (argparse._HelpAction, argparse._SubParsersAction)
TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """("sync query", its parser), for every command and each of its verbs."""
    for name in COMMANDS:
        command = _below(build_parser(name))[name]
        yield name, command
        for verb, parser in _below(command).items():
            yield f"{name} {verb}", parser


def page(written: str) -> str:
    """Return the page with the tables as the parsers are now. A new command gets a section with its description.

    Raises ValueError where a section tells of a command that no parser has: its text is for a person to take out.
    """
    intro, *sections = re.split(r"^(?=###? )", written, flags=re.MULTILINE)
    texts = {section.splitlines()[0].lstrip("# "): section.partition("\n")[2] for section in sections}
    wanted = dict(parsers())
    if gone := texts.keys() - wanted.keys():
        raise ValueError(f"{PAGE.name} has sections for what is no command: {', '.join(sorted(gone))}")
    made = [_section(name, parser, texts.get(name, parser.description or "")) for name, parser in wanted.items()]
    return "\n\n".join([intro.strip(), *made]) + "\n"


def _section(name: str, parser: argparse.ArgumentParser, text: str) -> str:
    rows = "\n".join(_row(action) for action in parser._actions if not isinstance(action, NOT_SHOWN))
    parts = [f"{'###' if ' ' in name else '##'} {name}", TABLE.sub("", text).strip(), rows and HEAD + rows]
    return "\n\n".join(part for part in parts if part)


def _row(action: argparse.Action) -> str:
    told = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return f"| `{_shown(action)}` | {_in_a_cell(told)} |"


def _shown(action: argparse.Action) -> str:
    choices = _in_a_cell("|".join(map(str, action.choices or [])))
    if not action.option_strings:
        return choices or action.dest
    named = ", ".join(action.option_strings)
    if action.nargs == 0:
        return named
    return f"{named} {action.metavar if isinstance(action.metavar, str) else choices or action.dest.upper()}"


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


if __name__ == "__main__":
    try:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))
