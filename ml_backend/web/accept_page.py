"""The page for accepting the rest: where it is, what it would take, the certificates, and each act asked for once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse

from ml_backend.acceptance.certifying import texts
from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web import replies
from ml_backend.web.accept_acts import Act
from ml_backend.web.accept_view import AcceptView
from ml_backend.web.accept_work import AcceptWork
from ml_backend.web.own_pages import HTML, PRIVATE, Shells, templates
from ml_backend.web.project_routes import numbered
from ml_backend.web.protocol import AcceptRequest
from ml_backend.web.visitors import Called, Visitors

T = TypeVar("T")
LOOKING, TRYING = 4, 1
"""Threads that tell how far it is, and that find out on a copy of the store what an act would come to."""
MEDIA = {"json": "application/json", "html": "text/html"}
CertificateId = Annotated[str, InPath(pattern="^[0-9a-f]{12}$")]
FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The certificate.", "content": {kind: {} for kind in MEDIA.values()}}
}


def accept(services: Services, visitors: Visitors) -> APIRouter:  # noqa: C901 - a list of routes
    """The page and what it calls."""
    router = APIRouter(prefix="/projects/{number}/accept")
    work = AcceptWork(services, visitors)
    view = AcceptView(services, work)
    looking, trying = CapacityLimiter(LOOKING), CapacityLimiter(TRYING)
    pages, shells = templates(), Shells(services)

    async def aside(what: Callable[..., T], number: int, *arguments: Any, limiter: CapacityLimiter = looking) -> T:
        def do() -> T:
            return what(numbered(number, services.ledger), *arguments)

        return await to_thread.run_sync(do, limiter=limiter)

    @router.get("", response_class=Response, responses=HTML)
    def page(number: int, request: Request) -> HTMLResponse:
        return shells.of("accept.html", number, request)

    @router.get("/state", response_class=Response, responses=HTML)
    async def state(number: int, caller: Called) -> HTMLResponse:
        """How far it is, as a part of the page, for who may see the project."""

        def look(project: Project) -> str:
            visitor = visitors.looks(project, caller)
            shown = view.of(project, may_act=visitor.may_act)
            return pages.get_template("accept_state.html").render(shown, person=visitor.name)

        return HTMLResponse(await aside(look, number), headers=PRIVATE)

    @router.post("/plan", response_model=replies.Status)
    async def plan(number: int, caller: Called) -> dict[str, str]:
        """Have it worked out what several shares of wrong labels would take; the page tells when it is there."""
        await aside(lambda project: work.plan(project, caller, view.basis(project)), number)
        return {"status": "ok"}

    @router.post("/would", response_model=replies.AcceptWould)
    async def would(number: int, message: AcceptRequest, caller: Called) -> dict[str, str]:
        """What an act would come to. Changes nothing; takes as long as the act has to think."""
        return {"says": await aside(work.would, number, caller, _act(message), limiter=trying)}

    @router.post("/acts", response_model=replies.Status)
    async def act(number: int, message: AcceptRequest, caller: Called) -> dict[str, str]:
        """Have it done, for who may change the project; the page tells how far it is."""
        await aside(work.begin, number, caller, _act(message))
        return {"status": "ok"}

    @router.get("/certificates/{certificate}.{kind}", response_class=Response, responses=FILE)
    async def certificate(
        number: int, certificate: CertificateId, kind: Literal["json", "html"], caller: Called
    ) -> Response:
        """The same text as `ml-backend accept certify` writes."""

        def look(project: Project) -> tuple[str, str]:
            visitors.looks(project, caller)
            for each in services.acceptances.vouched(project):
                if each.certificate_id == certificate and each.certificate is not None:
                    return next(item for item in texts(each.certificate).items() if item[0].endswith(f".{kind}"))
            raise NotFoundError(f"{project.title!r} has no certificate {certificate}.")

        name, text = await aside(look, number)
        headers = {**PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'}
        return Response(text.encode(), media_type=MEDIA[kind], headers=headers)

    return router


def _act(message: AcceptRequest) -> Act:
    return Act(message.act, message.error, message.confidence, message.certificate)
