"""Check the whole setup, step by step: each check passes or says what to change. Changes nothing.

It looks at Label Studio and the token; at this service and whether Label Studio reaches it; at each project's backend,
webhooks, order and images; and at this machine. Exits with 1 if anything needs fixing. Checks that depend on a failed one
are skipped, so run it again after a fix.
"""

from __future__ import annotations

import argparse

from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services
from ml_backend.commands.output import Answer
from ml_backend.wording import amount

MARKS = {"ok": "ok  ", "note": "note", "FIX": "FIX "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    add_common(parser, dry_run=False)


def run(args: argparse.Namespace) -> int:
    answer = Answer(as_json=args.json)
    services = open_services(name_store=False)
    from ml_backend.store.projects import Project  # noqa: PLC0415 - the store takes a second: `--help` does not wait

    host = (args.host or services.settings.label_studio_url).rstrip("/")

    def wanted() -> list[Project]:
        if args.project is not None:
            return [find_project(services, args, register=False)]
        return [project for project in services.ledger.projects() if project.key.host == host]

    results = []
    for result in services.diagnosis.examine(host, wanted):
        results.append(result)
        if not args.json:
            answer.say(f"{MARKS[result.state]}  {result.name}: {result.message}")
    faults = sum(not result.ok for result in results)
    document = {"ok": not faults, "results": [vars(result) for result in results]}
    answer.result(document, "All is well." if not faults else f"{amount(faults, 'problem')} to fix.")
    return 1 if faults else 0
