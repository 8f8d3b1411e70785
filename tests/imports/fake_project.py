"""The one project of a Label Studio in memory, as far as importing goes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from ml_backend.imports.placement import Ready
from ml_backend.imports.sources import Source
from ml_backend.imports.uploading import ImportReport, import_images
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.results import accepted_result, annotation_from_json, annotation_result
from ml_backend.records import Annotation, LabelSchema, Task

SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog", "a|b"))
MANY = replace(SCHEMA, multiple=True)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _raw(number: int, result: Sequence[dict[str, Any]]) -> dict[str, Any]:
    now = NOW.isoformat()
    return {"id": number, "result": list(result), "completed_by": 1, "created_at": now, "updated_at": now}


def _result(answer: Annotation) -> list[dict[str, Any]]:
    if answer.accepted:
        return accepted_result(SCHEMA, answer.labels, answer.accepted)
    return annotation_result(SCHEMA, answer.labels)


@dataclass
class FakeProject(LabelStudio):
    rows: list[Task] = field(default_factory=list)
    given: dict[int, list[Annotation]] = field(default_factory=dict)
    predictions: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    late: list[Mapping[str, Any]] = field(default_factory=list)
    writes: int = 0
    acts: int = 0
    swallowed: int = 0

    def get_project(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "task_number": len(self.rows)}

    def whoami(self) -> dict[str, Any]:
        return {"id": 1}

    def tasks(self, project_id: int, **_: Any) -> Iterator[Task]:
        return iter(list(self.rows))

    def annotated(self, project_id: int, **_: Any) -> Iterator[tuple[Task, list[Annotation]]]:
        return ((task, self.given[task.id]) for task in list(self.rows) if task.id in self.given)

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> int:
        arrived, self.late = [*self.late, *data], []
        for item in arrived:
            task = Task(len(self.rows) + 1, item["data"]["image"], dict(item["data"]))
            self.rows.append(task)
            for annotation in item.get("annotations", []):
                self.create_annotation(task.id, annotation["result"])
            self.predictions[task.id] = list(item.get("predictions", []))
        return len(data)

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> None:
        self.rows = [task for task in self.rows if task.id not in task_ids]

    def create_annotation(
        self, task_id: int, result: list[dict[str, Any]], *, lead_time: float = 1.0
    ) -> dict[str, Any]:
        self.writes += 1
        annotation = annotation_from_json(SCHEMA, _raw(self.writes, result), task_id=task_id)
        self.given.setdefault(task_id, []).append(annotation)
        return {}

    def update_annotation(self, annotation_id: int, **fields: Any) -> dict[str, Any]:
        for task_id, annotations in self.given.items():
            kept = [a for a in annotations if a.id != annotation_id]
            if len(kept) < len(annotations):
                self.given[task_id] = kept
                return self.create_annotation(task_id, fields["result"])
        raise AssertionError

    def predictions_of(self, project_id: int, task_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        return {task: self.predictions.get(task, []) for task in task_ids}

    def lean_import(self, project_id: int) -> bool:
        return True

    def singly(self, project_id: int, count: int) -> bool:
        return False

    def existing(self, project_id: int, task_ids: Sequence[int]) -> set[int]:
        return {task.id for task in self.rows} & set(task_ids)

    def model_versions(self, project_id: int) -> dict[str, int]:
        return Counter(p["model_version"] for given in self.predictions.values() for p in given)

    def delete_predictions(self, project_id: int, model_version: str) -> int:
        deleted = self.model_versions(project_id)[model_version]
        for task_id, given in self.predictions.items():
            self.predictions[task_id] = [p for p in given if p["model_version"] != model_version]
        return deleted

    def listing(self, project_id: int, include: str, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The answered ones of the tasks that are asked for by id."""
        ids = query.get("selectedItems", {}).get("included", ())
        return {"tasks": [{"id": i, "annotations": self._raw(i)} for i in ids if self.given.get(i)]}

    def annotation(self, annotation_id: int) -> dict[str, Any] | None:
        found = (raw for task_id in self.given for raw in self._raw(task_id) if raw["id"] == annotation_id)
        return next(found, None)

    def _raw(self, task_id: int) -> list[dict[str, Any]]:
        return [
            {
                "id": a.id,
                "result": _result(a),
                "completed_by": a.annotator,
                "was_cancelled": a.was_cancelled,
                "created_at": a.created_at.isoformat(),
                "updated_at": a.updated_at.isoformat(),
            }
            for a in self.given[task_id]
        ]

    def act(self, project_id: int, action: str, task_ids: Sequence[int], **fields: Any) -> dict[str, Any]:
        """Annotations of predictions, but of the first `swallowed` tasks none."""
        self.acts += 1
        assert action == "predictions_to_annotations"
        assert task_ids
        answered = {a.task_id for given in self.given.values() for a in given if not a.was_cancelled}
        taken = [task_id for task_id in task_ids[self.swallowed :] if task_id not in answered]
        for task_id in taken:
            (p,) = (p for p in self.predictions[task_id] if p["model_version"] in fields["model_version"])
            self.create_annotation(task_id, p["result"])
        return {"detail": f"Created {len(taken)} annotations"}

    def import_predictions(self, project_id: int, predictions: Sequence[dict[str, Any]]) -> int:
        for prediction in predictions:
            self.predictions.setdefault(prediction["task"], []).append(prediction)
        return len(predictions)


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def at(count: int, start: int = 0) -> list[Ready]:
    """Images known by address, so that no file has to travel."""
    return [Ready(Source(f"{i}.png", address=f"https://host/{i}.png"), None) for i in range(start, start + count)]


def imported(count: int) -> FakeProject:
    """A project with so many images in it, and no label."""
    client = FakeProject()
    import_images(1, SCHEMA, at(count), ImportReport(), client)
    return client
