"""The one project of a Label Studio in memory, as far as importing goes."""

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
from ml_backend.records import Annotation, LabelSchema, Task

SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog", "a|b"))
MANY = replace(SCHEMA, multiple=True)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _choices(result: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(result[0]["value"]["choices"]) if result else ()


@dataclass
class FakeProject(LabelStudio):
    rows: list[Task] = field(default_factory=list)
    given: dict[int, list[Annotation]] = field(default_factory=dict)
    predictions: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    late: list[Mapping[str, Any]] = field(default_factory=list)
    writes: int = 0

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
        annotation = Annotation(self.writes, task_id, _choices(result), False, False, 1, NOW, NOW, none_of="choice")
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
