"""Looking at images before they are imported, and at those that can only be fetched afterwards.

Every file is decoded. Of several files with the same bytes one is imported: the one that a person would call the original.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from ml_backend.chunks import chunks
from ml_backend.errors import BackendError, ImageError
from ml_backend.images.decoding import copy_suffix, decode
from ml_backend.imports.placement import Ready
from ml_backend.imports.sources import Source, originality
from ml_backend.imports.uploading import CHUNK, ImportReport
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.media import CLOUD, MAX_BYTES
from ml_backend.records import LabelSchema, Task
from ml_backend.task_names import called, printable

Item = TypeVar("Item")
Fetch = Callable[[str, int | None], bytes]
"""The bytes behind an address, of the task with this number if there is one."""
Labels = Mapping[Source, tuple[str, ...]]

READERS = min(8, (os.cpu_count() or 1) + 2)
CHECKED = 1_000
"""So many addresses are all fetched; of more, as many are drawn at random."""
PATIENCE_S = 120.0
"""What is not fetched after so many seconds is left unchecked: a host that does not answer must not hold an import."""


@dataclass
class Tried(Generic[Item]):
    """Why images cannot be read, of those that were fetched; `unchecked`: how many were not."""

    faults: dict[Item, str] = field(default_factory=dict)
    unchecked: int = 0


def inspect(
    sources: Sequence[Source],
    labels: Labels,
    report: ImportReport,
    on_progress: Callable[[int], None],
    *,
    ambiguous: Mapping[Source, Sequence[Source]] | None = None,
    fetch: Fetch | None = None,
) -> list[Ready]:
    """Decode every file, fetch the http addresses, and put files with the same bytes together; fills in `report`.

    labels: of `sources` and of the keys of `ambiguous`, names that several sources have: where these turn out to be the
    same image, the name's labels are the image's. Without `fetch`, addresses are taken as they are.
    """
    report.found = len(sources)
    web = [source for source in sources if source.address and not source.address.startswith(CLOUD)]
    tried = try_all(web, lambda source: fetch(str(source.address), None), on_progress) if fetch else Tried[Source]()
    report.unchecked += tried.unchecked
    same: dict[str, list[Source]] = {}
    keys: dict[Source, str] = {}
    copied: dict[str, str] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for chunk in chunks(sources, CHUNK):
            for source, (sha256, copy, problem) in zip(chunk, readers.map(_hash_or_problem, chunk), strict=True):
                on_progress(source.file is not None)
                if why := problem or tried.faults.get(source):
                    report.unreadable.append(f"{printable(source.relative)}: {printable(why)}")
                    continue
                keys[source] = key = sha256 or str(source.address)
                copied[key] = copy
                same.setdefault(key, []).append(source)
    given = {key: [(source.relative, labels.get(source)) for source in group] for key, group in same.items()}
    for name, places in (ambiguous or {}).items():
        images = {keys[source] for source in places if source in keys}
        if len(images) == 1:
            given[images.pop()].append((name.relative, labels.get(name)))
        else:
            several = f"{printable(name.relative)} (in the labels file): several images have this name; give the path."
            report.missing.append(several)
    ready = (_merge_duplicates(key, group, given[key], report) for key, group in same.items())
    return [replace(image, copied=copied[image.key]) for image in ready]


def try_all(
    items: Sequence[Item],
    read: Callable[[Item], bytes],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Tried[Item]:
    """Fetch and decode all items, or CHECKED of them drawn at random, for at most PATIENCE_S."""
    chosen = list(items) if len(items) <= CHECKED else random.Random(0).sample(list(items), CHECKED)
    tried: Tried[Item] = Tried(unchecked=len(items) - len(chosen))
    deadline = time.monotonic() + PATIENCE_S

    def attempt(item: Item) -> tuple[bool, str | None]:
        if time.monotonic() > deadline:
            return False, None
        try:
            decode(read(item), 1)
        except BackendError as error:
            return True, str(error)
        return True, None

    with ThreadPoolExecutor(READERS) as readers:
        for item, (looked, fault) in zip(chosen, readers.map(attempt, chosen), strict=True):
            on_progress(1)
            tried.unchecked += not looked
            if fault:
                tried.faults[item] = fault
    return tried


def check_imported(
    project_id: int,
    schema: LabelSchema,
    ready: Sequence[Ready],
    report: ImportReport,
    client: LabelStudio,
    fetch: Fetch,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Fetch what only Label Studio can, through the tasks that show it; fills in `report.faulty` and `unchecked`.

    Label Studio resolves an address in a bucket for a task alone, so that nothing can be known before there is one.
    """
    wanted = set(in_buckets(ready))
    if not wanted:
        return
    tasks = [task for task in client.tasks(project_id, schema=schema) if task.image in wanted]
    tried: Tried[Task] = try_all(tasks, lambda task: fetch(str(task.image), task.id), on_progress)
    report.unchecked += tried.unchecked
    report.faulty = [f"{called(task)}: {printable(fault)}" for task, fault in tried.faults.items()]


def in_buckets(ready: Sequence[Ready]) -> list[str]:
    """The addresses that Label Studio has to resolve."""
    return [str(image.source.address) for image in ready if (image.source.address or "").startswith(CLOUD)]


def _merge_duplicates(
    key: str, group: Sequence[Source], given: Sequence[tuple[str, tuple[str, ...] | None]], report: ImportReport
) -> Ready:
    """The original of files with the same bytes, with the label that any of them has; none where they contradict.

    given: a name of the image, and the labels that it has under this name.
    """
    labelled = {path: names for path, names in given if names is not None}
    original = min(group, key=lambda source: (source.relative not in labelled, originality(source)))
    name = printable(original.relative)
    report.doubles += [f"{printable(s.relative)} is the same image as {name}" for s in group if s is not original]
    different = {frozenset(names) for names in labelled.values()}
    if len(different) > 1:
        which = ", ".join(f"{printable(path)} is labelled {'|'.join(names)!r}" for path, names in labelled.items())
        report.contradictions.append(f"{which}: the same image, imported as {name} without a label")
    labels = next(iter(labelled.values())) if len(different) == 1 else None
    also = [path for source in group for path in (source.relative, *source.also) if path != original.relative]
    return Ready(original, None if original.file is None else key, labels, tuple(dict.fromkeys(also)))


def _hash_or_problem(source: Source) -> tuple[str | None, str, str | None]:
    """Hash of a file and the suffix of its copy, if it needs one; or why it cannot be imported; none for an address."""
    if source.file is None:
        return None, "", None
    try:
        data = _decodable_bytes(source.file, source.relative)
    except ImageError as error:
        return None, "", str(error)
    return hashlib.sha256(data).hexdigest(), copy_suffix(data), None


def _decodable_bytes(file: Path, name: str) -> bytes:
    """The bytes of an image that can be decoded. Raises ImageError."""
    try:
        os.fsencode(name).decode()
        if file.stat().st_size > MAX_BYTES:
            raise ImageError(f"The file is larger than {MAX_BYTES // 2**20} MB: make the image smaller.")
        data = file.read_bytes()
    except UnicodeError:
        raise ImageError("The file name is not valid UTF-8: rename the file.") from None
    except OSError as error:
        raise ImageError(
            f"The file cannot be read ({error.strerror or type(error).__name__}): check the file."
        ) from None
    decode(data, 1)
    return data
