"""A version as a file, made once however many ask for it, in a process of its own.

Tracing a network takes many seconds of Python: it would keep webhooks waiting here, and in the worker wait for encoding.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from ml_backend.errors import BackendError, ConfigError, ConflictError, StoreError
from ml_backend.services import Services
from ml_backend.settings import Settings

Kind = Literal["pt2", "onnx"]
NICENESS = 10
"""It yields to the web process and to the worker."""


@dataclass
class Exports:
    """The exports of one web process; those under way are shared."""

    settings: Settings
    under_way: dict[Path, asyncio.Task[None]] = field(default_factory=dict)

    async def get(self, project_id: int, version: int, kind: Kind) -> Path:
        """Where the file is, once it is there. Raises BackendError with the reason where it cannot be made."""
        path = self.settings.data_dir / "exports" / str(project_id) / f"v{version}.{kind}"
        if not path.exists():
            task = self.under_way.get(path)
            if task is None:
                task = asyncio.create_task(asyncio.to_thread(_make, self.settings, project_id, version, kind, path))
                task.add_done_callback(lambda _done: self.under_way.pop(path, None))
                self.under_way[path] = task
            await asyncio.shield(task)  # who goes away does not take it from the others
        return path


def _make(settings: Settings, project_id: int, version: int, kind: Kind, path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_export, args=(sender, settings, project_id, version, kind, path), daemon=True)
    process.start()
    sender.close()
    try:
        fault: BackendError | None = receiver.recv()
    except EOFError:
        fault = StoreError(f"The process that exported v{version} ended; it may have run out of memory. Try again.")
    process.join()
    if fault is not None:
        raise fault


def _export(
    outcome: Connection[BackendError | None, None],
    settings: Settings,
    project_id: int,
    version: int,
    kind: Kind,
    path: Path,
) -> None:
    """In the process: make the file, and send what went wrong, or None."""
    os.nice(NICENESS)
    services = Services.open(settings)
    try:
        project = next(known for known in services.ledger.projects() if known.id == project_id)
        services.model_exporter.save(project, services.versions.version(project, version), kind, path)
    except ConfigError as error:
        outcome.send(ConflictError(str(error)))  # of the model, not of the service
    except BackendError as error:
        outcome.send(error)
    except Exception as error:  # noqa: BLE001 - raised where the export was asked for
        outcome.send(BackendError(f"v{version} cannot be exported ({type(error).__name__}: {error})."))
    else:
        outcome.send(None)
