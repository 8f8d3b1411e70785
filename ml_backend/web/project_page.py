"""The page of a project: its shell, its sections, what happens while it is open, and its acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, StreamingResponse

from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web import replies
from ml_backend.web.acts.page_acts import PageActs, waits
from ml_backend.web.http_limits import ENDLESS
from ml_backend.web.live import Live
from ml_backend.web.own_pages import HTML, PRIVATE, Shells, templates
from ml_backend.web.project_routes import numbered
from ml_backend.web.protocol import PageActRequest
from ml_backend.web.sections.listed import SECTIONS
from ml_backend.web.user_names import user_names
from ml_backend.web.visitors import Called, Caller, Visitors

T = TypeVar("T")
LOOKING, ACTING, WAITING = 4, 4, 4
"""Threads that look things up, that do what is asked for, and that wait for a turn before: it can be cancelled beside them."""
Name = Annotated[str, InPath(pattern="^[a-z][a-z-]{0,40}$")]
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "What happens, as it happens.", "content": {"text/event-stream": {}}}
}


def project_page(services: Services, visitors: Visitors) -> APIRouter:  # noqa: C901 - a list of routes
    """The page and what it calls."""
    router = APIRouter(prefix="/projects/{number}")
    shells, pages, acts, live = Shells(services), templates(), PageActs(services, visitors), Live(services)
    looking, acting, waiting = CapacityLimiter(LOOKING), CapacityLimiter(ACTING), CapacityLimiter(WAITING)
    sections = {section.name: section for section in SECTIONS}

    async def aside(what: Callable[..., T], number: int, *arguments: Any, limiter: CapacityLimiter = looking) -> T:
        def do() -> T:
            return what(numbered(number, services.ledger), *arguments)

        return await to_thread.run_sync(do, limiter=limiter)

    def common(project: Project, caller: Caller) -> dict[str, Any]:
        visitor = visitors.looks(project, caller)
        address = f"{project.key.host}/projects/{project.key.project_id}"
        known = {"project": project, "number": project.id, "title": project.title, "in_label_studio": address}
        who = user_names(project, caller, services, visitors)
        return known | {"may_act": visitor.may_act, "person": visitor.name, "who": who}

    @router.get("/page", response_class=Response, responses=HTML)
    def page(number: int, request: Request) -> HTMLResponse:
        return shells.of("project.html", number, request)

    @router.get("/page/start", response_class=Response, responses=HTML)
    async def start(number: int, caller: Called) -> HTMLResponse:
        """Where the sections go, for who may see the project."""

        def look(project: Project) -> str:
            parts = [
                {"name": each.name, "title": each.title, "trigger": each.trigger} for each in SECTIONS if each.listed
            ]
            return pages.get_template("project_start.html").render(common(project, caller), sections=parts)

        return HTMLResponse(await aside(look, number), headers=PRIVATE)

    @router.get("/page/{name}", response_class=Response, responses=HTML)
    async def section(number: int, name: Name, request: Request, caller: Called) -> HTMLResponse:
        """A section, as a part of the page, for who may see the project."""

        def look(project: Project) -> str:
            known = common(project, caller)
            if (found := sections.get(name)) is None:
                raise NotFoundError("The page has no such section: reload it.")
            query = dict(request.query_params)
            shown = found.part(project, services, query) if query and found.part else found.look(project, services)
            return pages.get_template(f"sections/{name}.html").render(known | dict(shown))

        return HTMLResponse(await aside(look, number), headers=PRIVATE)

    @router.get("/live", response_class=Response, responses=EVENTS)
    async def happens(number: int, request: Request, caller: Called) -> StreamingResponse:
        """Names of what happens, as server-sent events: turn, labels, served, settings, acts."""

        def enter(project: Project) -> Project:
            visitors.looks(project, caller)
            return project

        stream = live.stream(await aside(enter, number))
        request.scope[ENDLESS] = True
        return StreamingResponse(stream, media_type="text/event-stream", headers=PRIVATE | {"X-Accel-Buffering": "no"})

    @router.post("/would", response_model=replies.PageWould)
    async def would(number: int, message: PageActRequest, caller: Called) -> dict[str, str]:
        """What an act would come to. Changes nothing."""
        return await aside(acts.would, number, caller, message.act, message.given, limiter=acting)

    @router.post("/acts", response_model=replies.PageDone)
    async def act(number: int, message: PageActRequest, caller: Called) -> dict[str, str]:
        """Have it done, for who may change the project."""
        limiter = waiting if waits(message.act) else acting
        return await aside(acts.do, number, caller, message.act, message.given, limiter=limiter)

    return router
