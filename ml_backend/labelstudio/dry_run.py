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
        self._titles: dict[int, str] = {}

    def get_project(self, project_id: int) -> Json:
        """With the title of a backend connected meanwhile as its model version: Label Studio sets it where there is none."""
        project = super().get_project(project_id)
        return {**project, "model_version": project["model_version"] or self._titles.get(project_id, "")}

    def update_project(self, project_id: int, **fields: Any) -> None: ...

    def create_backend(self, project_id: int, **fields: Any) -> Json:
        self._titles[project_id] = fields["title"]
        return {"id": 0, "project": project_id, **fields}

    def update_backend(self, backend_id: int, **fields: Any) -> Json:
        return {"id": backend_id, **fields}

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

    def delete_tab(self, tab_id: int) -> None: ...
