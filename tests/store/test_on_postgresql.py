"""The store's own tests once more, on a real PostgreSQL started for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.store.database import Database
from tests.fakes import POSTGRESQL
from tests.postgresql import cluster

TESTS = (
    "ledger",
    "ledger_rounds",
    "ledger_property",
    "ledger_readers",
    "jobs",
    "events",
    "model_versions",
    "killed",
    "debounce",
    "pictures",
    "accepted",
    "acceptances",
    "chosen_settings",
    "task_search",
    "map_rows",
    "set_aside",
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.mark.e2e
@pytest.mark.timeout(1_800)
def test_every_test_of_the_store_passes_on_postgresql_too(server: str) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *(str(here / f"test_{name}.py") for name in TESTS),
            str(here.parent / "insight" / "test_people.py"),
        ],
        env={**os.environ, POSTGRESQL: server},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=1_500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.e2e
def test_a_store_on_postgresql_is_opened_by_many_at_once(server: str) -> None:
    code = f"from ml_backend.store.database import Database; print(Database({server!r}).store_id)"
    opening = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        for _ in range(3)
    ]
    ids = {process.communicate(timeout=240)[0].strip() for process in opening}
    assert ids == {Database(server).store_id}
