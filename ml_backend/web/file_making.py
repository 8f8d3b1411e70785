"""Files that are handed out, each made in a process of its own: what takes long there keeps nobody waiting here."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from ml_backend.errors import BackendError, ConfigError, ConflictError, NotFoundError, StoreError, TooManyError
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.faults import disk_full, scarce, translated
from ml_backend.store.projects import Project
from ml_backend.web.project_routes import numbered
from ml_backend.worker.downloading import LEFT, Download, File, refuse_guesses

logger = logging.getLogger(__name__)

NICENESS = 10
"""It yields to the web process and to the worker."""
MOST = 2
"""Files that are made at a time."""
FRESH_S, KEPT_S, ONCE_S = 30.0, 900.0, 60.0
"""How long a file is handed out again to who asks for a new one, how long it is kept for who downloads it, and how long an address is good."""
MOST_ADDRESSES = 1_000


@dataclass
class Making:
    """A file that is being made, or was. said: how far it is. error: why there is none. handed: when it was first told of as ready."""

    project_id: int
    name: File
    folder: Path
    said: str = "beginning"
    warnings: list[str] = field(default_factory=list)
    path: Path | None = None
    error: BackendError | None = None
    handed: float | None = None

    @property
    def state(self) -> Literal["making", "ready", "failed"]:
        return "failed" if self.error else "ready" if self.path else "making"


class FileMaking:
    """The files of one web process. Safe to share between threads."""

    def __init__(self, services: Services, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._services, self._clock = services, clock
        self._folder = services.settings.data_dir / "downloads"
        shutil.rmtree(self._folder, ignore_errors=True)  # of a service that was killed
        self._known: dict[tuple[int, File], Making] = {}
        self._once: dict[str, tuple[Making, float]] = {}
        self._lock = threading.Lock()

    def ask(self, project: Project, name: File, *, same: bool = False) -> Making:
        """The file as it is being made, for all who ask meanwhile; begun now if need be. same: the one that was made will do.

        One that could not be made is made again once that was told (`had`). Raises ConflictError while nobody is to see it, TooManyError where others are being made.
        """
        refuse_guesses(project, self._services, name)
        key = (project.id, name)
        with self._lock:
            known, now = self._known.get(key), self._clock()
            if known and (known.state != "ready" or self._is_good(known, now, same=same)):
                return known
            if sum(each.state == "making" for each in self._known.values()) >= MOST:
                raise TooManyError("Other files are being made just now: ask for this one in a while.")
            data = self._services.settings.data_dir
            if scarce(data, LEFT):
                raise disk_full(str(data))
            if known:  # nobody is told of it any more: it goes once the addresses that were given are of no use
                _gone_after(ONCE_S, known.folder)
            making = self._known[key] = Making(project.id, name, self._folder / secrets.token_hex(16))
        threading.Thread(target=self._make, args=(making,), name=f"making {name}", daemon=True).start()
        return making

    def _is_good(self, making: Making, now: float, *, same: bool) -> bool:
        if making.path is None or not making.path.exists():
            return False
        making.handed = now if making.handed is None else making.handed
        return same or now - making.handed < FRESH_S

    def address(self, making: Making) -> str:
        """A key that hands this file out one time, soon, to whoever has it."""
        key = secrets.token_urlsafe(32)
        now = self._clock()
        with self._lock:
            self._once = {key: each for key, each in self._once.items() if each[1] > now}
            while len(self._once) >= MOST_ADDRESSES:
                self._once.pop(next(iter(self._once)))
            self._once[key] = making, now + ONCE_S
        return key

    def once(self, project_id: int, key: str) -> Path:
        """The file of that key, which is used up by that. Raises NotFoundError."""
        with self._lock:
            making, until = self._once.pop(key, (None, 0.0))
        if making is None or making.project_id != project_id or self._clock() > until:
            raise NotFoundError(
                "This address was good for one time, within a minute: ask for the file again on the page."
            )
        return self.had(making)

    def had(self, making: Making) -> Path:
        """Where the file is. Raises what kept it from being made, and ConflictError where it is gone, or not to be seen any more."""
        if making.error:
            with self._lock:
                if self._known.get((making.project_id, making.name)) is making:
                    del self._known[making.project_id, making.name]
            raise making.error
        refuse_guesses(numbered(making.project_id, self._services.ledger), self._services, making.name)
        if making.path is None or not making.path.exists():
            raise ConflictError(f"{making.name} is not there any more: ask for it again.")
        return making.path

    def _make(self, making: Making) -> None:
        try:
            making.folder.mkdir(parents=True, mode=0o700)
            _in_process(self._services.settings, making)
        except BackendError as error:
            making.error = error
        except Exception as error:
            logger.exception("%s of project %d cannot be made", making.name, making.project_id)
            making.error = BackendError(
                f"{making.name} cannot be made ({type(error).__name__}): see the service's log."
            )
        if making.error:
            shutil.rmtree(making.folder, ignore_errors=True)
            return
        _gone_after(KEPT_S, making.folder)


def _gone_after(seconds: float, folder: Path) -> None:
    """Delete it then. Who is downloading what was in it gets all of it."""
    timer = threading.Timer(seconds, shutil.rmtree, (folder,), {"ignore_errors": True})
    timer.daemon = True
    timer.start()


def _in_process(settings: Settings, making: Making) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, settings, making.project_id, making.name, making.folder)
    process = context.Process(target=_child, args=arguments, daemon=True)
    process.start()
    sender.close()
    try:
        while making.path is None and making.error is None:
            kind, told = receiver.recv()
            setattr(making, kind, told)
    except EOFError:
        making.error = StoreError(
            f"The process that made {making.name} ended; it may have run out of memory. Ask for it again."
        )
    finally:
        receiver.close()
        process.join()


def _child(
    sender: Connection[tuple[str, Any], None], settings: Settings, project_id: int, name: File, folder: Path
) -> None:
    """In the process: send how far it is, then the warnings and where the file is, or else what went wrong."""
    os.nice(NICENESS)
    services = Services.open(settings)
    try:
        project = next(known for known in services.ledger.projects() if known.id == project_id)
        download = Download(project, services, folder, lambda text: sender.send(("said", text)))
        with translated(str(settings.data_dir)):
            path = download.make(name)
    except ConfigError as error:
        sender.send(("error", ConflictError(str(error))))  # of the model, not of the service
    except BackendError as error:
        sender.send(("error", error if _travels(error) else BackendError(str(error))))
    except Exception as error:  # noqa: BLE001 - told where the file was asked for
        sender.send(("error", BackendError(f"{name} cannot be made ({type(error).__name__}: {error}).")))
    else:
        sender.send(("warnings", download.warnings))
        sender.send(("path", path))


def _travels(error: BackendError) -> bool:
    """Whether it can be put together again in another process, from its sentence alone."""
    return error.args == (str(error),)
