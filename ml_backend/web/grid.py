"""The grid: a page of images that the model takes for one class, to be labelled by looking at them together; or of an audit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse

from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web import replies
from ml_backend.web.grid_work import GridWork
from ml_backend.web.own_pages import HTML, Shells, Token
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.project_routes import numbered
from ml_backend.web.protocol import LARGEST_ID, GridAnswersRequest, GridLabelsRequest, GridPageRequest
from ml_backend.web.thumbnails import Thumbnails, etag
from ml_backend.web.visitors import Called, Caller, Visitors

T = TypeVar("T")
WORKING, DRAWING = 4, 4
"""Threads that choose and write, and that make thumbnails: neither keeps webhooks and predictions waiting."""
TaskId = Annotated[int, InPath(ge=0, le=LARGEST_ID)]
JPEG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image, small.", "content": {"image/jpeg": {}}},
    304: {"description": "The image that the caller has is as it was."},
}


def grid(services: Services, visitors: Visitors, work: GridWork) -> APIRouter:  # noqa: C901 - a list of routes
    """The page and what it calls."""
    router = APIRouter(prefix="/projects/{number}")
    thumbnails, shells = Thumbnails(), Shells(services)
    working, drawing = CapacityLimiter(WORKING), CapacityLimiter(DRAWING)

    def project(number: int) -> Project:
        return numbered(number, services.ledger)

    async def at_work(what: Callable[..., T], number: int, *arguments: Any) -> T:
        def do() -> T:
            return what(project(number), *arguments)

        return await to_thread.run_sync(do, limiter=working)

    @router.get("/grid", response_class=Response, responses=HTML)
    def page(number: int, request: Request) -> HTMLResponse:
        return shells.of("grid.html", number, request)

    @router.post("/grid/page", response_model=replies.GridPage)
    async def next_page(number: int, message: GridPageRequest, token: Token = None) -> dict[str, Any]:
        """What is to be looked at next, with the person's own Label Studio token: look-alikes, or what an audit asks for."""
        return await at_work(work.page, number, token, message.label)

    @router.post("/grid/labels", response_model=replies.GridWritten)
    async def label(number: int, message: GridLabelsRequest, token: Token = None) -> dict[str, Any]:
        """Label tasks as the person whose token it is. May be sent again: what is answered stays as it is."""
        said = message.label, message.tasks, message.unticked, message.seconds
        return await at_work(work.write, number, token, *said)

    @router.post("/grid/answers", response_model=replies.GridWritten)
    async def answer(number: int, message: GridAnswersRequest, token: Token = None) -> dict[str, Any]:
        """Answer what an audit asks for, each task with its own class, as the person whose token it is. May be sent again."""
        given = [(one.task, one.label) for one in message.answers]
        return await at_work(work.answer, number, token, given, message.passed, message.seconds)

    @router.post("/grid/undo", response_model=replies.GridUndone)
    async def undo(number: int, token: Token = None) -> dict[str, Any]:
        """Take back what the person's last page wrote, as long as nobody has changed it."""
        return await at_work(work.undo, number, token)

    def drawn(number: int, task_id: int, caller: Caller, known: str | None) -> Response:
        of = project(number)
        visitors.looks(of, caller)
        task = next(iter(services.ledger.tasks(of, [task_id])), None)
        if task is None:
            raise NotFoundError(f"{of.title!r} has no task {task_id}.")
        digest = services.ledger.content_hashes(of, [task]).get(task_id)
        headers = {
            "Cache-Control": "private, no-cache",
            "Vary": f"{TOKEN_HEADER}, Authorization",
            "X-Content-Type-Options": "nosniff",
        }
        if digest is not None:
            headers["ETag"] = etag(digest)
            if known == headers["ETag"]:
                return Response(status_code=304, headers=headers)
        made = thumbnails.get(digest, partial(services.encoding.read, of, task))
        return Response(made, media_type="image/jpeg", headers=headers)

    @router.get("/tasks/{task_id}/thumbnail", response_class=Response, responses=JPEG)
    async def thumbnail(number: int, task_id: TaskId, request: Request, caller: Called) -> Response:
        """For who may see the project. An image that cannot be shown: 422, and why."""
        known = request.headers.get("If-None-Match")
        return await to_thread.run_sync(drawn, number, task_id, caller, known, limiter=drawing)

    return router
