"""A Label Studio that is read as it is, and whose connection is changed in words only."""

from __future__ import annotations

from typing import Any

from ml_backend.labelstudio.client import Json, LabelStudio


class DryRun(LabelStudio):
    """Answers changes to the connection of a project as if they had been made, and makes none.

    So the code that connects and repairs tells what it would do. Tasks and annotations have dry runs of their own.
    """

    def __init__(self, url: str, api_key: str) -> None:
        super().__init__(url, api_key)
        self._backends: dict[int, Json] = {}  # id -> what is different now; 0: the one that was made

    def get_project(self, project_id: int) -> Json:
        """With the title of the backend that was made as its model version: Label Studio sets it where there is none."""
        project = super().get_project(project_id)
        title = self._backends.get(0, {}).get("title", "")
        return {**project, "model_version": project["model_version"] or title}

    def update_project(self, project_id: int, **fields: Any) -> None: ...

    def backends(self, project_id: int) -> list[Json]:
        known = [backend | self._backends.get(backend["id"], {}) for backend in super().backends(project_id)]
        return known + [backend for number, backend in self._backends.items() if number == 0]

    def create_backend(self, project_id: int, **fields: Any) -> Json:
        self._backends[0] = {"id": 0, "project": project_id, "state": "CO", **fields}
        return self._backends[0]

    def update_backend(self, backend_id: int, **fields: Any) -> Json:
        self._backends[backend_id] = {"id": backend_id, **fields}
        return self._backends[backend_id]

    def delete_backend(self, backend_id: int) -> None: ...

    def create_webhook(self, project_id: int, **fields: Any) -> Json:
        return {"id": 0, "project": project_id, **fields}

    def update_webhook(self, webhook_id: int, **fields: Any) -> Json:
        return {"id": webhook_id, **fields}

    def delete_webhook(self, webhook_id: int) -> None: ...

    def create_tab(self, project_id: int, data: Json) -> Json:
        return {"id": 0, "project": project_id, "data": data}

    def update_tab(self, tab_id: int, data: Json) -> Json:
        return {"id": tab_id, "data": data}
