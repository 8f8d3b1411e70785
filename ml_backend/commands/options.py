"""What several commands have in common: which project, how to answer, and opening the store."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.errors import ConfigError, ConflictError, InvalidInputError, NotFoundError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.ownership import require_own
from ml_backend.settings import Settings
from ml_backend.store_identity import Store, look_for_former_folder, refuse_another

if TYPE_CHECKING:
    from ml_backend.services import Services
    from ml_backend.store.projects import Project

ENVIRONMENT = """
Label Studio and its token come from the environment: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or
LABEL_STUDIO_API_KEY_FILE for a file that holds the token. Legacy and personal access tokens both work.
"""


def add_common(parser: argparse.ArgumentParser, *, dry_run: bool = True, as_json: bool = True) -> None:
    """Which project is meant, and how to answer."""
    parser.add_argument(
        "--project", metavar="ID", help="number or title of the project; not needed if there is only one"
    )
    parser.add_argument(
        "--host",
        metavar="URL",
        help="the project's Label Studio, if LABEL_STUDIO_API_KEYS names several (default: LABEL_STUDIO_URL)",
    )
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="say what would be done without changing anything")
    if as_json:
        parser.add_argument("--json", action="store_true", help="print one JSON document, for scripts")


def add_labels_as(parser: argparse.ArgumentParser) -> None:
    """How labels of a CSV are read, and what they become."""
    parser.add_argument(
        "--labels-as",
        choices=["annotations", "predictions"],
        default="annotations",
        help="annotations: the tasks count as labelled; predictions: the labels are shown for somebody to confirm "
        "(default: annotations)",
    )
    parser.add_argument(
        "--separator", default="|", metavar="TEXT", help="separator between several labels in a CSV cell (default: |)"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How a strategy chooses among the pool."""
    parser.add_argument(
        "--pool-size", type=positive, metavar="N", help="rank only a random sample of the pool, of this size"
    )
    parser.add_argument(
        "--power",
        type=float,
        help="draw tasks at random, weighted by acquisition ** POWER, instead of taking the highest: near 0 evenly; "
        "larger values come closer to the plain ranking",
    )


def read_settings(*, service: str | None = None, name_store: bool = True) -> Settings:
    """Settings of the environment; warnings of what happens meanwhile go to standard error.

    name_store: name the store on standard error; for commands whose answer does not.
    Raises AnotherStoreError where the service that runs (at `service`, if it is not where the settings say) uses another
    store: whatever a command did then, it would not be about what people see.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry is a warning; what comes of it is one sentence
    settings = Settings.from_environ(os.environ)
    if former := look_for_former_folder(settings, os.environ):
        print(f"Note: {former}", file=sys.stderr)
    refuse_another(settings, service)
    if name_store:
        print(f"Data folder: {Store.of(settings)}", file=sys.stderr)
    return settings


def open_services(*, dry_run: bool = False, name_store: bool = True) -> Services:
    """The same store and Label Studio as the service has, by the same settings; for a dry run, a copy of the store."""
    settings = read_settings(name_store=name_store)
    if dry_run:
        from ml_backend.dry_run import open_copy  # noqa: PLC0415 - as below

        return open_copy(settings)
    from ml_backend.services import Services  # noqa: PLC0415 - the store takes a while to import: mistakes do not wait

    return Services.open(settings)


def host_of(settings: Settings, args: argparse.Namespace) -> str:
    """Return the Label Studio meant. Raises ConfigError for one without a token."""
    host = (args.host or settings.label_studio_url).rstrip("/")
    if not settings.hosts().get(host):
        raise ConfigError(
            f"No access token for {host}: set LABEL_STUDIO_API_KEY (or LABEL_STUDIO_API_KEY_FILE, a file that holds "
            "it), or add the host to LABEL_STUDIO_API_KEYS. You find the token in Label Studio under Account & "
            "Settings."
        )
    return host


def open_client(settings: Settings, args: argparse.Namespace) -> LabelStudio:
    host = host_of(settings, args)
    return LabelStudio(host, settings.hosts()[host])


def remote_project(client: LabelStudio, wanted: str | None) -> dict[str, Any]:
    """Find a project of Label Studio by number or title; None: the only one there is."""
    if wanted is not None and wanted.isdigit():
        try:
            return client.get_project(int(wanted))
        except NotFoundError:
            raise NotFoundError(
                f"{client.url} has no project {wanted}, or this user may not see it. {_list(client)}"
            ) from None
    found = [p for p in client.projects() if wanted is None or p["title"] == wanted]
    if len(found) == 1:
        return found[0]
    if not found and wanted is not None:
        raise NotFoundError(f"{client.url} has no project called {wanted!r}. {_list(client)}")
    raise InvalidInputError(f"Choose a project with --project. {_list(client)}")


def find_project(services: Services, args: argparse.Namespace, *, register: bool = True) -> Project:
    """Return the project meant, made known to the store where it is not yet; without `register`, NotFoundError then.

    A project that becomes known is due, and the service would train and push: a command that only looks must not do that.
    Raises AnotherStoreError for one that would become known here, and that another store has.
    """
    host = host_of(services.settings, args)
    known = [p for p in services.ledger.projects() if p.key.host == host]
    matching = [p for p in known if args.project in {None, str(p.key.project_id), p.title}]
    if len(matching) == 1:
        return matching[0]
    if len(matching) > 1:
        names = ", ".join(f"{p.key.project_id} ({p.title})" for p in matching)
        raise ConflictError(f"Choose a project with --project: {names}.")
    remote = remote_project(services.hosts.client(host), args.project)
    require_own(remote, services.database.store_id, lambda _queue: False)
    if not register:
        raise NotFoundError(
            f"Project {remote['id']} ({remote['title']}) is not connected to this service yet: run `ml-backend "
            f"setup-project --project {remote['id']}`."
        )
    from ml_backend.hosts import created_at  # noqa: PLC0415 - as above

    created = created_at(remote)
    client = services.hosts.client(host)
    selection = client.selection(int(remote["id"]))
    project = services.registry.register(
        host, int(remote["id"]), remote["label_config"], created=created, selection=selection
    )
    return services.ledger.upsert_project(
        project.key, title=remote["title"], label_config=project.label_config, schema=project.schema
    )


def existing_file(text: str) -> Path:
    """For argparse: a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def positive(text: str) -> int:
    """For argparse: a whole number of at least one."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _list(client: LabelStudio) -> str:
    names = [f"{p['id']} ({p['title']})" for p in client.projects()]
    if not names:
        return "It has no projects: create one with `ml-backend setup-project --title ... --labels ...`."
    return "Projects: " + ", ".join(names[:20]) + (", ..." if len(names) > 20 else ".")
