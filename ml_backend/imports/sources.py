"""Finding images: folders, files, globs, CSV files and lists of addresses -> one `Source` an image."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ml_backend.errors import InvalidInputError
from ml_backend.host_lists import split
from ml_backend.records import Origin
from ml_backend.tabular import read_csv, unguarded

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".dcm", ".dicom"}
)
"""What is taken for an image in a folder. A file named by itself is taken whatever it is called."""
SCHEMES = ("http://", "https://", "s3://", "gs://", "azure-blob://")
NAME_COLUMNS = ("path", "filename", "image", "file")
LABEL_COLUMNS = ("label", "labels", "choice", "class")
OF_A_MODEL: frozenset[Origin] = frozenset({"predicted", "accepted"})
COPY = re.compile(r"\([0-9]+\)$|(?<![a-z])(copy|kopie|copie|copia)(?![a-z])|~[0-9]*$", re.IGNORECASE)
"""What file managers add to the name of a copy."""


@dataclass(frozen=True)
class Source:
    """One image to import: a file or an address. `relative`: its path below what was asked for, with slashes.

    cells: labels as they stand in the CSV, one name or several joined, "" where the cell is empty; or the name of the
    folder.
    also: other paths of the same file, which is named twice or linked to.
    """

    relative: str
    file: Path | None = None
    address: str | None = None
    cells: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return PurePosixPath(self.relative).name


@dataclass
class Found:
    """Images in order, and sentences about what was named and is not there.

    ambiguous: a name of the labels file with its cells -> the images that have it, where these are several.
    """

    sources: list[Source] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: dict[Source, list[Source]] = field(default_factory=dict)


def find_images(wanted: Sequence[str], *, by_class: bool = False, guesses: bool = False) -> Found:
    """Find what `wanted` names: folders (recursive), files, globs, CSV files, .txt lists, addresses.

    by_class: in a folder, the name of an image's folder is its label. guesses: as for `read_labels`.
    Raises InvalidInputError where nothing is found at all.
    """
    found = Found()
    for name in wanted:
        _find(name, found, by_class=by_class, guesses=guesses)
    found.sources = _each_once(found.sources)
    if not found.sources:
        kinds = ", ".join(sorted(SUFFIXES))
        raise InvalidInputError(
            f"No images in {', '.join(wanted)}: name a folder with {kinds}, files, a quoted glob, a CSV with a "
            "column filename or image, or a .txt with one address per line."
        )
    return found


def _each_once(sources: Sequence[Source]) -> list[Source]:
    """One source a file or address: the original, with the labels and the other paths of those that lead to the same."""
    same: dict[Path | str | None, list[Source]] = {}
    for source in sources:
        same.setdefault(source.file or source.address, []).append(source)
    return [_merged(group) if len(group) > 1 else group[0] for group in same.values()]


def _merged(group: Sequence[Source]) -> Source:
    original = min(group, key=lambda s: (s.file is not None and s.file.name != s.filename, originality(s)))
    cells = dict.fromkeys(cell for source in group for cell in source.cells)
    also = dict.fromkeys(source.relative for source in group if source.relative != original.relative)
    return replace(original, cells=tuple(cells), also=tuple(also))


def read_labels(
    path: Path, columns: Sequence[str] = NAME_COLUMNS, *, guesses: bool = False
) -> dict[str, tuple[str, ...]]:
    """A CSV with `label` and one of `columns`: name -> cells, one for each line with another label.

    The first of the columns that has something in it names the image. Rows that say they are no answer of people, by `origin` or
    an empty `annotation_id`, have no cells; with `guesses` those of a model have. Raises InvalidInputError without such columns.
    """
    labels: dict[str, dict[str, None]] = {}
    for number, row in enumerate(read_csv(path), start=1):
        named = _columns(row, columns)
        if not named or not _columns(row, LABEL_COLUMNS):
            raise InvalidInputError(f"{path} needs the columns filename and label; it has {', '.join(row)}.")
        name = next((row[column] for column in named if row[column]), "")
        if not name:
            raise InvalidInputError(f"{path}, row {number}: the {named[0]} is empty.")
        labels.setdefault(unguarded(name), {}).update(_cell(row, guesses=guesses))
    return {name: tuple(several) for name, several in labels.items()}


def originality(source: Source) -> tuple[bool, int, int, str]:
    """Sort key: what is not called a copy, lies higher up, has the shorter path, and comes first."""
    copy = COPY.search(PurePosixPath(source.relative).stem) is not None
    return copy, source.relative.count("/"), len(source.relative), source.relative


def _find(name: str, found: Found, *, by_class: bool, guesses: bool) -> None:
    path = Path(name)
    if name.startswith(SCHEMES):
        found.sources.append(_at(name))
    elif path.is_dir():
        found.sources += _in_folder(path, by_class=by_class)
    elif path.is_file():
        _in_file(path, found, guesses=guesses)
    elif matches := _matches(name):
        found.sources += matches
    else:
        found.missing.append(f"{name}: no such file or folder.")


def _in_file(path: Path, found: Found, *, guesses: bool) -> None:
    """A list of images (.csv, .txt), or an image."""
    if path.suffix.lower() == ".csv":
        _in_csv(path, found, guesses=guesses)
    elif path.suffix.lower() == ".txt":
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            if line.strip():
                _named(line.strip(), (), path.parent, found)
    else:
        found.sources.append(Source(path.name, file=path.resolve()))


def _matches(pattern: str) -> list[Source]:
    """Images that a glob finds; the shell has expanded those without quotes already."""
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [
        Source(file.name if file.is_absolute() else file.as_posix(), file=file.resolve())
        for file in files
        if file.is_file() and file.suffix.lower() in SUFFIXES
    ]


def _in_folder(folder: Path, *, by_class: bool) -> Iterator[Source]:
    """Images below a folder in the order of their paths; hidden files and folders are left out."""
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if file.suffix.lower() in SUFFIXES and file.is_file():
            cells = (file.parent.name,) if by_class and len(relative.parts) > 1 else ()
            yield Source(relative.as_posix(), file=file.resolve(), cells=cells)


def _in_csv(path: Path, found: Found, *, guesses: bool) -> None:
    """Rows name files beside the CSV (or absolute), or addresses; lines about the same image add up."""
    names: dict[str, dict[str, None]] = {}
    for number, row in enumerate(read_csv(path), start=1):
        named = _columns(row, NAME_COLUMNS)
        if not named:
            raise InvalidInputError(f"{path} needs a column filename or image; it has {', '.join(row)}.")
        name = next((unguarded(row[column]) for column in named if row[column]), "")
        if not name:
            found.missing.append(f"{path}, row {number}: the {named[0]} is empty.")
            continue
        names.setdefault(name, {}).update(_cell(row, guesses=guesses))
    for name, cells in names.items():
        _named(name, tuple(cells), path.parent, found)


def _named(name: str, cells: tuple[str, ...], folder: Path, found: Found) -> None:
    if name.startswith(SCHEMES):
        found.sources.append(_at(name, cells))
        return
    file = folder / name
    if _is_file(file):
        relative = PurePosixPath(Path(name).as_posix())
        shown = relative.name if relative.is_absolute() or ".." in relative.parts else str(relative)
        found.sources.append(Source(shown, file=file.resolve(), cells=cells))
    else:
        found.missing.append(f"{name}: no such file next to the list.")


def _is_file(path: Path) -> bool:
    """Whether there is such a file for us; a list may hold names that are too long to be one, or in closed folders."""
    try:
        return path.is_file()
    except OSError:
        return False


def _at(address: str, cells: tuple[str, ...] = ()) -> Source:
    return Source(unquote(split(address).path).lstrip("/") or address, address=address, cells=cells)


def _cell(row: Mapping[str, str], *, guesses: bool) -> dict[str, None]:
    """The row's label as it stands, "" for an empty one; none where the row is known to be without an answer."""
    labelled, answer, origin = (_columns(row, names) for names in (LABEL_COLUMNS, ("annotation_id",), ("origin",)))
    if not labelled or (answer and not row[answer[0]] and not row[labelled[0]]):
        return {}
    whose = row[origin[0]] if origin else "human"
    if (whose in OF_A_MODEL and not guesses) or not (whose or row[labelled[0]]):
        return {}
    return {unguarded(row[labelled[0]]): None}


def _columns(row: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Those of the row's columns that have these names, whatever their case, in the order of `names`."""
    by_name = {column.strip().lower(): column for column in row}
    return [by_name[name] for name in names if name in by_name]


def with_labels(found: Found, labels: Mapping[str, tuple[str, ...]]) -> Found:
    """Give each image the cells that a labels file has for its path or filename; tells of names that are no image here.

    A filename that several images have is ambiguous: it is a name for them only where they are the same image.
    """
    names: dict[str, list[int]] = {}
    for place, source in enumerate(found.sources):
        paths = (source.relative, *source.also)
        for name in {*paths, *(PurePosixPath(path).name for path in paths), str(source.file or source.address)}:
            names.setdefault(name, []).append(place)
    sources, missing = list(found.sources), list(found.missing)
    several: dict[str, list[int]] = {}
    for name, cells in labels.items():
        places = names.get(name, [])
        if len(places) == 1:
            sources[places[0]] = replace(sources[places[0]], cells=sources[places[0]].cells + cells)
        elif places:
            several[name] = places
        else:
            missing.append(f"{name} (in the labels file): no image has this name.")
    ambiguous = {Source(name, cells=labels[name]): [sources[i] for i in places] for name, places in several.items()}
    return Found(sources, missing, ambiguous)
