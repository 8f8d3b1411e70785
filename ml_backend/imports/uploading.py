"""Images into a Label Studio project: each once, by content, with the name, path and hash it had.

Safe to repeat and to kill: what the project has is asked of Label Studio, never remembered here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ml_backend.chunks import chunks
from ml_backend.errors import InvalidInputError
from ml_backend.imports.placement import Placement, Ready, Storage
from ml_backend.imports.sources import Source
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.results import annotation_result, prediction_result
from ml_backend.records import LabelSchema

LabelsAs = Literal["annotations", "predictions"]

CHUNK = 1_000
"""Tasks a request: what a kill can leave in flight, and what a progress bar moves by."""
IMPORTED = "imported"
"""Model version of labels that are imported as predictions."""


@dataclass
class ImportReport:
    """What an import came to. none: those labelled with none of the choices. `there`: in the project before. `doubles`: the same content under another name.

    unreadable: left out. faulty: in the project, but their image cannot be read. unconnected: buckets
    without a storage. unchecked: addresses nobody fetched.
    contradictions: the same image with different labels, imported without one.
    """

    found: int = 0
    imported: int = 0
    labelled: int = 0
    none: int = 0
    there: int = 0
    doubles: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    faulty: list[str] = field(default_factory=list)
    unconnected: list[str] = field(default_factory=list)
    unchecked: int = 0
    missing: list[str] = field(default_factory=list)
    stored: str = ""


def check_labels(schema: LabelSchema, sources: Iterable[Source], separator: str) -> dict[Source, tuple[str, ...]]:
    """Labels of each source that has some; () for an empty cell where several may be chosen: none of them.

    Raises InvalidInputError listing all that the label config does not know; nothing has been written then.
    """
    labels: dict[Source, tuple[str, ...]] = {}
    unknown: Counter[str] = Counter()
    several: list[str] = []
    for source in sources:
        names = _parsed(schema, source.cells, separator)
        unknown.update(set(names) - set(schema.labels))
        if len(names) > 1 and not schema.multiple:
            several.append(source.relative)
        if names or (schema.multiple and source.cells):
            labels[source] = names
    faults = []
    if unknown:
        shown = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown.items())[:20])
        faults.append(f"labels that are not in the label config: {shown} (it has {', '.join(schema.labels)})")
    if several:
        shown = ", ".join(map(repr, several[:10]))
        faults.append(f"several labels for one image, although the label config allows only one: {shown}")
    if faults:
        raise InvalidInputError(f"Nothing was written, because there are {'; and '.join(faults)}.")
    return labels


def _parsed(schema: LabelSchema, cells: Iterable[str], separator: str) -> tuple[str, ...]:
    """The distinct labels in these cells; a cell that is a label as it stands is not taken apart."""
    names: dict[str, None] = {}
    for cell in cells:
        parts = [cell] if cell in schema.labels else [part.strip() for part in cell.split(separator)]
        names.update(dict.fromkeys(part for part in parts if part))
    return tuple(names)


def import_images(
    project_id: int,
    schema: LabelSchema,
    ready: Sequence[Ready],
    report: ImportReport,
    client: LabelStudio,
    *,
    where: Storage = "auto",
    root: Path | None = None,
    labels_as: LabelsAs = "annotations",
    dry_run: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Bring into the project what it does not have yet; fills in `report`.

    root: Label Studio's document root as it is seen from here, if it is another path than Label Studio's own.
    """
    before = known_images(project_id, schema, client)
    new = [image for image in ready if image.key not in before]
    report.there = len(ready) - len(new)
    on_progress(report.there)
    if not new:
        return
    place = Placement(project_id, where, root, client)
    report.stored = place.choose([image for image in new if image.source.file], dry_run=dry_run)
    count = sum(map(len, before.values()))
    for chunk in chunks(new, CHUNK):
        tasks = [
            _task(schema, image, address, labels_as)
            for image, address in zip(chunk, chunk if dry_run else place.addresses(chunk), strict=True)
        ]
        report.imported += len(tasks) if dry_run else client.import_tasks(project_id, tasks)
        report.labelled += sum(image.labels is not None for image in chunk)
        report.none += sum(image.labels == () for image in chunk)
        on_progress(len(chunk))
    if not dry_run and client.get_project(project_id)["task_number"] != count + report.imported:
        remove_duplicates(project_id, schema, {image.key for image in new}, client)


def known_images(project_id: int, schema: LabelSchema, client: LabelStudio) -> dict[str, list[int]]:
    """Content hash, or address where none was kept -> the project's tasks with it."""
    known: dict[str, list[int]] = {}
    if not client.get_project(project_id)["task_number"]:
        return known
    for task in client.tasks(project_id, schema=schema):
        known.setdefault(str(task.data.get("sha256") or task.image), []).append(task.id)
    return known


def remove_duplicates(project_id: int, schema: LabelSchema, keys: set[str], client: LabelStudio) -> int:
    """Remove tasks that came twice: a killed run's last request may have arrived after this run looked.

    Of tasks with the same content the first stays; another one stays too if anybody has answered it differently. What was
    accepted of a model is nobody's answer.
    """
    known = known_images(project_id, schema, client)
    extra = [task for key in keys for task in sorted(known.get(key, []))[1:]]
    answers = {
        task.id: {a.labels for a in given if a.accepted is None}
        for task, given in client.annotated(project_id, schema=schema)
    }
    firsts = {task: min(known[key]) for key in keys for task in known.get(key, [])}
    removable = [task for task in extra if answers.get(task, set()) <= answers.get(firsts[task], set())]
    client.delete_tasks(project_id, removable)
    return len(removable)


def _task(schema: LabelSchema, image: Ready, address: Any, labels_as: LabelsAs) -> dict[str, Any]:
    source = image.source
    data = {schema.image_key: address, "filename": source.filename, "path": source.relative}
    if image.sha256:
        data["sha256"] = image.sha256
    if image.also:
        data["also"] = list(image.also)
    task: dict[str, Any] = {"data": data}
    if image.labels is not None and labels_as == "annotations":
        task["annotations"] = [{"result": annotation_result(schema, image.labels), "ground_truth": False}]
    elif image.labels is not None:
        task["predictions"] = [
            {"result": prediction_result(schema, image.labels, 1.0), "score": 1.0, "model_version": IMPORTED}
        ]
    return task
