"""The overview: a card for each project, of those that the caller may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.own_pages import HEADERS, HTML, PRIVATE, Shells, templates
from ml_backend.web.visitors import Called, Visitors
from ml_backend.wording import amount, encodable, measured

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
    version, queue, advice = status["version"], status["queue"], status["advice"]
    running = status["job"]["running"]
    return {
        "number": project.id,
        "title": encodable(project.title) or f"Project {project.id}",
        "counts": status["counts"],
        "model": version["name"] if version else "",
        "accuracy": measured(version["holdout"]) if version else "",
        "queue": queue and _queue(queue),
        "stop": advice["stopping"] if advice else "",
        "turn": round(100 * running["progress"]) if running else None,
        "problems": [encodable(problem) for problem in status["problems"]],
    }


def _queue(queue: Mapping[str, Any]) -> str:
    made = datetime.fromisoformat(queue["verified_at"] or queue["created_at"])
    age = (datetime.now(UTC) - made).total_seconds()
    return f"{queue['waiting']:,} of {amount(queue['tasks'], 'task')} to go, {_since(age)} old"


def _since(seconds: float) -> str:
    for length, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= length:
            return amount(int(seconds // length), name)
    return "less than a minute"
