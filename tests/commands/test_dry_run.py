"""The copy of the store that a dry run works on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ml_backend.dry_run import copied, open_copy
from ml_backend.records import Annotation, Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store import schema
from ml_backend.store.version_meta import VersionMeta
from tests.postgresql import cluster

HOST = "http://127.0.0.1:9"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


def filled(settings: Settings) -> Services:
    """A store with something in every table that a turn reads, and a job that runs."""
    services = Services.open(settings)
    project = services.registry.register(HOST, 1, CONFIG, created=1)
    now = datetime.now(UTC)
    tasks = [Task(i, f"/{i}.png", {"image": f"/{i}.png"}, now) for i in range(1, 6)]
    answers = [Annotation(1, 1, ("cat",), False, False, 1, now, now)]
    services.ledger.reconcile(project, [(task, answers if task.id == 1 else []) for task in tasks], full=True)
    queries = [Query(2, 0, "strategy", 0.5, "why not", 0.7, ("cat",))]
    services.ledger.open_round(project, version=1, strategy="margin", seed=3, queries=queries)
    services.versions.publish(project, 1, lambda folder: (folder / "weights").touch(), VersionMeta(labels=1))
    services.versions.promote(project, 1)
    assert services.jobs.claim("somebody") is not None
    return services


def rows(services: Services) -> dict[str, list[Any]]:
    with services.database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(sa.select(table))]
            for table in schema.metadata.sorted_tables
            if table is not schema.jobs
        }


def rehearsed(settings: Settings) -> None:
    services = filled(settings)
    copy = open_copy(settings)
    assert rows(copy) == rows(services)
    assert copy.database.store_id == services.database.store_id
    (project,) = copy.ledger.projects()
    assert copy.jobs.status(project).running is None, "nobody is waited for"
    before = rows(services)
    copy.ledger.configure(project, gone="2026-01-01T00:00:00+00:00")
    copy.versions.pin(project, 1)
    assert rows(services) == before
    copy.database.close()
    services.database.close()


def test_a_copy_has_everything_but_the_jobs_and_is_changed_alone(tmp_path: Path) -> None:
    rehearsed(Settings(data_dir=tmp_path, label_studio_url=HOST, label_studio_api_key="k" * 40))


@pytest.mark.e2e
def test_a_store_on_postgresql_is_copied_as_well(tmp_path: Path) -> None:
    with cluster() as url:
        rehearsed(Settings(data_dir=tmp_path, database_url=url, label_studio_url=HOST, label_studio_api_key="k" * 40))


def test_a_copy_in_a_process_that_goes_on_is_gone_with_the_block_that_it_was_for(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", label_studio_url=HOST, label_studio_api_key="k" * 40)
    services = filled(settings)
    with copied(settings) as copy:
        assert rows(copy) == rows(services)
        assert copy.is_copy
        place = Path(str(sa.make_url(copy.settings.database).database))
        assert place.is_file()
    assert not place.parent.exists()
    services.database.close()
