"""A ranking -> what Label Studio serves next, and the check that it does.

Label Studio's uncertainty sampling serves, among unlabelled tasks with a prediction of `project.model_version`, the
lowest prediction score first. So a round's batch is imported under a name of its own, with rising scores.

Nothing here deletes a prediction that was ever served, save `sweep`, long after it was superseded: an answer that names
one which is gone is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ml_backend.errors import InvalidInputError, LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio import tab_columns
from ml_backend.labelstudio.bulk_annotations import BY_HAND, MARK
from ml_backend.labelstudio.client import PAGE, LabelStudio
from ml_backend.labelstudio.task_filters import column_filter
from ml_backend.records import LabelSchema
from ml_backend.wording import shortened

UNCERTAINTY = "Uncertainty sampling"
TAB = tab_columns.QUEUE
EVERYTHING = tab_columns.EVERYTHING
FIRST_ORDER = "v0-r0"
"""What is served before anything is read: a few tasks, and after them Label Studio draws among all of the others."""
OUR_VERSION = re.compile(r"v\d+-r\d+")
LIVE = 1e-6
"""Scores of a batch lie below this, and those of live predictions outside it at or above: the batch is served first.

So small that Label Studio shows 0.00%: a place in the queue must not look like a confidence.
"""
SWEEP = 200  # old predictions deleted in one sweep at most (14 ms each)


class OrderBentError(LabelStudioError):
    """The queue is as it was pushed, but the project's settings put other tasks before it. Pushing again changes nothing."""


@dataclass(frozen=True)
class QueueItem:
    """One task to serve: of a batch with `score` in (0, LIVE), the lowest first; after it from LIVE on.

    `result` is the guess that is ticked, [] for none.
    """

    task_id: int
    score: float
    result: list[dict[str, Any]] = field(default_factory=list)


def push(
    client: LabelStudio,
    project_id: int,
    schema: LabelSchema,
    version: str,
    items: Sequence[QueueItem],
    spare: Sequence[int] = (),
) -> list[int]:
    """Make `items` what Label Studio serves next, under the prediction and project version `version`; then `spare`.

    Returns the tasks served, in order: those that were deleted since are left out.

    Safe to repeat: after a crash at any line, the same call ends in the same state. The queue in service stays complete
    until the new one is. Raises InvalidInputError for a label the config does not have, LabelStudioError for a refusal,
    LabelStudioUnavailableError where a later attempt may succeed.
    """
    _check_labels(schema, items)
    if not items:
        raise LabelStudioError(
            "The batch is empty, so there is nothing to serve: import more images if every task is labelled."
        )
    items = sorted(items, key=lambda item: item.score)
    after = [QueueItem(task_id, LIVE) for task_id in spare]
    try:
        _store(client, project_id, version, [*items, *after])
    except LabelStudioUnavailableError:
        raise
    except LabelStudioError:
        # A task that was deleted since refuses them all. That is rare, and looking first would cost as much as storing.
        there = client.existing(project_id, [item.task_id for item in (*items, *after)])
        if len(there) == len(items) + len(after):
            raise
        items = [item for item in items if item.task_id in there]
        after = [item for item in after if item.task_id in there]
        if not items:
            raise LabelStudioError(
                "None of the tasks in the batch exists any more: run `ml-backend sync run` to choose a new one."
            ) from None
        _store(client, project_id, version, [*items, *after])
    project = client.get_project(project_id)
    wanted = {"model_version": version, "sampling": UNCERTAINTY}
    if changes := {key: value for key, value in wanted.items() if project.get(key) != value}:
        client.update_project(project_id, **changes)
    show_tab(client, project_id, version)
    return [item.task_id for item in items]


def _in_order(client: LabelStudio, project_id: int, version: str) -> list[int]:
    """The unlabelled tasks of the batch as they would be served, where `version` is the project's.

    Without the predictions (3 ms each to serialize): Label Studio sorts by the score it samples by, and cuts off what only
    has a live prediction.
    """
    query = of_version(version)
    query["filters"]["items"].append(column_filter("predictions_score", "less", LIVE))
    return [raw["id"] for raw in _ordered(client, project_id, "id,is_labeled", query) if not raw["is_labeled"]]


def verify(client: LabelStudio, project_id: int, version: str, task_ids: Sequence[int]) -> None:
    """Check that Label Studio serves `task_ids` in this order, save those labelled or deleted since.

    Raises LabelStudioError with a sentence that says what is served instead; OrderBentError where the queue is there, and
    a setting puts other tasks before it.
    """
    project = client.get_project(project_id)
    if replaced := replaced_by(project, version):
        raise LabelStudioError(replaced)
    served = _in_order(client, project_id, version)
    due = [task_id for task_id in task_ids if task_id in set(served)]
    for place, (is_served, is_due) in enumerate(zip(served, due, strict=False), start=1):
        if is_served != is_due:
            raise LabelStudioError(f"At place {place} Label Studio serves task {is_served} instead of task {is_due}.")
    if len(served) > len(due):
        raise LabelStudioError(f"Label Studio serves task {served[len(due)]}, which is not in the batch.")
    if unserved := _unlabelled(client, project_id, set(task_ids) - set(served)):
        raise LabelStudioError(
            f"Label Studio does not serve these tasks of the batch: {', '.join(map(str, unserved))}."
        )
    if bent := bent_by(project):
        raise OrderBentError(bent)


def replaced_by(project: Mapping[str, Any], version: str) -> str | None:
    """What is served in place of the queue `version`, by the project's settings as Label Studio gives or sends them."""
    if project.get("model_version", version) != version:
        return (
            f"Label Studio serves predictions of {_shown(project['model_version'])} instead of {version!r}: somebody "
            "changed this under Settings, Predictions."
        )
    if project.get("sampling", UNCERTAINTY) != UNCERTAINTY:
        return (
            f"Label Studio serves tasks by {_shown(project['sampling'])} instead of {UNCERTAINTY!r}: somebody changed "
            "Settings, General, Task Sampling."
        )
    return None


def _shown(value: object) -> str:
    return shortened(repr(value), 100)


def bent_by(project: Mapping[str, Any]) -> str | None:
    """What is served before the queue, by settings that a person has chosen and that no push changes.

    Read rather than asked for: Label Studio reserves the task that it names to whoever asks (`/next`) for an hour.
    """
    number, several = project.get("id"), project.get("maximum_annotations")
    share = project.get("overlap_cohort_percentage", 100)
    if not (isinstance(number, int) and isinstance(several, int) and isinstance(share, int)):
        return None  # not from Label Studio
    if project.get("show_overlap_first") and several > 1 and 0 < share < 100:
        return (
            f"Label Studio first serves the {share} % of the tasks that get {several} annotations, whether they are in the "
            f"queue or not: set show_overlap_first to false (PATCH /api/projects/{number}), or let all tasks get as many "
            "(overlap_cohort_percentage 100)."
        )
    if project.get("annotator_evaluation_enabled"):
        return (
            "Label Studio first serves the tasks that have a ground truth, whether they are in the queue or not: set "
            f"annotator_evaluation_enabled to false (PATCH /api/projects/{number})."
        )
    return None


def show_tab(client: LabelStudio, project_id: int, version: str) -> int:
    """A Data Manager tab that shows the queue in the order it is served, and what is in reserve. Returns its id.

    It names no version: a page that was opened before the queue was renewed goes on with the new one. Label Studio's
    own score of a task is over predictions of the version in service. The first order's tab has every unlabelled task,
    those of the order on top: nobody is to find it empty while the images are being read.
    """
    items = [column_filter("total_annotations", "equal", 0)]
    if version != FIRST_ORDER:
        items = [column_filter("predictions_score", "less_or_equal", LIVE), *items]
    data: dict[str, Any] = {
        "ordering": ["tasks:predictions_score"],
        "filters": {"conjunction": "and", "items": items},
    }
    for tab in client.tabs(project_id):
        if tab["data"].get("title") == TAB:
            if tab["data"] | data != tab["data"]:
                client.update_tab(tab["id"], tab["data"] | data)
            return int(tab["id"])
    return int(client.create_tab(project_id, list_of_tasks(TAB) | data)["id"])


def show_everything(client: LabelStudio, project_id: int) -> bool:
    """Make a tab that shows all tasks, unless a tab without filters does. Returns whether it was made.

    Label Studio makes such a tab by itself only for a project that has none at all, which ours has.
    """
    if any(not (tab["data"].get("filters") or {}).get("items") for tab in client.tabs(project_id)):
        return False
    client.create_tab(project_id, list_of_tasks(EVERYTHING))
    return True


def list_of_tasks(title: str) -> dict[str, Any]:
    """A list of tasks with the columns that people can read."""
    return {"title": title, "type": "list", "target": "tasks", **tab_columns.columns(title)}


def renew_columns(client: LabelStudio, project_id: int) -> list[str]:
    """Give our tabs the columns that they would have if they were made now, where nobody has chosen others; returns their titles."""
    renewed = []
    for tab in client.tabs(project_id):
        data = tab_columns.renewed(tab)
        if data is not None:
            client.update_tab(tab["id"], data)
            renewed.append(str(data["title"]))
    return renewed


def _check_labels(schema: LabelSchema, items: Sequence[QueueItem]) -> None:
    """Label Studio drops such a prediction without a word, or stores it and shows nothing."""
    results = [result for item in items for result in item.result if result["type"] == "choices"]
    labels = {label for result in results for label in result["value"]["choices"]}
    if unknown := sorted(labels - set(schema.labels)):
        raise InvalidInputError(
            f"The predictions contain labels that are not in the project's label config: {', '.join(unknown)}. Put "
            "them back into the config, or train again with the current one."
        )


def _store(client: LabelStudio, project_id: int, version: str, items: Sequence[QueueItem]) -> None:
    """Bring these predictions into Label Studio under `version`, whatever an earlier attempt left there.

    What differs is changed in place and keeps its id; a double of an earlier attempt stays, for it changes no order.
    """
    missing = list(items)
    if client.model_versions(project_id).get(version):
        stored = client.predictions_of(project_id, [item.task_id for item in items])
        missing = [item for item in items if not _of(version, stored.get(item.task_id, []))]
        for item in items:
            for found in _of(version, stored.get(item.task_id, [])):
                if (found["score"], found["result"]) != (item.score, item.result):
                    client.update_prediction(found["id"], score=item.score, result=item.result)
    client.import_predictions(
        project_id,
        [
            {"task": item.task_id, "result": item.result, "score": item.score, "model_version": version}
            for item in missing
        ],
    )


def _of(version: str, predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [prediction for prediction in predictions if prediction["model_version"] == version]


def hide_guesses(client: LabelStudio, project_id: int, task_ids: Sequence[int]) -> None:
    """Take the guesses of former queues away from these tasks: whoever opens one from the list of tasks is shown them all.

    The predictions stay, empty: an answer that names one which is gone is refused.
    """
    for predictions in client.predictions_of(project_id, task_ids).values():
        for found in predictions:
            if found["result"] and OUR_VERSION.fullmatch(found["model_version"] or ""):
                client.update_prediction(found["id"], result=[])


def superseded(client: LabelStudio, project_id: int, served: str) -> set[str]:
    """Names of our former queues, and of former live predictions, that Label Studio still has predictions of.

    And those that a killed `import-labels`, or grid, left: they go when it is run again, or with the queues of that time.
    """
    left = {name for name, count in client.model_versions(project_id).items() if count and name != served}
    return {name for name in left if OUR_VERSION.fullmatch(name) or name.startswith((MARK, BY_HAND))}


def sweep(client: LabelStudio, project_id: int, expired: Collection[str]) -> set[str]:
    """Delete the predictions of these versions, about SWEEP of them at most; returns the versions that are gone now.

    Which ones no browser can hold any more is for the caller to know. The version in service is never touched.
    """
    in_service = client.get_project(project_id)["model_version"]
    counts = client.model_versions(project_id)
    gone = {name for name in expired if not counts.get(name)}
    old = {name: counts[name] for name in expired if counts.get(name) and name != in_service}
    room = SWEEP
    for name, count in sorted(old.items(), key=lambda pair: pair[1]):
        if count > room:
            client.delete_single_predictions(_ids_of(client, project_id, name, room))
            break
        room -= client.delete_predictions(project_id, name)
        gone.add(name)
    return gone


def _ids_of(client: LabelStudio, project_id: int, version: str, most: int) -> list[int]:
    """Some predictions of exactly this version."""
    rows = _ordered(client, project_id, "id,predictions", of_version(version), "all")
    return list(islice((p["id"] for raw in rows for p in _of(version, raw["predictions"])), most))


def _ordered(
    client: LabelStudio, project_id: int, include: str, query: dict[str, Any], fields: str = "task_only"
) -> Iterator[dict[str, Any]]:
    """The listed tasks in the order of `query`, read a page at a time as they are taken."""
    page, total = 0, 1
    while page * PAGE < total:
        page += 1
        answer = client.listing(project_id, include, query, fields=fields, page=page)
        total = answer["total"]
        yield from answer["tasks"]


def refill(client: LabelStudio, project_id: int, version: str, spare: Sequence[int]) -> None:
    """Put those tasks into the reserve of the queue in service that have no prediction of its version yet."""
    stored = client.predictions_of(project_id, spare)
    missing = [task_id for task_id, predictions in stored.items() if not _of(version, predictions)]
    client.import_predictions(
        project_id, [{"task": task, "result": [], "score": LIVE, "model_version": version} for task in missing]
    )


def of_version(version: str) -> dict[str, Any]:
    """Tasks with a prediction whose version contains `version` (Label Studio has no exact filter), by score."""
    items = [column_filter("predictions_model_versions", "contains", [version], "List")]
    return {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:predictions_score"]}


def _unlabelled(client: LabelStudio, project_id: int, task_ids: set[int]) -> list[int]:
    rows = client.listed(project_id, sorted(task_ids), "id,is_labeled") if task_ids else []
    return [raw["id"] for raw in rows if not raw["is_labeled"]]
