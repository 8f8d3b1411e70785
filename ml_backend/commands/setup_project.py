"""Create a Label Studio project, or adopt an existing one as it is, and connect it to this service.

  ml-backend setup-project --title Birds --labels robin,wren,finch
  ml-backend setup-project --project 3                adopt project 3: its labels and skips are kept
  ml-backend setup-project --project 3 --choices kind learn these <Choices> if there are several
  ml-backend setup-project --project 3 --check        only check the connection
  ml-backend setup-project --project 3 --remove       remove the backend and its webhooks; labels are kept
  ml-backend setup-project --project 3 --take-over    take it over from another data folder

Sets up the ML backend (with user and password, if it has them), the webhooks, the order in which tasks are served, and
tabs for the queue and for all tasks, without columns of raw JSON (those you chose stay). The service must be running
(`ml-backend serve`), because Label Studio calls it. Run it again to repair what is wrong; the rest is left alone.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ml_backend.commands import held_out
from ml_backend.commands.first_queue import await_order, make_tabs
from ml_backend.commands.options import (
    ENVIRONMENT,
    add_common,
    existing_file,
    open_client,
    read_settings,
    remote_project,
)
from ml_backend.commands.output import Answer
from ml_backend.errors import AnotherStoreError, InvalidInputError
from ml_backend.host_lists import HostList
from ml_backend.hosts import Hosts
from ml_backend.labelstudio import ownership
from ml_backend.labelstudio.addresses import SETTING, unlisted
from ml_backend.labelstudio.checks import CONNECTING, Access, Finding, check, check_selection
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import NOTHING, label_config, parse_label_config
from ml_backend.labelstudio.connection import connect, disconnect
from ml_backend.labelstudio.read_only import DryRun
from ml_backend.records import ProjectKey, Selection
from ml_backend.settings import Settings
from ml_backend.store.database import Database, existing_store_id
from ml_backend.store.ledger import Ledger
from ml_backend.store_identity import Store
from ml_backend.wording import amount

LOOKED_THROUGH = 2_000
"""Tasks whose images are looked at for hosts that are not listed."""
MOST_HOSTS = 5

UNCHANGED = "Nothing was changed (--dry-run)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument("--title", help="title of a new project; an existing project with this title is adopted")
    parser.add_argument(
        "--labels",
        metavar="A,B,...",
        help="labels of a new project, separated by commas; put a label that contains a comma in double quotes",
    )
    parser.add_argument(
        "--label-config", type=existing_file, metavar="XML", help="file with a label config, instead of --labels"
    )
    parser.add_argument("--choices", metavar="NAME", help="the <Choices> to learn, if the label config has several")
    parser.add_argument("--image", metavar="NAME", help="the <Image> to learn from, if the label config has several")
    parser.add_argument("--multiple", action="store_true", help="allow several labels per image")
    parser.add_argument(
        "--backend-url",
        metavar="URL",
        help="this service's address as Label Studio reaches it (default: from ML_BACKEND_URL)",
    )
    parser.add_argument("--no-backend", action="store_true", help="only create the project; connect it later")
    parser.add_argument(
        "--check", action="store_true", help=("only check the connection; exit with 1 if something is wrong")
    )
    parser.add_argument("--remove", action="store_true", help="remove the backend and its webhooks; labels are kept")
    parser.add_argument(
        "--take-over", action="store_true", help="take the project over if it belongs to another data folder"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    answer = Answer(as_json=args.json)
    settings = read_settings(service=args.backend_url and args.backend_url.partition("/hosts/")[0])
    client: LabelStudio = open_client(settings, args)
    if args.dry_run:
        client = DryRun(client.url, settings.hosts()[client.url])
    selection = Selection(args.choices, args.image) if args.choices or args.image else None
    project = _project(client, settings.selection, selection, args, answer)
    if project is None:
        return 0
    looks = args.check or args.dry_run
    made = partial(_made, settings, client.url, int(project["id"]))
    taken = [] if looks else _own(client, project, settings, made, args)
    url = (args.backend_url or Hosts(settings).backend_url(client.url)).rstrip("/")
    if args.remove:
        return _remove(client, project, url, args, answer)
    access = Access.of(settings.user, settings.password)
    number = int(project["id"])
    if args.no_backend:
        later = " Pass --choices and --image again when you connect it: they are stored with the connection."
        text = f"Project {number} ({project['title']}) is ready."
        answer.result(
            {"project": number, "title": project["title"], "changed": taken}, text + later * (selection is not None)
        )
        return 0
    if args.check:
        findings = check(client, number, url, access=access, selection=selection, default=settings.selection)
        changed: list[str] = []
    else:
        tabs = make_tabs(client, project)
        report = connect(client, number, url, access=access, selection=selection, default=settings.selection)
        findings, changed = report.findings, [*taken, *report.changed, *tabs]
    findings.append(ownership.finding(client.get_project(number), existing_store_id(settings.database), made))
    findings += unlisted_hosts(client, settings, number, findings)
    queue, closing = None, [held_out.first_answers(settings, int(project.get("task_number") or 0))]
    if not (args.check or args.dry_run) and all(finding.ok for finding in findings):
        queue, sentence = await_order(client, number)
        closing.append(sentence)
    return _report(project, client.url, findings, changed, queue, closing, args, answer)


def unlisted_hosts(client: LabelStudio, settings: Settings, number: int, findings: list[Finding]) -> list[Finding]:
    """What to list before the service fetches the images that are there already; nothing where nothing is missing."""
    if any(finding.name == "label config" and not finding.ok for finding in findings):
        return []
    schema = client.schema(number, default=settings.selection)
    seen = (task.image for task in islice(client.tasks(number, schema=schema), LOOKED_THROUGH))
    hosts = unlisted(seen, client.url, HostList(settings.image_hosts))
    if not hosts:
        return []
    places = sorted(hosts, key=lambda place: -hosts[place])[:MOST_HOSTS]
    message = (
        f"{amount(sum(hosts.values()), 'image')} would not be fetched, as the host is not listed: to trust it, start "
        f"the service with {SETTING}={','.join([*settings.image_hosts, *places])}, or serve them through Label Studio."
    )
    return [Finding("image hosts", "FIX", message)]


def _project(
    client: LabelStudio, default: Selection, selection: Selection | None, args: argparse.Namespace, answer: Answer
) -> dict[str, Any] | None:
    """Find or make the project; None where --dry-run would make one."""
    config = _config(args)
    wanted = parse_label_config(config, selection or NOTHING, default=default).labels if config is not None else ()
    if args.title is None:
        if config is not None:
            raise InvalidInputError("--labels and --label-config are for new projects: add --title.")
        return remote_project(client, args.project)
    titled = [project for project in client.projects() if project["title"] == args.title]
    if len(titled) > 1:
        numbers = ", ".join(str(project["id"]) for project in titled)
        raise InvalidInputError(f"Several projects are called {args.title!r}: choose with --project {numbers}.")
    if not titled:
        if config is None:
            raise InvalidInputError(
                f"There is no project {args.title!r} yet: to create it, add --labels or --label-config."
            )
        if args.check or args.remove:
            answer.result({"project": None, "title": args.title}, f"There is no project {args.title!r} yet.")
            return None
        if args.dry_run:
            would = f"Would create the project {args.title!r} with the labels {', '.join(wanted)}"
            text = would + ("." if args.no_backend else ", and connect it to this service.")
            answer.result({"project": None, "title": args.title, "dry_run": True}, f"{text} {UNCHANGED}")
            return None
        number = int(client.create_project(args.title, config)["id"])
        answer.say(f"Created project {number} ({args.title}): {client.url}/projects/{number}/")
        return client.get_project(number)
    found = titled[0]
    if config is not None:
        there = check_selection(found, client.backends(found["id"]), selection, default).labels
        if there != wanted:
            raise InvalidInputError(
                f"Project {found['id']} ({args.title}) exists with other labels ({', '.join(there)}): omit --labels "
                "and --label-config to adopt it as it is."
            )
    return found


def _own(
    client: LabelStudio,
    project: dict[str, Any],
    settings: Settings,
    made: Callable[[str], bool],
    args: argparse.Namespace,
) -> list[str]:
    """Make sure that no other store has the project, or take it over; says what was done.

    A project that nobody has is not marked here: the service's first turn does that, whose store it is to be.
    """
    try:
        ownership.require_own(project, existing_store_id(settings.database), made)
    except AnotherStoreError:
        if not args.take_over:
            raise
        store = Store.make(settings)
        ownership.claim(client, project, ownership.Owner.here(str(store.id)))
        return [f"took over the project for {store}"]
    return []


def _made(settings: Settings, host: str, number: int, queue: str) -> bool:
    """Whether the store of these settings has made the queue of that name; makes no store."""
    if existing_store_id(settings.database) is None:
        return False
    return Ledger(Database(settings.database)).made(ProjectKey(host, number), queue)


def _config(args: argparse.Namespace) -> str | None:
    if args.label_config:
        return Path(args.label_config).read_text(encoding="utf-8")
    if args.labels is None:
        return None
    return label_config(labels_from(args.labels), multiple=args.multiple)


def labels_from(text: str) -> list[str]:
    """Read the labels as a line of CSV, so that one with a comma in it can stand in quotes."""
    try:
        cells = [cell for line in csv.reader([text], skipinitialspace=True, strict=True) for cell in line]
    except csv.Error as error:
        raise InvalidInputError(
            f"--labels cannot be read as CSV ({error}): put a label that contains a comma or a quote in double "
            "quotes, and double each quote inside it."
        ) from None
    labels = [label.strip() for label in cells if label.strip()]
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise InvalidInputError("--labels needs at least two different labels, separated by commas.")
    return labels


def _remove(client: LabelStudio, project: dict[str, Any], url: str, args: argparse.Namespace, answer: Answer) -> int:
    removed = disconnect(client, int(project["id"]), url)
    did = "Would remove" if args.dry_run else "Removed"
    text = f"{did} from {project['title']!r}: {', '.join(removed)}." if removed else "Nothing to remove."
    answer.result(
        {"project": project["id"], "removed": removed, "dry_run": args.dry_run},
        f"{text} {UNCHANGED}" if args.dry_run else text,
    )
    return 0


def _report(
    project: dict[str, Any],
    host: str,
    findings: list[Finding],
    changed: list[str],
    queue: str | None,
    closing: list[str],
    args: argparse.Namespace,
    answer: Answer,
) -> int:
    document = {"project": project["id"], "changed": changed, "queue": queue, "dry_run": args.dry_run}
    lines = [f"Project {project['id']} ({project['title']}): {host}/projects/{project['id']}/"]
    if args.dry_run:
        findings = [finding for finding in findings if finding.name not in CONNECTING]  # those would be right then
        lines += ["  would have:"] * bool(changed)
    if not args.check:
        lines += [f"  {change}" for change in changed] or ["  everything was right already"]
    lines += [f"  {'ok ' if finding.ok else 'FIX'}  {finding.name}: {finding.message}" for finding in findings]
    ok = all(finding.ok for finding in findings)
    document |= {"ok": ok, "findings": [{"name": f.name, "ok": f.ok, "message": f.message} for f in findings]}
    lines += [] if args.check else closing
    answer.result(document, "\n".join([*lines, UNCHANGED] if args.dry_run else lines))
    return 0 if ok or args.dry_run else 1
