"""What a command would do, found out on a copy of the store that is thrown away: what --dry-run works on.

Label Studio is read, and so are the vectors and versions that are there; neither is written.
"""

from __future__ import annotations

import atexit
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from ml_backend.project_settings import settings_of
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store import schema
from ml_backend.store.database import Database
from ml_backend.store.projects import Project
from ml_backend.wording import amount

PIECE = 5_000
PREFIX = "ml-backend-dry-run-"


def open_copy(settings: Settings) -> Services:
    """Services on a copy of the store as it is now, without its jobs; the copy is gone when the process ends."""
    folder = TemporaryDirectory(prefix=PREFIX)
    atexit.register(folder.cleanup)
    return _copy_in(Path(folder.name), settings)


@contextmanager
def copied(settings: Settings) -> Iterator[Services]:
    """The same for a process that goes on: the copy is gone when the block ends."""
    with TemporaryDirectory(prefix=PREFIX) as folder:
        services = _copy_in(Path(folder), settings)
        try:
            yield services
        finally:
            services.hosts.close()
            services.database.close()


def _copy_in(folder: Path, settings: Settings) -> Services:
    copy = folder / "state.sqlite3"
    if settings.database.startswith("sqlite"):
        _copy_file(Path(str(sa.make_url(settings.database).database)), copy)
    else:
        _copy_rows(settings.database, copy)
    there = settings.data_dir if settings.data_dir.is_dir() else folder
    services = Services.open(settings.model_copy(update={"database_url": f"sqlite:///{copy}", "data_dir": there}))
    services.is_copy = True
    with services.database.write() as connection:
        connection.execute(schema.jobs.delete())  # a turn of the service that runs has nothing to do with the copy
    return services


def _copy_file(source: Path, copy: Path) -> None:
    if not source.is_file():
        return
    readable = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)
    with closing(readable) as original, closing(sqlite3.connect(copy)) as target:
        original.backup(target)


def _copy_rows(url: str, copy: Path) -> None:
    """From another database, row by row."""
    original, target = Database(url), Database(f"sqlite:///{copy}")
    with original.read() as source, target.write() as connection:
        connection.execute(schema.store.delete())
        for table in schema.metadata.sorted_tables:
            rows = source.execute(sa.select(table).execution_options(yield_per=PIECE))
            for part in rows.mappings().partitions():
                connection.execute(table.insert(), [dict(row) for row in part])
    original.close()
    target.close()


@dataclass(frozen=True)
class Plan:
    """What a turn would do now. tasks, labels: new or changed. images: to be read. version: the number to be trained.

    queue: the name of the one that stays; None where another would be pushed.
    """

    tasks: int
    labels: int
    labelled: int
    held_out: int
    images: int
    version: int | None
    why_not: str
    queue: str | None

    def sentences(self) -> Iterator[str]:
        known = f"{amount(self.labelled, 'label')} in total, {self.held_out} of them held out to measure the accuracy"
        yield f"Would read {amount(self.tasks, 'new or changed task')} and {amount(self.labels, 'label')}: {known}."
        if self.images:
            yield f"Would read and encode {amount(self.images, 'image')}."
        yield f"Would train v{self.version} and serve it unless it is worse." if self.version else self.why_not
        yield f"Would leave the queue {self.queue} as it is." if self.queue else "Would push a new queue."


def plan_turn(project: Project, services: Services) -> Plan:
    """What a turn would come to, as far as it can be known without training. `services` are those of `open_copy`."""
    from ml_backend.steps.choose import still_good  # noqa: PLC0415 - torch takes seconds

    ledger = services.ledger
    project, report = services.label_sync.sync(project, full=False)
    counts = ledger.counts(project)
    version, why_not = _next_version(project, services)
    current, last = services.versions.current(project), ledger.last_round(project)
    served = version or (current.number if current else 0)
    rows = ledger.pool(project)
    audit = services.auditing.advance(project, rows)
    stays = (
        last is not None
        and last.state in {"pushed", "verified"}
        and still_good(project, last, rows, served, ledger, settings_of(project, services.settings), audit)
    )
    return Plan(
        tasks=report.added + report.changed + report.deleted,
        labels=report.labels_touched,
        labelled=counts.labelled,
        held_out=counts.holdout_labelled,
        images=sum(1 for _ in ledger.tasks_without_hash(project)),
        version=version,
        why_not=why_not,
        queue=last.served_name if stays and last else None,
    )


def _next_version(project: Project, services: Services) -> tuple[int | None, str]:
    """The number of the version to be trained; else None, and the sentence that says why none would be."""
    from ml_backend.steps.name_guesses import names_digest  # noqa: PLC0415 - torch takes seconds
    from ml_backend.steps.train import trained_on  # noqa: PLC0415

    versions, ledger = services.versions.list(project), services.ledger
    before = versions[0].meta.trained_on if versions else None
    settings = services.settings
    reads = isinstance(before, dict) and "names" in before and settings.start_from_names == "yes"
    names = names_digest(project) if reads else None
    if isinstance(before, dict) and before == trained_on(project, before.get("encoder"), ledger, settings, names):
        return None, f"Would not train: no label has changed since {versions[0].name}."
    if len({label.labels for label in ledger.labels(project, split="train")}) < 2:
        return None, "Would not train: that needs labels of two classes."
    return services.versions.next_number(project), ""
