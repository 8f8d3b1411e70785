"""The pages on which images are looked for: the map and the search, and what both call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web import map_view, replies
from ml_backend.web.acts import chosen_acts
from ml_backend.web.finding import KINDS, SHOWN, Finder
from ml_backend.web.grid_work import GridWork
from ml_backend.web.map_work import MapWork
from ml_backend.web.own_pages import HTML, PRIVATE, Shells
from ml_backend.web.project_routes import numbered
from ml_backend.web.protocol import ChosenLabelRequest, FindRequest
from ml_backend.web.visitors import Called, Visitors
from ml_backend.wording import encodable

T = TypeVar("T")
LOOKING, LABELLING = 4, 4
"""Threads that look things up, and that write labels to Label Studio, which may take minutes: they keep nobody waiting who looks or labels."""
Key = Annotated[str, InPath(pattern="^[0-9a-f]{16}$")]
Part = Annotated[int, InPath(ge=0, le=10_000)]
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Numbers, see `ml_backend/web/map_view.py`.", "content": {"application/octet-stream": {}}}
}


def map_routes(services: Services, visitors: Visitors, labelling: GridWork) -> APIRouter:  # noqa: C901 - a list of routes
    """The pages and what they call. labelling: who writes labels here, as in the grid."""
    router = APIRouter(prefix="/projects/{number}")
    maps, shells = MapWork(services), Shells(services)
    finder = Finder(services, maps)
    looking, writing = CapacityLimiter(LOOKING), CapacityLimiter(LABELLING)

    async def aside(what: Callable[[Project], T], number: int, limiter: CapacityLimiter = looking) -> T:
        return await to_thread.run_sync(lambda: what(numbered(number, services.ledger)), limiter=limiter)

    @router.get("/map", response_class=Response, responses=HTML)
    def map_page(number: int, request: Request) -> HTMLResponse:
        return shells.of("map.html", number, request)

    @router.get("/search", response_class=Response, responses=HTML)
    def search_page(number: int, request: Request) -> HTMLResponse:
        return shells.of("search.html", number, request)

    @router.get("/map/state", response_model=replies.MapState)
    async def state(number: int, caller: Called, response: Response) -> dict[str, Any]:
        """What there is to paint; while the map is being made, nothing yet. For who may see the project, by their own token."""

        def look(project: Project) -> dict[str, Any]:
            visitor = visitors.looks(project, caller)
            if project.state.map is None:  # the worker lays out what somebody looks at
                services.ledger.configure(project, map=services.ledger.clock().isoformat(timespec="seconds"))
            made = maps.look(project)
            told = {
                "title": project.title, "person": visitor.name, "may_act": visitor.may_act, "labels_here": visitor.person is not None, "words": finder.reads_text(project),
                "labels": project.schema.labels, "in_label_studio": f"{project.key.host}/projects/{project.key.project_id}", "kinds": KINDS,
            }  # fmt: skip
            if made is None:
                return told | {
                    "key": None, "coming": True, "points": 0, "parts": [], "missing": 0, "method": "", "hidden": "", "colours": [],
                }  # fmt: skip
            points = made.points
            colours, hidden = map_view.colours(project, points, maps)
            return told | {
                "key": made.key, "coming": maps.is_making(project), "points": len(points.ids), "parts": map_view.parts(points), "missing": points.missing,
                "method": map_view.in_words(points), "hidden": hidden, "colours": colours,
            }  # fmt: skip

        response.headers.update(PRIVATE)
        return await aside(look, number)

    def numbers(found: bytes) -> Response:
        return Response(found, media_type="application/octet-stream", headers=PRIVATE)

    @router.get("/map/points/{key}/{part}", response_class=Response, responses=BYTES)
    async def points(number: int, key: Key, part: Part, caller: Called) -> Response:
        def look(project: Project) -> bytes:
            visitors.looks(project, caller)
            return map_view.coordinates(maps.known(project, key), part)

        return numbers(await aside(look, number))

    @router.get("/map/colours/{key}/{colour}/{part}", response_class=Response, responses=BYTES)
    async def colour(number: int, key: Key, colour: str, part: Part, caller: Called) -> Response:
        """Of a guess or a doubt nothing is told that nobody is to see."""

        def look(project: Project) -> bytes:
            visitors.looks(project, caller)
            return map_view.values(project, maps.known(project, key), colour, part, maps)

        return numbers(await aside(look, number))

    @router.post("/search/find", response_model=replies.FoundTasks)
    async def find(number: int, message: FindRequest, caller: Called) -> dict[str, Any]:
        """Images, and what is known of the first of them."""

        def look(project: Project) -> dict[str, Any]:
            visitors.looks(project, caller)
            found = finder.find(project, message)
            return {"ids": found.ids, "total": found.total, "tasks": finder.told(project, found.ids[:SHOWN])}

        return await aside(look, number)

    @router.post("/search/would-label", response_model=replies.PageWould)
    async def would_label(number: int, message: ChosenLabelRequest, caller: Called) -> dict[str, str]:
        """What it would come to that the person labels these. Changes nothing."""

        def look(project: Project) -> dict[str, str]:
            visitors.acts(project, caller)
            labelling.require_shown(project)
            says = chosen_acts.would_label(project, services, {"tasks": message.tasks}, message.label)
            return {"title": f"Label these as {message.label}?", "yes": "Label them", "says": encodable(says)}

        return await aside(look, number)

    @router.post("/search/label", response_model=replies.PageDone)
    async def label(number: int, message: ChosenLabelRequest, caller: Called) -> dict[str, str]:
        """Label them as the person whose token it is, as the grid does: what is held out or answered is left alone."""

        def write(project: Project) -> dict[str, str]:
            visitor = visitors.acts(project, caller)
            done = labelling.write(project, caller.token, message.label, message.tasks, [], message.seconds)
            said = chosen_acts.labelled(done)
            services.acts.record(
                project,
                "label-chosen",
                account=visitor.account,
                person=visitor.name,
                detail={"said": said, "undo": None},
            )
            return {"said": said}

        return await aside(write, number, writing)

    return router
