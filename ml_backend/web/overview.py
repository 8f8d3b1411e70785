"""The overview: a card for each project, of those that the caller may see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.own_pages import HEADERS, HTML, PRIVATE, Shells, templates
from ml_backend.web.visitors import Called, Visitors

LOOKING = 4
"""Threads that look projects up."""


def overview(services: Services, visitors: Visitors) -> APIRouter:
    """The page and what it calls."""
    router = APIRouter(prefix="/overview")
    pages, shells, looking = templates(), Shells(services), CapacityLimiter(LOOKING)

    @router.get("", response_class=Response, responses=HTML)
    def page() -> HTMLResponse:
        hosts = list(services.settings.hosts())
        told = {"title": "Projects", "hosts": hosts, "host": hosts[0], "root": ""} | shells.common()
        return HTMLResponse(pages.get_template("overview.html").render(told), headers=HEADERS)

    @router.get("/cards", response_class=Response, responses=HTML)
    async def cards(caller: Called, host: Annotated[int, Query(ge=0, le=10_000)] = 0) -> HTMLResponse:
        """The projects of one Label Studio, by its place among those that are set, that the caller may see."""

        def look() -> str:
            hosts = list(services.settings.hosts())
            if host >= len(hosts):
                raise NotFoundError("This service knows no such Label Studio: reload the page.")
            may_see = visitors.visible(hosts[host], caller)
            shown = [_card(project, services) for project in _projects(services) if may_see(project)]
            return pages.get_template("overview_cards.html").render(cards=shown, host=hosts[host])

        return HTMLResponse(await to_thread.run_sync(look, limiter=looking), headers=PRIVATE)

    return router


def _projects(services: Services) -> Sequence[Project]:
    return services.ledger.projects()


def _card(project: Project, services: Services) -> dict[str, Any]:
    status = services.status.of(project, services.known_counts.of(project))
    return {"number": project.id, "title": project.title, "counts": status["counts"], "problems": status["problems"]}
