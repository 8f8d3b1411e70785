"""What a person or a script asks of the service over HTTP, beside Label Studio's protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from ml_backend.errors import NotFoundError
from ml_backend.manual_promotion import follow
from ml_backend.manual_promotion import unpin as unpin_version
from ml_backend.project_settings import refuse_paused
from ml_backend.services import Services
from ml_backend.status import job_status, round_status, version_status
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.version import Version, version_number
from ml_backend.web import replies
from ml_backend.web.protocol import LARGEST_ID
from ml_backend.web.shared_exports import Exports

FILE = {"description": "The model.", "content": {"application/octet-stream": {}}}


def numbered(number: int, ledger: Ledger) -> Project:
    """The project of this number here. Raises NotFoundError."""
    for known in ledger.projects():
        if known.id == number:
            return known
    raise NotFoundError(f"There is no project {number} here; GET /projects lists the projects.")


def operations(services: Services) -> APIRouter:  # noqa: C901 - a list of routes
    """Routes below /projects. A project is named by its number here, as `GET /projects` lists it."""
    router = APIRouter(prefix="/projects")
    exports = Exports(services.settings)

    def project(number: int) -> Project:
        return numbered(number, services.ledger)

    @router.get("", response_model=list[replies.Project])
    def projects() -> list[dict[str, Any]]:
        return [services.status.of(known) for known in services.ledger.projects()]

    @router.get("/{number}", response_model=replies.Project)
    def status(number: int) -> dict[str, Any]:
        return services.status.of(project(number))

    @router.get("/{number}/rounds", response_model=list[replies.Round])
    def rounds(number: int) -> list[dict[str, Any]]:
        return [round_status(round_) for round_ in services.ledger.rounds(project(number))]

    @router.get("/{number}/versions", response_model=list[replies.ModelVersion])
    def versions(number: int) -> list[dict[str, Any]]:
        return [version_status(version) for version in services.versions.list(project(number))]

    @router.get("/{number}/unreadable-images", response_model=replies.UnreadableImages)
    def unreadable(
        number: int,
        after: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        """By task id; `after` is the last one of the page before."""
        known = project(number)
        total = services.ledger.counts(known).failed_images
        return {"total": total} | services.status.unreadable(known, after=after, limit=limit)

    @router.get("/{number}/jobs", response_model=list[replies.Job])
    def jobs(number: int) -> list[dict[str, Any] | None]:
        return [job_status(job) for job in services.jobs.history(project(number))]

    def served(number: int) -> Version:
        version = services.versions.current(project(number))
        if version is None:
            raise NotFoundError("There is no model yet: label two images of different classes.")
        return version

    @router.get("/{number}/model.{kind}", response_class=FileResponse, responses={200: FILE})
    async def model(number: int, kind: Literal["pt2", "onnx"]) -> FileResponse:
        """Answers when the file is made, which takes up to a minute the first time."""
        version = await run_in_threadpool(served, number)
        path = await exports.get(number, version.number, kind)
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    @router.post("/{number}/train", response_model=replies.Job)
    def train(number: int) -> dict[str, Any] | None:
        refuse_paused(known := project(number))
        return job_status(services.jobs.mark_due(known, immediately=True, reason="asked for"))

    @router.post("/{number}/cancel", response_model=replies.Cancelled)
    def cancel(number: int) -> dict[str, bool]:
        return {"cancelled": services.jobs.cancel(project(number))}

    @router.post("/{number}/roll-back", response_model=replies.ModelVersion)
    def roll_back(number: int) -> dict[str, Any]:
        known = project(number)
        return version_status(follow(known, services.versions.roll_back(known), services.jobs))

    @router.post("/{number}/pin/{version}", response_model=replies.ModelVersion)
    def pin(number: int, version: str) -> dict[str, Any]:
        known = project(number)
        return version_status(follow(known, services.versions.pin(known, version_number(version)), services.jobs))

    @router.post("/{number}/unpin", response_model=replies.Project)
    def unpin(number: int) -> dict[str, Any]:
        unpin_version(project(number), services.versions, services.jobs)
        return services.status.of(project(number))

    return router
