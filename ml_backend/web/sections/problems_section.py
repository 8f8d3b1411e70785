"""What is wrong with a project, each with its fix: the sentences of `ml-backend sync status`."""

from __future__ import annotations

from typing import Any

from ml_backend.services import Services
from ml_backend.store.projects import Project


def look(project: Project, services: Services) -> dict[str, Any]:
    return {"problems": services.status.of(project, services.known_counts.of(project))["problems"]}
