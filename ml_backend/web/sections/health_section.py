"""Whether everything is as it has to be: what `ml-backend doctor` says, for who may change the project."""

from __future__ import annotations

from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web.examining import EXAMINATIONS, Examination
from ml_backend.web.own_pages import HTML, PRIVATE, templates
from ml_backend.web.project_routes import numbered
from ml_backend.web.visitors import Called, Visitors
from ml_backend.wording import amount, encodable

LOOKING = 2


def look(project: Project, services: Services) -> dict[str, Any]:
    """The template tells it to nobody who may only look: it names addresses and folders."""
    return _shown(EXAMINATIONS.of(project, services))


def _shown(found: Examination | None) -> dict[str, Any]:
    if found is None:
        return {"asked": False, "examining": False, "findings": [], "said": "", "error": ""}
    findings = list(found.findings)
    faults = sum(not each.ok for each in findings)
    said = f"{amount(faults, 'thing')} to put right." if faults else "Everything that was looked at is right."
    return {
        "asked": True,
        "examining": found.ended is None,
        "findings": [(encodable(each.name), each.state, encodable(each.message)) for each in findings],
        "said": "" if found.ended is None or found.error else said,
        "error": encodable(found.error),
    }


def health_routes(services: Services, visitors: Visitors) -> APIRouter:
    router = APIRouter(prefix="/projects/{number}/page")
    pages, looking = templates(), CapacityLimiter(LOOKING)

    @router.post("/health", response_class=Response, responses=HTML)
    async def examine(number: int, caller: Called) -> HTMLResponse:
        """Look now, or go on looking; the section tells what is found. It changes nothing."""

        def begin() -> str:
            project = numbered(number, services.ledger)
            visitors.acts(project, caller)
            shown = _shown(EXAMINATIONS.begin(project, services))
            return pages.get_template("sections/health.html").render(shown, may_act=True)

        return HTMLResponse(await to_thread.run_sync(begin, limiter=looking), headers=PRIVATE)

    return router
