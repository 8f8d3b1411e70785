"""Labels from a table into Label Studio, onto tasks that are there: as annotations, or as predictions to look over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ml_backend.errors import InvalidInputError
from ml_backend.imports.sources import Source
from ml_backend.imports.uploading import IMPORTED, LabelsAs, check_labels
from ml_backend.labelstudio.bulk_annotations import settle, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.results import annotation_from_json, annotation_result, prediction_result
from ml_backend.records import Annotation, LabelSchema, Task
from ml_backend.store.consensus import is_blank
from ml_backend.task_names import names_of_tasks

WRITERS = 4


@dataclass
class LabelReport:
    """How many tasks got a label now, replaced one, have the same already, or keep a different one.

    none: tasks that are to be labelled with none of the choices.
    """

    none: int = 0
    written: int = 0
    replaced: int = 0
    same: int = 0
    differing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Step:
    """What is to be done to one task. plain: it has no answer yet, not even a blank one."""

    task_id: int
    labels: tuple[str, ...]
    plain: bool = False
    replaces: Annotation | None = None


def import_labels(
    project_id: int,
    schema: LabelSchema,
    given: Mapping[str, Sequence[str]],
    client: LabelStudio,
    *,
    labels_as: LabelsAs = "annotations",
    separator: str = "|",
    replace: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
    on_tidy: Callable[[int], None] = lambda _: None,
) -> LabelReport:
    """Give each named task its labels. `given`: filename, path, content hash or task id -> CSV cells.

    An empty cell is no label where one choice is asked for; where several may be chosen, it is: none of them.
    A task that somebody labelled otherwise keeps that label, and is named in the report, unless `replace`: then this
    user's newest annotation of it is changed. on_progress: tasks done. on_tidy: temporary predictions deleted after that.
    Safe to repeat after a crash at any line. Raises InvalidInputError, with nothing written, for labels that do not fit.
    """
    report = LabelReport()
    labels = _checked(schema, given, separator)
    listing = {task.id: task for task in client.tasks(project_id, schema=schema)}
    wanted = _resolved(labels, listing, report)
    report.none = sum(not names for names in wanted.values())
    if labels_as == "predictions":
        _as_predictions(project_id, schema, wanted, report, client, dry_run=dry_run)
        return report
    if not dry_run:
        settle(project_id, client)  # what a run that was killed has under way must not come in after we looked
    steps = _plan(project_id, schema, wanted, report, client, replace=replace)
    on_progress(len(wanted) - len(steps))
    if dry_run:
        return report
    new = {step.task_id: step.labels for step in steps if step.plain}
    done = write_annotations(project_id, schema, new, client, on_progress=on_progress, on_tidy=on_tidy)
    report.written -= len(done.answered) + len(done.gone)
    report.differing += [f"task {task_id}: somebody labelled it meanwhile" for task_id in done.answered]
    report.unknown += [f"task {task_id}" for task_id in done.gone]
    with ThreadPoolExecutor(WRITERS) as writers:
        others = [step for step in steps if not step.plain]
        for step, written in zip(others, writers.map(lambda step: _write(schema, step, client), others), strict=True):
            if not written:
                report.written -= 1
                report.differing.append(f"task {step.task_id}: somebody labelled it meanwhile")
            on_progress(1)
    return report


def _checked(schema: LabelSchema, given: Mapping[str, Sequence[str]], separator: str) -> dict[str, tuple[str, ...]]:
    sources = [Source(name, cells=tuple(cells)) for name, cells in given.items()]
    return {source.relative: labels for source, labels in check_labels(schema, sources, separator).items()}


def _resolved(
    labels: Mapping[str, tuple[str, ...]], listing: Mapping[int, Task], report: LabelReport
) -> dict[int, tuple[str, ...]]:
    """Task id -> labels; names that are no task, or several, go into the report."""
    known = names_of_tasks(listing.values())
    wanted: dict[int, tuple[str, ...]] = {}
    for name, names in labels.items():
        tasks = known.get(name) or ([int(name)] if name.isdigit() and int(name) in listing else [])
        if len(tasks) != 1:
            (report.doubtful if tasks else report.unknown).append(name)
        elif wanted.setdefault(tasks[0], names) != names:
            raise InvalidInputError(f"Nothing was written: {name!r} has two different labels; keep one.")
    return wanted


def _plan(
    project_id: int,
    schema: LabelSchema,
    wanted: Mapping[int, tuple[str, ...]],
    report: LabelReport,
    client: LabelStudio,
    *,
    replace: bool,
) -> list[_Step]:
    """Compare with what is annotated now, so that what is done already is not done again.

    A label that was accepted of a model is no answer: the person's takes its place, also where it is the same.
    """
    user = client.whoami()["id"]
    answered = {task.id: given for task, given in client.annotated(project_id, schema=schema) if task.id in wanted}
    steps = []
    for task_id, names in wanted.items():
        given = [a for a in answered.get(task_id, []) if not a.was_cancelled]
        answers = [a for a in given if not is_blank(a, schema) and a.accepted is None]
        if any(set(a.labels) == set(names) for a in answers):
            report.same += 1
        elif not answers:
            report.written += 1
            of_model = max((a for a in given if a.accepted), key=lambda a: a.id, default=None)
            steps.append(_Step(task_id, names, plain=not given, replaces=of_model))
        elif replace:
            report.replaced += 1
            mine = [a for a in answers if a.annotator == user]
            steps.append(_Step(task_id, names, replaces=max(mine, key=lambda a: a.id, default=None)))
        else:
            report.differing.append(
                f"task {task_id}: labelled {'|'.join(answers[-1].labels)!r}, the file says {'|'.join(names)!r}"
            )
    return steps


def _write(schema: LabelSchema, step: _Step, client: LabelStudio) -> bool:
    """Whether it was written: where an accepted label is to be replaced, somebody may have made it theirs meanwhile."""
    result = annotation_result(schema, step.labels)
    if step.replaces is not None and step.replaces.accepted:
        now = client.annotation(step.replaces.id)
        if now is not None and annotation_from_json(schema, now, task_id=step.task_id).accepted is None:
            return False
        if now is None:
            step = replace(step, replaces=None)
    if step.replaces is None:
        client.create_annotation(step.task_id, result, lead_time=0.0)
    else:
        client.update_annotation(step.replaces.id, result=result)
    return True


def _as_predictions(
    project_id: int,
    schema: LabelSchema,
    wanted: Mapping[int, tuple[str, ...]],
    report: LabelReport,
    client: LabelStudio,
    *,
    dry_run: bool,
) -> None:
    """Predictions under a version of their own; those that are there already, the same, are not sent again."""
    stored = client.predictions_of(project_id, list(wanted))
    new = []
    for task_id, names in wanted.items():
        result = prediction_result(schema, names, 1.0)
        if any(p["model_version"] == IMPORTED and p["result"] == result for p in stored.get(task_id, [])):
            report.same += 1
        else:
            new.append({"task": task_id, "result": result, "score": 1.0, "model_version": IMPORTED})
    report.written = len(new)
    if not dry_run and new:
        client.import_predictions(project_id, new)
