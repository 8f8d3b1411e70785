"""The labelled images as a data set on disk: folders by label, as ImageFolder reads them, or a manifest beside them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from ml_backend.chunks import chunks
from ml_backend.errors import ImageError, InvalidInputError
from ml_backend.exports.task_cells import SPLITS
from ml_backend.hosts import Hosts
from ml_backend.images.decoding import content_hash, decode
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rows import LedgerRow
from ml_backend.tabular import atomic_file, open_table
from ml_backend.task_names import Unreadable, and_more, copied_as, task_filename
from ml_backend.wording import amount

MARK = ".dataset.json"
MANIFEST = "labels.csv"
READERS, CHUNK = 8, 256
LONGEST = 200
"""Bytes of a name: file systems take 255, and a name being written carries an ending of its own."""
COLUMNS = {"path": str, "filename": str, "label": str, "split": str, "task_id": int, "content_hash": str}


@dataclass
class DatasetReport:
    """images: in the folder now. copied: by this run. removed: no longer labelled so. problems: sentences.

    not_measuring: held-out images left out of a split, because their label was accepted of a model.
    """

    images: int = 0
    copied: int = 0
    removed: int = 0
    not_measuring: int = 0
    problems: list[str] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """What is not in the data set, in sentences; the first of the images by name."""
        found = []
        if self.problems:
            one = len(self.problems) == 1
            images = "1 labelled image is" if one else f"{len(self.problems)} labelled images are"
            shown = and_more(self.problems, most=20, between="\n  ")
            found.append(
                f"{images} left out of the data set because {'it' if one else 'they'} cannot be read:\n  {shown}"
            )
        if self.not_measuring:
            found.append(
                f"{amount(self.not_measuring, 'held-out image')} with an accepted label left out: in held-out/, a model would be "
                "measured by what a model said. Without --splits they are part of the data set."
            )
        return found


def write_dataset(
    project: Project,
    folder: Path,
    ledger: Ledger,
    hosts: Hosts,
    *,
    manifest: bool = False,
    splits: bool = False,
    accepted: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> DatasetReport:
    """Make `folder` hold exactly the labelled images. Safe to repeat, also after a kill: what is there is not read again.

    accepted: those as well whose label was accepted of a model; the manifest says whose each is. With `splits` without the
    held-out ones of them: a model would be measured by what a model said.
    Raises InvalidInputError for a folder that holds something else, for labels of which several go with one image
    without `manifest`, and for labels that no folder can be named after.
    """
    folders = _folders(project, manifest=manifest)
    if not _is_ours(folder, project):
        with atomic_file(folder / MARK) as mark:
            mark.write_text(json.dumps({"project": str(project.key)}) + "\n", encoding="utf-8")
    report = DatasetReport()
    expected: set[Path] = set()
    columns = COLUMNS | ({"origin": str} if accepted else {})
    with open_table(folder / MANIFEST, columns) as write, ThreadPoolExecutor(READERS) as readers:
        rows = _part(ledger.rows(project), report, splits=splits, accepted=accepted)
        for chunk in chunks(rows, CHUNK):
            places = [_place(row, folders, expected, splits=splits) for row in chunk]
            results = readers.map(
                lambda pair: _copy(project, pair[0], folder / pair[1], hosts), zip(chunk, places, strict=True)
            )
            for row, place, (problem, copied) in zip(chunk, places, results, strict=True):
                on_progress(1)
                if problem is not None:
                    report.problems.append(problem)
                    expected.discard(place)
                    continue
                report.images += 1
                report.copied += copied
                write(_line(row, place))
    report.removed = _remove_others(folder, expected)
    return report


def plan_dataset(
    project: Project,
    folder: Path,
    ledger: Ledger,
    *,
    manifest: bool = False,
    splits: bool = False,
    accepted: bool = False,
) -> DatasetReport:
    """What `write_dataset` would report, writing nothing and reading no image: problems are those known already."""
    folders = _folders(project, manifest=manifest)
    _is_ours(folder, project)
    report = DatasetReport()
    expected: set[Path] = set()
    for row in _part(ledger.rows(project), report, splits=splits, accepted=accepted):
        if row.image_error is not None:
            report.problems.append(str(Unreadable(row.task, row.image_error)))
            continue
        place = _place(row, folders, expected, splits=splits)
        report.images += 1
        report.copied += not (folder / place).is_file()
    report.removed = len(_others(folder, expected))
    return report


def _part(rows: Iterable[LedgerRow], report: DatasetReport, *, splits: bool, accepted: bool) -> Iterator[LedgerRow]:
    """Those of the rows that are part of the data set."""
    for row in rows:
        if row.names(accepted=accepted) is None:
            continue
        if splits and row.label is None and row.split == "holdout":
            report.not_measuring += 1
            continue
        yield row


def _folders(project: Project, *, manifest: bool) -> dict[str, str]:
    """Label -> folder; none with a manifest."""
    if project.schema.multiple and not manifest:
        raise InvalidInputError("Images with several labels do not fit into one folder each: use --layout manifest.")
    return {} if manifest else _folder_names(project)


def _folder_names(project: Project) -> dict[str, str]:
    """Label -> folder: what a file system cannot hold becomes an underscore; two labels must not meet in one."""
    names = {label: _folder_name(label) for label in project.schema.labels}
    taken: dict[str, str] = {}
    for label, name in names.items():
        other = taken.setdefault(name.casefold(), label)
        if other != label:
            raise InvalidInputError(
                f"The labels {other!r} and {label!r} would share the folder {name}: use --layout manifest."
            )
    return names


def _folder_name(label: str) -> str:
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f]|^\.+|[. ]+$', "_", label).encode("utf-8", "replace").decode()
    if len(name.encode()) > LONGEST:
        name = shortened(name, f"-{hashlib.sha256(label.encode('utf-8', 'replace')).hexdigest()[:8]}")
    return f"{name}_" if name.casefold() == MANIFEST else name


def shortened(name: str, end: str) -> str:
    """The name with this ending, cut before it so that a file system takes it."""
    return name.encode()[: LONGEST - len(end.encode())].decode("utf-8", "ignore") + end


def _is_ours(folder: Path, project: Project) -> bool:
    """Whether an earlier export of this project made the folder; else it is empty or not there yet."""
    mark = folder / MARK
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8"))["project"] != str(project.key):
            raise InvalidInputError(f"{folder} contains the data set of another project: choose another folder.")
        return True
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInputError(
            f"{folder} contains other files: choose an empty folder, because this command removes stale images from "
            "its folder."
        )
    return False


def _place(row: LedgerRow, folders: dict[str, str], taken: set[Path], *, splits: bool) -> Path:
    """Where the image goes, below the folder; the second of a name carries its task id."""
    label = next(iter(row.names(accepted=True) or ()), "")
    parent = Path(SPLITS[row.split] if splits else "") / folders.get(label, "images")
    name = task_filename(row.task) + copied_as(row.task)
    name = re.sub(r"[/\\\x00-\x1f]", "_", name).lstrip(".") or str(row.task.id)
    name = name.encode("utf-8", "replace").decode()
    place = parent / name
    if len(name.encode()) > LONGEST or place in taken:
        stem, suffix = place.stem, place.suffix[:20]
        ends = (f"-{row.task.id}{f'-{more}' if more else ''}{suffix}" for more in count())
        place = next(found for end in ends if (found := parent / shortened(stem, end)) not in taken)
    taken.add(place)
    return place


def _copy(project: Project, row: LedgerRow, path: Path, hosts: Hosts) -> tuple[str | None, bool]:
    """Put one image in place: what went wrong, if anything, and whether it was copied now.

    One that cannot be decoded is not copied: it would end the training of whoever reads the data set.
    """
    known = row.content_hash or row.task.data.get("sha256")
    there = path.read_bytes() if known and path.is_file() else None
    copied = there is None or content_hash(there) != known
    try:
        data = hosts.images(project.key.host).read(row.task) if there is None or copied else there
        if content_hash(data) != row.content_hash:  # of content that has one, the service has decoded the image
            decode(data, 1)
    except ImageError as error:
        return str(Unreadable(row.task, str(error))), False
    if not copied:
        return None, False
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
    return None, True


def _line(row: LedgerRow, place: Path) -> dict[str, object]:
    return {
        "path": place.as_posix(),
        "filename": task_filename(row.task),
        "label": "|".join(row.names(accepted=True) or ()),
        "origin": row.origin,
        "split": SPLITS[row.split],
        "task_id": row.task.id,
        "content_hash": row.content_hash or row.task.data.get("sha256"),
    }


def _remove_others(folder: Path, expected: set[Path]) -> int:
    """Remove files that are no part of the data set any more, and folders left empty."""
    stale = _others(folder, expected)
    for path in stale:
        path.unlink()
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    return len(stale)


def _others(folder: Path, expected: set[Path]) -> list[Path]:
    kept = {folder / place for place in expected} | {folder / MARK, folder / MANIFEST}
    return [path for path in folder.rglob("*") if path.is_file() and path not in kept]
