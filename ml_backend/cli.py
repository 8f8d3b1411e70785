"""`ml-backend <command>`: one entry point. Errors end as one sentence and a non-zero exit code.

With --json the sentence is a JSON document on standard output, too: {"error": "..."}.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ml_backend import __version__
from ml_backend.errors import BackendError

COMMANDS = {
    "demo": "see it work: a real Label Studio, sample images and the whole loop",
    "setup-project": "create or adopt a Label Studio project and connect it; check or remove the connection",
    "serve": "run the service: web process and worker",
    "import-images": "import images into a project: folders, files, CSV files, URLs",
    "import-labels": "import labels from a CSV for images already in the project",
    "relabel": "rename a label, or merge it into another one, in the config and in every answer",
    "import-model": "start from a model trained elsewhere, which predicts before the first label",
    "sync": "what to label next: query, prioritize, status, run, watch, export",
    "settings": "a project's own settings, changed while it runs: strategy, batch size, when to train; pause and resume",
    "versions": "a project's model versions: list, compare, promote (roll back), pin, unpin",
    "fields": "show in Label Studio what the model thinks of each task, to filter and sort by",
    "export": "export labels, predictions, rounds, a model or a data set",
    "accept": "have the rest labelled by the model: what that would take",
    "doctor": "check the whole setup and say how to fix what is wrong",
    "simulate": "try query strategies on labelled data before you trust one",
    "completion": "print the shell code that completes these commands",
}

MODULES = {"settings": "settings_command"}
"""Where it is not called as the command is: `ml_backend.settings` is another module."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _joined(list(sys.argv[1:] if argv is None else argv))
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    args = build_parser(arguments[0] if arguments else None).parse_args(arguments)
    try:
        return int(_module(args.command).run(args))
    except BackendError as error:
        return _failed(args, str(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        return _failed(args, f"{error.filename}: {error.strerror}." if error.filename else str(error))
    except KeyboardInterrupt:
        return _failed(args, "stopped. Run the same command again to continue.", code=130)
    except Exception as error:  # noqa: BLE001 - a person is told in a sentence, whatever it was
        if os.environ.get("ML_BACKEND_LOG_LEVEL", "").upper() == "DEBUG":
            traceback.print_exc()
        fault = f"{type(error).__name__}: {error}"
        return _failed(args, f"{fault}. This is a bug: please report it, with what ML_BACKEND_LOG_LEVEL=DEBUG prints.")


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a program in JSON when it is called wrongly."""

    as_json = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        self.as_json = any(len(word) > 2 and "--json".startswith(word) for word in given)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if self.as_json:
            print(json.dumps({"error": message}, ensure_ascii=False))
        super().error(message)


def _failed(args: argparse.Namespace, sentence: str, *, code: int = 1) -> int:
    """Say what went wrong, to a program as well; returns the exit code."""
    if getattr(args, "json", False):
        print(json.dumps({"error": sentence}, ensure_ascii=False, indent=2), flush=True)
    print(f"ml-backend {args.command}: {sentence}", file=sys.stderr)
    return code


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Build the parser. Only the wanted command's module is imported, so that `--help` answers at once."""
    parser = Parser(
        prog="ml-backend",
        description="Active learning for Label Studio.",
        epilog="`ml-backend <command> --help` explains each command; see also docs/commands.md.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if wanted == name:
            module = _module(name)
            command.description = module.__doc__
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(command)
    return parser


def _joined(arguments: list[str]) -> list[str]:
    """`import labels` is `import-labels`."""
    if arguments[:1] == ["import"] and len(arguments) > 1 and f"import-{arguments[1]}" in COMMANDS:
        return [f"import-{arguments[1]}", *arguments[2:]]
    return arguments


def _complete() -> None:
    """Answer the shell, which asks by environment variables, and exit."""
    import argcomplete  # noqa: PLC0415 - only here

    words = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(build_parser(words[1] if len(words) > 1 else None))


def _module(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a module with `add_arguments` and `run`
    return importlib.import_module(f"ml_backend.commands.{MODULES.get(name, name.replace('-', '_'))}")


if __name__ == "__main__":
    sys.exit(main())
