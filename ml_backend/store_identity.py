"""Which store this process uses, and whether a service that runs already uses another one.

A store is a database with the folder of vectors and versions that goes with it. Its id was drawn when the database was
made and stays with it wherever it is moved. Two stores on one project would each train and push a queue of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from sqlalchemy.engine import URL, make_url

from ml_backend.errors import AnotherStoreError, ConfigError
from ml_backend.settings import Settings
from ml_backend.store.database import Database, existing_store_id

FORMER_DEFAULT = "ml-backend-data"
"""Name of the data folder up to release 0.1, in whatever folder a command was run."""
ANSWER_SECONDS = (0.5, 2.0)
"""To connect, and to answer: a service that runs answers in milliseconds; commands work without one, too."""


@dataclass(frozen=True)
class Store:
    """A store as it is told to people and programs. `id` is None where nothing has been kept yet."""

    id: str | None
    data_dir: Path
    database: str | None  # where it is not in the data folder; without its password

    @classmethod
    def of(cls, settings: Settings) -> Store:
        """Find the store that these settings name; makes nothing."""
        found = existing_store_id(settings.database)
        return cls(
            found, settings.data_dir, _without_credentials(settings.database_url) if settings.database_url else None
        )

    @classmethod
    def make(cls, settings: Settings) -> Store:
        """The same, made where there is none yet. Raises ConfigError where it cannot be."""
        settings.make_data_dir()
        Database(settings.database).close()
        return cls.of(settings)

    def __str__(self) -> str:
        which = f"store {short(self.id)}" if self.id else "still empty"
        return f"{self.data_dir} ({which}{f', database {self.database}' if self.database else ''})"

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "data_dir": str(self.data_dir), "database": self.database}


def _without_credentials(url: str) -> str:
    """A database's address without user, password and options."""
    parts = make_url(url)
    return URL.create(
        parts.get_backend_name(), host=parts.host, port=parts.port, database=parts.database
    ).render_as_string()


def short(store_id: str) -> str:
    """Enough of a store's id to tell it from others."""
    return store_id[:8]


def refuse_another(settings: Settings, url: str | None = None) -> None:
    """Raise AnotherStoreError where a service runs whose store is not the one these settings name; makes nothing.

    url: the service's address; by default ML_BACKEND_URL, or this machine's port where that is not known from here.
    """
    for address in [url] if url else dict.fromkeys([settings.url, f"http://localhost:{settings.port}"]):
        running = service_store(address)
        if running is None:
            continue
        mine = Store.of(settings)
        if running and running != mine.id:
            raise AnotherStoreError(
                f"The service at {address} uses another store ({short(running)}) than this command, which uses the "
                f"data folder {mine}, so nothing was done. To use the service's store, give this command the "
                "ML_BACKEND_DATA_DIR (and ML_BACKEND_DATABASE_URL, if any) that the service prints when it starts. "
                "If you mean another service, set its ML_BACKEND_PORT or ML_BACKEND_URL."
            )
        return


def service_store(url: str) -> str | None:
    """The id of the store of the service at this address; "" where it does not tell, None where no service answers."""
    try:
        answer = requests.get(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS)
        health = answer.json() if answer.ok else None
    except (requests.RequestException, ValueError):
        return None
    return str(health.get("store", "")) if isinstance(health, dict) and health.get("status") == "UP" else None


def look_for_former_folder(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """A sentence about a data folder here that a former release made and the default no longer means.

    Raises ConfigError with it where the store that is used instead would be new and empty.
    """
    former = Path.cwd() / FORMER_DEFAULT
    chosen = environ.get("ML_BACKEND_DATA_DIR") or environ.get("ML_BACKEND_DATA_DIR_FILE")
    if (
        chosen
        or settings.data_dir == former
        or not any((former / name).exists() for name in ("state.sqlite3", "versions"))
    ):
        return None
    sentence = (
        f"{former} was created by an earlier release; the default is now {settings.data_dir}. Set "
        f"ML_BACKEND_DATA_DIR={former} to keep using it, or move it away to ignore it."
    )
    if existing_store_id(settings.database) is None or not settings.data_dir.exists():
        raise ConfigError(sentence)
    return sentence
