"""Many annotations onto tasks that exist, by what Label Studio calls "create annotations from predictions".

Chunk by chunk: predictions under names of this run's own, the action that makes annotations of them, and at the end the
predictions deleted again, which takes longest (5 to 15 ms each on SQLite, 2 to 3 ms for all the rest).

What makes it safe to be killed at any line, and to be run again: an annotation names its prediction by a foreign key, so
that once a prediction is deleted, no action that is still under way in Label Studio can make an annotation of it. What
went wrong, or was left by a run that was killed, is therefore deleted before Label Studio is asked which tasks are
answered; those that are not get new predictions. No action is ever sent twice for the same ones.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ml_backend.chunks import chunks
from ml_backend.errors import BackendError, ConflictError, InvalidInputError, LabelStudioError, NotFoundError
from ml_backend.labelstudio.client import PAGE, LabelStudio
from ml_backend.labelstudio.results import accepted_result, annotation_from_json, annotation_result, marked_anew
from ml_backend.labelstudio.task_filters import column_filter
from ml_backend.records import Annotation, LabelSchema

logger = logging.getLogger(__name__)

MARK = "ml-backend-writing-"
"""What the names of the temporary predictions begin with."""
BY_HAND = "ml-backend-grid-"
"""The same where a person labels a page; their number follows. No import deletes these, nor they an import's."""
CHUNK = PAGE  # tasks
PIECE = 100
"""Predictions under one name: they are deleted in one transaction, and who submits meanwhile on SQLite waits for it."""
FEW = 10  # labels for which all of this is not worth while
ATTEMPTS = 2
PATIENCE_S = 3.0  # for counting that is under way
WRITERS = 4

_FIELDS = "id,annotations,result,completed_by,updated_by,was_cancelled,ground_truth,lead_time,created_at,updated_at"
_ANSWERED = column_filter("annotations_ids", "empty", value=False)
_UNANSWERED = column_filter("total_annotations", "equal", 0)
_UNSKIPPED = column_filter("cancelled_annotations", "equal", 0)


@dataclass
class Written:
    """Tasks that got their annotation; that had an answer, which is kept; that do not exist (any more)."""

    written: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)


def write_annotations(
    project_id: int,
    schema: LabelSchema,
    labels: Mapping[int, Sequence[str]],
    client: LabelStudio,
    *,
    certificate: str | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    on_tidy: Callable[[int], None] = lambda _: None,
    mark: str = MARK,
    lead_time: float = 0.0,
    until: Callable[[], object] = lambda: None,
) -> Written:
    """Annotate each task with its labels, as the user whose token `client` has, unless it is answered; a skip is no answer.

    labels: task id -> names of the label config; none at all says that none of them fits, where several may be chosen.
    certificate: the labels are a model's, accepted under it, and marked so. What is there of it already counts as written,
    and a task that somebody skipped as answered: it is left to people.
    on_progress: tasks that are done with. on_tidy: temporary predictions that were deleted. mark: what the names of the
    temporary predictions begin with: calls with another one leave each other alone.
    lead_time: seconds that each answer took; kept where they are written one by one, the bulk action takes none.
    until: asked before Label Studio is to make annotations; where it raises, no more are made, and nothing temporary is left.

    Safe to repeat: after a crash at any line, the same call ends as if there had been none. Raises InvalidInputError, with
    nothing written, for labels that do not fit the config; ConflictError where another call with the mark works on the same
    project;
    LabelStudioUnavailableError where a later call may succeed, LabelStudioError for a refusal.
    """
    _check(schema, labels)
    writer = _Writer(project_id, schema, client, certificate, mark, lead_time, until)
    if labels:
        writer.result_of(next(iter(labels.values())))  # refuses a certificate's id before anything is done
    settle(project_id, client, mark=mark)
    if len(labels) < FEW or client.singly(project_id, len(labels)):
        writer.write_singly(labels, on_progress)
        return writer.report
    for chunk in chunks(labels.items(), CHUNK if client.lean_import(project_id) else 5 * CHUNK):
        writer.write(dict(chunk))
        on_progress(len(chunk))
    settle(project_id, client, on_tidy, mark=mark)
    return writer.report


def settle(
    project_id: int, client: LabelStudio, on_progress: Callable[[int], None] = lambda _: None, *, mark: str = MARK
) -> None:
    """Delete the temporary predictions that there are: nothing that was begun with them can annotate a task after this."""
    left = _temporary(project_id, client, mark)
    if left:
        _recount(project_id, client, None if mark == MARK else int(client.whoami()["id"]))
    for name in left:
        on_progress(client.delete_predictions(project_id, name))


def _temporary(project_id: int, client: LabelStudio, mark: str) -> set[str]:
    return {name for name, count in client.model_versions(project_id).items() if count and name.startswith(mark)}


class _Writer:
    """Annotations for one project, and what became of each."""

    def __init__(
        self,
        project_id: int,
        schema: LabelSchema,
        client: LabelStudio,
        certificate: str | None,
        mark: str,
        lead_time: float,
        until: Callable[[], object],
    ) -> None:
        self.project_id, self.schema, self.client, self.certificate = project_id, schema, client, certificate
        self.mark, self.lead_time, self.until = mark, lead_time, until
        self.report = Written()
        self.user = client.whoami()["id"]

    def result_of(self, chosen: Sequence[str]) -> list[dict[str, Any]]:
        if self.certificate is None:
            return annotation_result(self.schema, chosen)
        return accepted_result(self.schema, chosen, self.certificate)

    def write(self, labels: Mapping[int, Sequence[str]]) -> None:
        """One chunk at once; one by one what Label Studio did not do even when asked again."""
        left = self._unanswered(labels)
        for _ in range(ATTEMPTS):
            if not left:
                return
            if self._convert(left):
                self.report.written.extend(left)
                return
            settle(self.project_id, self.client, mark=self.mark)
            left = self._unanswered(self._existing(left), again=True)
        if left:
            logger.warning(
                "Label Studio left out %d of %d tasks: they are labelled one by one.", len(left), len(labels)
            )
            self._create(left)

    def write_singly(self, labels: Mapping[int, Sequence[str]], on_progress: Callable[[int], None]) -> None:
        for chunk in chunks(labels.items(), 10 * WRITERS):
            self._create(self._unanswered(dict(chunk)))
            on_progress(len(chunk))

    def _convert(self, labels: Mapping[int, Sequence[str]]) -> bool:
        """Predictions under new names, and annotations of them; whether every task got its own.

        Raises ConflictError where somebody else deleted them: who goes on against another run would annotate twice.
        """
        names = [f"{self.mark}{uuid.uuid4().hex[:16]}" for _ in range(0, len(labels), PIECE)]
        predictions = [
            {"task": task_id, "result": self.result_of(chosen), "model_version": names[place // PIECE]}
            for place, (task_id, chosen) in enumerate(labels.items())
        ]
        stored, created = 0, -1
        try:
            stored = self.client.import_predictions(self.project_id, predictions)
            self._go_on(names)
            created = self._annotate(list(labels), names)
        except LabelStudioError as error:
            logger.warning("Labels for %d tasks at once failed: %s", len(labels), error)
        if created != len(labels) and stored and not set(names) <= _temporary(self.project_id, self.client, self.mark):
            raise ConflictError(
                f"Somebody deleted what was to become labels of project {self.project_id}, most likely another import of "
                "labels into it: let that one end, then run this again. What is written stays."
            )
        return created == len(labels)

    def _go_on(self, names: Sequence[str]) -> None:
        """Nobody wants it to end. Asked once the predictions are there: who does, and then deletes them, misses none."""
        try:
            self.until()
        except BackendError:
            for name in sorted(_temporary(self.project_id, self.client, self.mark) & set(names)):
                self.client.delete_predictions(self.project_id, name)  # but none of who goes on in its place
            raise

    def _annotate(self, task_ids: Sequence[int], names: Sequence[str]) -> int:
        """Have annotations made of these predictions where nobody has answered by now; returns how many."""
        answer = self.client.act(
            self.project_id,
            "predictions_to_annotations",
            task_ids,
            model_version=list(names),
            filters={"conjunction": "and", "items": [_UNANSWERED, *([_UNSKIPPED] if self.certificate else [])]},
        )
        created = re.search(r"\d+", str(answer.get("detail")))  # "Created 1000 annotations"
        return int(created[0]) if created else -1

    def _unanswered(self, labels: Mapping[int, Sequence[str]], *, again: bool = False) -> dict[int, Sequence[str]]:
        """Those of the tasks that nobody has answered; `again`: an answer like ours is what was written."""
        given = answers_of(self.project_id, self.schema, labels, self.client, skips=self.certificate is not None)
        for task_id, answers in given.items():
            ours = any(self._is_ours(answer, labels[task_id], again=again) for answer in answers)
            (self.report.written if ours else self.report.answered).append(task_id)
        return {task_id: chosen for task_id, chosen in labels.items() if task_id not in given}

    def _is_ours(self, answer: Annotation, chosen: Sequence[str], *, again: bool) -> bool:
        """An accepted label says itself under which certificate it was written; of others it is those of this user now."""
        same = set(answer.labels) == set(chosen)
        if self.certificate is not None:
            return same and answer.accepted == self.certificate
        return same and again and answer.annotator == self.user and answer.accepted is None

    def _existing(self, labels: Mapping[int, Sequence[str]]) -> dict[int, Sequence[str]]:
        there = self.client.existing(self.project_id, list(labels))
        self.report.gone.extend(task_id for task_id in labels if task_id not in there)
        return {task_id: chosen for task_id, chosen in labels.items() if task_id in there}

    def _create(self, labels: Mapping[int, Sequence[str]]) -> None:
        """One by one."""
        with ThreadPoolExecutor(WRITERS) as writers:
            done = writers.map(lambda item: self._create_one(*item), labels.items())
            for task_id, created in zip(labels, done, strict=True):
                (self.report.written if created else self.report.gone).append(task_id)

    def _create_one(self, task_id: int, chosen: Sequence[str]) -> bool:
        self.until()
        try:
            self.client.create_annotation(task_id, self.result_of(chosen), lead_time=self.lead_time)
        except NotFoundError:
            return False
        return True


def _check(schema: LabelSchema, labels: Mapping[int, Sequence[str]]) -> None:
    """Label Studio stores whatever it is given."""
    if unknown := sorted({name for chosen in labels.values() for name in chosen} - set(schema.labels)):
        raise InvalidInputError(
            f"Nothing was written: the project's label config does not have {', '.join(map(repr, unknown))}."
        )
    wrong = [task_id for task_id, chosen in labels.items() if not schema.multiple and len(chosen) != 1]
    if wrong:
        raise InvalidInputError(f"Nothing was written: task {wrong[0]} needs one label, for the config asks for one.")


def answers_of(
    project_id: int, schema: LabelSchema, task_ids: Iterable[int], client: LabelStudio, *, skips: bool = False
) -> dict[int, list[Annotation]]:
    """Task id -> its answers, of those tasks that have any; read from the annotations, for counts can lag behind.

    skips: they are answers as well.
    """
    found: dict[int, list[Annotation]] = {}
    for chunk in chunks(task_ids, PAGE):
        query = {
            "selectedItems": {"all": False, "included": chunk},
            "filters": {"conjunction": "and", "items": [_ANSWERED]},
        }
        for raw in client.listing(project_id, _FIELDS, query, fields="all", size=len(chunk))["tasks"]:
            read = partial(annotation_from_json, schema, task_id=raw["id"])
            if answers := [answer for answer in map(read, raw["annotations"]) if skips or not answer.was_cancelled]:
                found[raw["id"]] = answers
    return found


def _recount(project_id: int, client: LabelStudio, user: int | None) -> None:
    """Have Label Studio count the annotations of tasks that it says have none, unless it is just doing so.

    user: of those alone that this user has answered; None: of all, whoever has.

    Where Label Studio itself is killed in the middle of the action, they are there, and it goes on serving their tasks.
    """
    items = [_ANSWERED, _UNANSWERED, _UNSKIPPED]
    query = {"filters": {"conjunction": "and", "items": items}}
    before: list[int] = []
    counted: list[int] = []
    me: int | None = None
    while True:
        fields = f"{_FIELDS},parent_prediction"
        rows = client.listing(project_id, fields, query, fields="all")["tasks"]
        rows = [raw for raw in rows if user is None or any(_is_by(user, answer) for answer in raw["annotations"])]
        uncounted = [raw["id"] for raw in rows]
        if not uncounted or uncounted == counted:
            return
        if uncounted != before:
            before = uncounted
            time.sleep(PATIENCE_S)
            continue
        me = me or int(client.whoami()["id"])
        for annotation in (annotation for raw in rows for annotation in raw["annotations"]):
            if annotation["parent_prediction"]:  # an update makes this user its editor: what is not made here stays
                _touch(annotation, me, client)
        counted = uncounted


def _touch(annotation: Mapping[str, Any], user: int, client: LabelStudio) -> None:
    """Save an annotation as it is; one that somebody else has accepted stays so, though this user has saved it."""
    marked = marked_anew(annotation, annotation["result"], user)
    anew = annotation["completed_by"] != user and marked != annotation["result"]
    client.update_annotation(
        annotation["id"], was_cancelled=annotation["was_cancelled"], **({"result": marked} if anew else {})
    )


def _is_by(user: int, annotation: dict[str, Any]) -> bool:
    by = annotation["completed_by"]
    return bool((by["id"] if isinstance(by, dict) else by) == user)
