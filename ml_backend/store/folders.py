"""The folders of model versions on disk: written aside, made durable, renamed into place, and never changed again.

<root>/<project>/v7/          weights and meta.json
<root>/<project>/.writing-*   a version on its way; swept if its writer died
<root>/<project>/.lock        held while one is on its way, so that no sweep takes it for an orphan
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ml_backend.errors import DiskFullError
from ml_backend.store.faults import FULL
from ml_backend.store.version_meta import VersionMeta

META = "meta.json"
TEMPORARY = ".writing-"


class Folders:
    """The version folders of all projects below `root`. store_id: only folders of this store are ever swept."""

    def __init__(self, root: Path, store_id: str) -> None:
        self.root = root
        self.store_id = store_id

    def path(self, project_id: int, number: int) -> Path:
        return self.root / str(project_id) / f"v{number}"

    def there(self, project_id: int, number: int) -> bool:
        """Whether the version's files are there."""
        return (self.path(project_id, number) / META).is_file()

    def numbers(self, project_id: int) -> Sequence[int]:
        """Of every folder, entered or not."""
        found = (self.root / str(project_id)).glob("v*")
        return [int(path.name[1:]) for path in found if path.name[1:].isdigit()]

    @contextmanager
    def writing(self, project_id: int) -> Iterator[None]:
        """While a version is written and entered: one at a time, and no sweep meanwhile."""
        parent = self.root / str(project_id)
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / ".lock", wait=True):
            yield

    def write(self, project_id: int, number: int, fill: Callable[[Path], None], meta: VersionMeta) -> None:
        """Let `fill` fill a folder, add meta.json, and put it in its place. Raises DiskFullError when there is no room.

        After any error nothing of it is left.
        """
        final = self.path(project_id, number)
        temporary = final.with_name(f"{TEMPORARY}v{number}-{uuid.uuid4().hex[:8]}")
        try:
            temporary.mkdir()
            fill(temporary)
            (temporary / META).write_text(json.dumps(meta.as_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
            sync_tree(temporary)
            temporary.rename(final)
            _sync(final.parent)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in FULL:
                raise DiskFullError(
                    f"No space left under {self.root} for v{number}; the previous version is still served. Free "
                    "some space, or lower ML_BACKEND_KEEP_VERSIONS."
                ) from error
            raise

    def remove(self, project_id: int, number: int) -> None:
        shutil.rmtree(self.path(project_id, number), ignore_errors=True)

    def encoder_ids(self) -> set[str] | None:
        """Of the encoders of all versions whose files are there, other stores' too; None where one cannot be read."""
        try:
            found = [path.read_bytes() for path in self.root.glob(f"*/v*/{META}")]
            return {VersionMeta.model_validate_json(meta).encoder.id for meta in found}
        except (OSError, ValueError):
            return None

    def sweep(self, entered: Callable[[int], Collection[int]]) -> Sequence[Path]:
        """Delete half-written folders, and those of versions that are not `entered`; returns what was deleted.

        entered: project -> the numbers whose files are to stay. Projects where a version is being written right now are
        left alone; so is a folder that another store made (a database that was lost must not take its models with it).
        """
        swept: Sequence[Path] = ()
        for parent in sorted(p for p in self.root.glob("*") if p.is_dir() and p.name.isdigit()):
            with _locked(parent / ".lock", wait=False) as free:
                if free:
                    swept = [*swept, *self._sweep_project(int(parent.name), entered)]
        return swept

    def _sweep_project(self, project_id: int, entered: Callable[[int], Collection[int]]) -> Sequence[Path]:
        kept = entered(project_id)
        gone = [self.path(project_id, number) for number in self.numbers(project_id) if number not in kept]
        doomed = [
            *(self.root / str(project_id)).glob(f"{TEMPORARY}*"),
            *(folder for folder in gone if _made_by(folder) == self.store_id),
        ]
        for folder in doomed:
            shutil.rmtree(folder, ignore_errors=True)
        return doomed


def _made_by(folder: Path) -> str | None:
    try:
        return VersionMeta.model_validate_json((folder / META).read_bytes()).store
    except (OSError, ValueError):
        return None


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock that the system lets go of when its process dies; yields False if it is taken and `wait` is off."""
    with path.open("w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def sync_tree(folder: Path) -> None:
    """Wait until everything in the folder is on disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
