"""A store of an earlier schema, made by that schema's own statements, is brought up to date with all that is in it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ml_backend.split import place
from ml_backend.store import migrations
from ml_backend.store.database import Database
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from tests.postgresql import cluster

HERE = Path(__file__).parent
TASKS = 7
STATEMENTS = (
    "INSERT INTO store VALUES (1, 'the-store')",
    (
        "INSERT INTO projects (host, external_id, title, label_config, label_schema, rule, settings, created_at) VALUES "
        "('http://label-studio', 1, 'Pets', '<View/>', "
        '\'{"from_name": "choice", "to_name": "image", "image_key": "image", "labels": ["cat", "dog"]}\', '
        '\'{}\', \'{"gone": true, "strategy": "margin"}\', '
        "'2026-01-01 00:00:00')"
    ),
    *(
        f"INSERT INTO tasks (project_id, task_id, gone, split, answers, skips, conflict, content_hash, data) VALUES "
        f"(1, {task}, false, 'holdout', 1, 0, false, {'NULL' if task == 3 else repr(f'{task:064x}')}, '{{}}')"
        for task in range(1, TASKS + 1)
    ),
    (
        "INSERT INTO versions (project_id, number, state, reason, meta, created_at) VALUES "
        '(1, 1, \'promoted\', \'\', \'{"classes": ["cat", "dog"], "trained_on": "4f2a", "head": "ridge"}\', '
        "'2026-01-01 00:00:00')"
    ),
    "UPDATE tasks SET image_error = 'status 503' WHERE task_id = 3",
    "UPDATE projects SET full_at = '2026-01-02 00:00:00'",
    *(
        "INSERT INTO annotations (project_id, annotation_id, task_id, labels, was_cancelled, ground_truth, created_at, "
        f"updated_at) VALUES (1, {i}, {i}, '{labels}', {skip}, false, '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
        for i, labels, skip in ((1, '["cat"]', "false"), (2, "[]", "true"), (4, "[]", "false"))
    ),
)


def old_store(url: str, kind: str) -> None:
    """A project of a few tasks, all but one of them read, all held out by the rule of then."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        script = (HERE / f"schema_1_{kind}.sql").read_text(encoding="utf-8")
        for statement in [*filter(str.strip, script.split(";")), *STATEMENTS]:
            connection.exec_driver_sql(statement)
    engine.dispose()


def shape(database: Database) -> dict[str, Any]:
    with database.read() as connection:
        look = sa.inspect(connection)
        return {
            name: (
                {column["name"]: (str(column["type"]), column["nullable"]) for column in look.get_columns(name)},
                {index["name"] for index in look.get_indexes(name)},
            )
            for name in look.get_table_names()
        }


def brought_up_to_date(url: str, new_url: str) -> None:
    database = Database(url)
    assert database.store_id == "the-store"
    assert shape(database) == shape(Database(new_url))
    (project,) = Ledger(database).projects()
    with database.read() as connection:
        rows = connection.execute(sa.text("SELECT task_id, place, reached FROM tasks ORDER BY task_id")).all()
    assert [tuple(row) for row in rows] == [
        (task, None if task == 3 else place(f"{task:064x}", 0), None) for task in range(1, TASKS + 1)
    ]
    with database.read() as connection:
        kept = connection.scalars(sa.text("SELECT annotation_id FROM annotations ORDER BY annotation_id")).all()
    assert (project.full_at, list(kept)) == (None, [1, 2]), "where nothing was chosen, it is read again"
    assert project.title == "Pets"
    assert (project.state.gone, project.state.overlap, project.reserved_share) == (True, 1, 0.0)
    found = Ledger(database).configure(project, gone=None, overlap=2).state
    assert found.as_json() == {"strategy": "margin", "overlap": 2}, "what nobody reads any more is kept"
    (version,) = Versions(Path(), database).list(project)
    assert (version.fits(project.schema), version.meta.trained_on, version.meta.encoder.id) == (True, "4f2a", "")
    assert version.meta.as_json() == {"classes": ["cat", "dog"], "trained_on": "4f2a", "head": "ridge"}
    assert [task.id for task in Ledger(database).tasks_without_hash(project)] == [3], "its fault was for good, once"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "PIECE", 2)


def test_a_store_of_schema_1_is_brought_up_to_date(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    old_store(url, "sqlite")
    brought_up_to_date(url, f"sqlite:///{tmp_path / 'new.db'}")


@pytest.mark.e2e
def test_a_store_of_schema_1_on_postgresql_is_brought_up_to_date() -> None:
    with cluster() as url:
        driver = url.replace("postgresql:", "postgresql+psycopg:")
        new = f"new_{uuid.uuid4().hex[:8]}"
        engine = sa.create_engine(driver, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {new}")
        engine.dispose()
        old_store(driver, "postgresql")
        brought_up_to_date(driver, driver.rsplit("/", 1)[0] + f"/{new}")
