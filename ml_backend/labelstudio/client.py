"""What this service asks of Label Studio, in lean requests: a project, its tasks and labels, predictions, hooks, tabs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any, Self

from ml_backend.chunks import chunks
from ml_backend.errors import LabelStudioError, NotFoundError
from ml_backend.labelstudio.config import NOTHING, SeveralError, parse_label_config, selection_from
from ml_backend.labelstudio.results import annotation_from_json, task_from_json
from ml_backend.labelstudio.task_filters import ANNOTATED, UNLABELLED, column_filter, last_changed, last_changed_between
from ml_backend.labelstudio.transport import Transport, detail_of, parsed
from ml_backend.records import Annotation, LabelSchema, Selection, Task

Json = dict[str, Any]

PAGE = 1_000
IMPORT_CHUNK = 5_000
BULK_TIMEOUT_S = 600.0
# The older bulk import recounts every task of the project (0.2 ms each); one prediction alone takes about 0.1 s.
TASKS_WORTH_ONE_PREDICTION = 400
_PROJECT_FIELDS = (
    "id,title,label_config,model_version,sampling,created_at,task_number,num_tasks_with_annotations,maximum_annotations,"
    "show_collab_predictions,evaluate_predictions_automatically,show_overlap_first,show_ground_truth_first,"
    "skip_queue,annotator_evaluation_enabled,control_weights,overlap_cohort_percentage"
)
_ANNOTATION_FIELDS = (
    "id,data,updated_at,annotations,result,completed_by,updated_by,was_cancelled,ground_truth,lead_time,created_at"
)


class LabelStudio:
    """One Label Studio host, seen with one token. Safe to share between threads.

    Objects that only Label Studio defines (projects, backends, webhooks, tabs) are its own JSON; tasks and annotations
    are records. Raises NotFoundError, LabelStudioUnavailableError (try again later) or LabelStudioError (change something).
    """

    def __init__(self, url: str, api_key: str, *, timeout: float = 60.0, retries: int = 4) -> None:
        self.transport = Transport(url, api_key, timeout=timeout, retries=retries)
        self.url = self.transport.url
        self._lean_import: bool | None = None
        self._edition: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    # -- host ---------------------------------------------------------------------------------------------------------

    def version(self) -> str:
        return str(self._get("/api/version")["release"])

    def has_members(self) -> bool:
        """Whether projects can have members: not in the Community edition. Asked once."""
        if self._edition is None:
            self._edition = str(self._get("/api/version").get("edition", "Community"))
        return self._edition != "Community"

    def clock(self) -> datetime:
        """Label Studio's own time, to the second: the clock that its `updated_at` is by. Ours where it does not tell."""
        date = self.transport.send("GET", "/api/version").headers.get("Date")
        return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

    def whoami(self) -> Json:
        return dict(self._get("/api/current-user/whoami"))

    # -- projects -----------------------------------------------------------------------------------------------------

    def projects(self) -> Iterator[Json]:
        page = 1
        while True:
            answer = self._get("/api/projects/", page=page, page_size=100, include=_PROJECT_FIELDS)
            yield from answer["results"]
            if not answer.get("next"):
                return
            page += 1

    def get_project(self, project_id: int) -> Json:
        return dict(self._get(f"/api/projects/{project_id}/", include=_PROJECT_FIELDS))

    def create_project(self, title: str, label_config: str, **fields: Any) -> Json:
        return dict(self._post("/api/projects/", {"title": title, "label_config": label_config, **fields}))

    def update_project(self, project_id: int, **fields: Any) -> None:
        """Label Studio sends PROJECT_UPDATED to the project's webhooks inside this request."""
        self.transport.call("PATCH", f"/api/projects/{project_id}/", params={"include": "id"}, json=fields)

    def schema(self, project: int | Json, *, default: Selection = NOTHING) -> LabelSchema:
        """What is learned of a project, given by number or as `get_project` returned it.

        Where its config has several choices or images: those selected when it was connected, else the default ones.
        """
        found = self.get_project(project) if isinstance(project, int) else project
        try:
            return parse_label_config(found["label_config"])
        except SeveralError:
            return parse_label_config(
                found["label_config"], self.selection(int(found["id"])) or NOTHING, default=default
            )

    def selection(self, project_id: int) -> Selection | None:
        """Which choices and image were selected when the project was connected; kept with its ML backend."""
        found = (selection_from(backend.get("extra_params")) for backend in self.backends(project_id))
        return next(filter(None, found), None)

    # -- tasks and annotations ----------------------------------------------------------------------------------------

    def tasks(self, project_id: int, *, schema: LabelSchema | None = None) -> Iterator[Task]:
        """All tasks by ascending id."""
        schema = schema or self.schema(project_id)
        for raw in chain.from_iterable(self._pages(project_id, "id,data,updated_at", [])):
            yield task_from_json(schema, raw)

    def annotated(
        self, project_id: int, *, schema: LabelSchema | None = None, updated_since: datetime | None = None
    ) -> Iterator[tuple[Task, list[Annotation]]]:
        """Every task with annotations (skips included), by ascending id; drafts are none.

        With `updated_since`: every task changed at or after that time, those included that have no annotation (left):
        creating, changing, skipping and deleting an annotation each move the task's `updated_at`.
        """
        schema = schema or self.schema(project_id)
        if updated_since is None:
            yield from self._annotated(project_id, schema, [])
            return
        changed = [last_changed("greater_or_equal", updated_since)]
        for page in self._pages(project_id, "id,data,updated_at", changed):
            # Serializing annotations is what takes Label Studio long, so only tasks that have some are asked for them.
            window = [*changed, column_filter("id", "less_or_equal", page[-1]["id"])]
            given = self._annotated(project_id, schema, window, after=page[0]["id"] - 1)
            rich = {task.id: (task, annotations) for task, annotations in given}
            for raw in page:
                yield rich.get(raw["id"]) or (task_from_json(schema, raw), [])

    def annotated_pages(self, project_id: int, include: str) -> Iterator[list[Json]]:
        """The tasks with annotations (skips included) by ascending id, as Label Studio's own JSON, a page at a time."""
        return self._pages(project_id, include, [ANNOTATED], fields="all")

    def annotated_between(
        self, project_id: int, start: datetime, end: datetime, *, schema: LabelSchema
    ) -> Iterator[tuple[Task, list[Annotation]]]:
        """Every task with annotations that was last changed in [start, end), by ascending id."""
        return self._annotated(project_id, schema, last_changed_between(start, end))

    def _annotated(
        self, project_id: int, schema: LabelSchema, filters: list[Json], *, after: int = 0
    ) -> Iterator[tuple[Task, list[Annotation]]]:
        filters = [*filters, ANNOTATED]
        for raw in chain.from_iterable(self._pages(project_id, _ANNOTATION_FIELDS, filters, fields="all", after=after)):
            task = task_from_json(schema, raw)
            yield task, [annotation_from_json(schema, item, task_id=task.id) for item in raw.get("annotations", [])]

    def unlabelled(self, project_id: int, between: tuple[datetime, datetime] | None = None) -> int:
        """How many tasks nobody has labelled or skipped; of those last changed in [start, end)."""
        filters = [*UNLABELLED, *(last_changed_between(*between) if between else ())]
        query = {"filters": {"conjunction": "and", "items": filters}}
        return int(self.listing(project_id, "id", query, size=1)["total"])

    def unlabelled_at(self, project_id: int, places: Sequence[int], *, schema: LabelSchema) -> list[Task]:
        """The unlabelled tasks at these places (from 0) of their list by id, without reading the whole list."""
        query = {"filters": {"conjunction": "and", "items": UNLABELLED}}

        def page(number: int, size: int) -> list[Task]:
            try:
                rows = self.listing(project_id, "id,data,updated_at", query, page=number, size=size)["tasks"]
            except NotFoundError:  # tasks were deleted meanwhile
                return []
            return [task_from_json(schema, raw) for raw in rows]

        if max(places, default=0) < PAGE:
            tasks = page(1, PAGE)
            return [tasks[place] for place in places if place < len(tasks)]
        with ThreadPoolExecutor(4) as pool:
            return [task for found in pool.map(lambda place: page(place + 1, 1), places) for task in found]

    def task(self, task_id: int) -> Json:
        """One task with its annotations and predictions, its image reference unresolved."""
        return dict(self._get(f"/api/tasks/{task_id}/", resolve_uri="false"))

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> int:
        """Create tasks: plain data, or {"data": ..., "annotations": [...]}. Returns how many Label Studio created."""
        created = 0
        for chunk in chunks(data, IMPORT_CHUNK):
            path = f"/api/projects/{project_id}/import"
            created += int(self._post(path, chunk, timeout=BULK_TIMEOUT_S)["task_count"])
        return created

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        self.act(project_id, "delete_tasks", task_ids)

    def create_annotation(self, task_id: int, result: list[Json], *, lead_time: float = 1.0) -> Json:
        return dict(self._post(f"/api/tasks/{task_id}/annotations/", {"result": result, "lead_time": lead_time}))

    def annotation(self, annotation_id: int) -> Json | None:
        """The annotation as it is now; None where it was deleted."""
        try:
            return dict(self._get(f"/api/annotations/{annotation_id}/"))
        except NotFoundError:
            return None

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation with its drafts."""
        self._delete(f"/api/annotations/{annotation_id}/")

    def drafts(self, task_id: int) -> list[Json]:
        """Everybody's, where the list of tasks has only those of the token's user."""
        return list(self._get(f"/api/tasks/{task_id}/drafts"))

    def update_annotation(self, annotation_id: int, **fields: Any) -> Json:
        return dict(self.transport.call("PATCH", f"/api/annotations/{annotation_id}/", json=fields))

    # -- predictions --------------------------------------------------------------------------------------------------

    def import_predictions(self, project_id: int, predictions: Sequence[Json]) -> int:
        """Store predictions ({task, result, score, model_version}); returns how many.

        Not idempotent: sent twice, they are there twice. Raises LabelStudioError where a task does not exist or where
        Label Studio dropped one without saying so (it answers 201), naming the tasks.
        """
        for chunk in chunks(predictions, IMPORT_CHUNK):
            if self.singly(project_id, len(chunk)):
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(lambda item: self._post("/api/predictions/", item | {"project": project_id}), chunk))
                continue
            path = f"/api/projects/{project_id}/import/predictions"
            created = int(self._post(path, chunk, timeout=BULK_TIMEOUT_S)["created"])
            if created != len(chunk):
                raise LabelStudioError(self._dropped(project_id, chunk, created))
        return len(predictions)

    def predictions_of(self, project_id: int, task_ids: Sequence[int]) -> dict[int, list[Json]]:
        """The stored predictions of these tasks; tasks that no longer exist are not in the answer."""
        found: dict[int, list[Json]] = {}
        for chunk in chunks(task_ids, PAGE):
            for raw in self.listed(project_id, chunk, "id,predictions", "all"):
                found[raw["id"]] = raw["predictions"]
        return found

    def existing(self, project_id: int, task_ids: Sequence[int]) -> set[int]:
        """Those of the tasks that exist in the project."""
        return {raw["id"] for chunk in chunks(task_ids, PAGE) for raw in self.listed(project_id, chunk, "id")}

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Model versions among the stored predictions, with their counts (0 for a mere name of the project)."""
        return dict(self._get(f"/api/projects/{project_id}/model-versions/"))

    def update_prediction(self, prediction_id: int, **fields: Any) -> None:
        self.transport.call("PATCH", f"/api/predictions/{prediction_id}/", json=fields)

    def delete_predictions(self, project_id: int, model_version: str) -> int:
        """Delete a version's predictions (14 ms each). Clears `project.model_version` where it is this version."""
        path = f"/api/projects/{project_id}/model-versions/"
        answer = self.transport.call("DELETE", path, json={"model_version": model_version}, timeout=BULK_TIMEOUT_S)
        return int(answer["deleted_predictions"])

    def delete_single_predictions(self, prediction_ids: Sequence[int]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: self._delete(f"/api/predictions/{number}/"), prediction_ids))

    def set_model_version(self, project_id: int, model_version: str) -> None:
        """Refused by Label Studio unless a stored prediction (or a connected backend's title) has this name."""
        self.update_project(project_id, model_version=model_version)

    # -- ML backends, webhooks, tabs ----------------------------------------------------------------------------------

    def backends(self, project_id: int) -> list[Json]:
        """The connected ML backends. Label Studio calls the /health and /setup of each before it answers."""
        return list(self._get("/api/ml/", project=project_id))

    def create_backend(self, project_id: int, **fields: Any) -> Json:
        return dict(self._post("/api/ml/", {"project": project_id, **fields}))

    def update_backend(self, backend_id: int, **fields: Any) -> Json:
        return dict(self.transport.call("PATCH", f"/api/ml/{backend_id}", json=fields))

    def delete_backend(self, backend_id: int) -> None:
        """Leaves the backend's webhook behind."""
        self._delete(f"/api/ml/{backend_id}")

    def webhooks(self, project_id: int) -> list[Json]:
        return list(self._get("/api/webhooks/", project=project_id))

    def create_webhook(self, project_id: int, **fields: Any) -> Json:
        return dict(self._post("/api/webhooks/", {"project": project_id, **fields}))

    def update_webhook(self, webhook_id: int, **fields: Any) -> Json:
        return dict(self.transport.call("PATCH", f"/api/webhooks/{webhook_id}/", json=fields))

    def delete_webhook(self, webhook_id: int) -> None:
        self._delete(f"/api/webhooks/{webhook_id}/")

    def tabs(self, project_id: int) -> list[Json]:
        return list(self._get("/api/dm/views/", project=project_id))

    def create_tab(self, project_id: int, data: Json) -> Json:
        return dict(self._post("/api/dm/views/", {"project": project_id, "data": data}))

    def update_tab(self, tab_id: int, data: Json) -> Json:
        return dict(self.transport.call("PATCH", f"/api/dm/views/{tab_id}/", json={"data": data}))

    def delete_tab(self, tab_id: int) -> None:
        self._delete(f"/api/dm/views/{tab_id}/")

    # -- requests -----------------------------------------------------------------------------------------------------

    def listing(
        self, project_id: int, include: str, query: Json, *, fields: str = "task_only", page: int = 1, size: int = PAGE
    ) -> Json:
        """One page of the task list: {"tasks": [...], "total": n}. Raises NotFoundError past the last page.

        `include` cuts both the task and the annotations in it to these fields, which makes the list five times faster.
        `review` keeps Label Studio from asking the ML backend for predictions of every task it lists (which it does in
        projects with `evaluate_predictions_automatically`); `resolve_uri=false` keeps image references as imported.
        """
        return dict(
            self._get(
                "/api/tasks/",
                project=project_id, fields=fields, include=include, query=json.dumps(query),
                resolve_uri="false", review="true", page=page, page_size=size,
            )
        )  # fmt: skip

    def _pages(
        self, project_id: int, include: str, filters: list[Json], *, fields: str = "task_only", after: int = 0
    ) -> Iterator[list[Json]]:
        """Task pages by ascending id. By key, not by offset: a task deleted meanwhile must not hide another one."""
        while True:
            query = {"filters": {"conjunction": "and", "items": [*filters, column_filter("id", "greater", after)]}}
            page = self.listing(project_id, include, query, fields=fields)["tasks"]
            if page:
                yield page
                after = page[-1]["id"]
            if len(page) < PAGE:
                return

    def listed(self, project_id: int, task_ids: Collection[int], include: str, fields: str = "task_only") -> list[Json]:
        """Those of the tasks that exist, PAGE at most, each with the fields that `include` names.

        Raises NotFoundError where the project itself is not there, or its host says so for a moment: no task is gone by that.
        """
        query = {"selectedItems": {"all": False, "included": list(task_ids)}}
        return list(self.listing(project_id, include, query, fields=fields, size=len(task_ids))["tasks"])

    def act(self, project_id: int, action: str, task_ids: Sequence[int], **fields: Any) -> Json:
        """Have the Data Manager do this with the tasks; what it answers, {} where there is none (it would take all)."""
        if not task_ids:
            return {}
        items = {"selectedItems": {"all": False, "included": list(task_ids)}, **fields}
        return dict(self._post(f"/api/dm/actions?id={action}&project={project_id}", items, timeout=BULK_TIMEOUT_S))

    def lean_import(self, project_id: int) -> bool:
        """Whether importing predictions takes by the prediction; the older import recounts every task of the project."""
        if self._lean_import is None:
            # Each of the two imports refuses a task that does not exist, the older one in other words.
            answer = self.transport.send("POST", f"/api/projects/{project_id}/import/predictions", json=[{"task": 0}])
            self._lean_import = "couldn't be retrieved" not in detail_of(answer)
        return self._lean_import

    def singly(self, project_id: int, count: int) -> bool:
        """Whether single predictions are the cheaper way: a small batch, a large project, the older bulk import."""
        if self.lean_import(project_id):
            return False
        tasks = parsed(self.transport.send("GET", f"/api/projects/{project_id}/", params={"include": "task_number"}))
        return bool(tasks.get("task_number", 0) > TASKS_WORTH_ONE_PREDICTION * count)

    def _dropped(self, project_id: int, chunk: Sequence[Json], created: int) -> str:
        stored = self.predictions_of(project_id, [item["task"] for item in chunk])
        dropped = [
            item["task"]
            for item in chunk
            if not any(p["model_version"] == item["model_version"] for p in stored.get(item["task"], []))
        ]
        shown = ", ".join(map(str, dropped[:20])) + (", ..." if len(dropped) > 20 else "")
        return (
            f"Label Studio stored only {created} of {len(chunk)} predictions; it dropped those of tasks {shown}. "
            "Label Studio drops results that do not fit the project's label config: check that every predicted "
            "label is still in it."
        )

    def _get(self, path: str, **params: Any) -> Any:
        return self.transport.call("GET", path, params=params)

    def _post(self, path: str, body: Any, *, timeout: float | None = None) -> Any:
        return self.transport.call("POST", path, json=body, timeout=timeout)

    def _delete(self, path: str, *, timeout: float | None = None) -> None:
        """Deleting what is gone already is done: a repeated DELETE may find its first attempt served."""
        try:
            self.transport.call("DELETE", path, timeout=timeout)
        except NotFoundError:
            return
