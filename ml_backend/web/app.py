"""HTTP: what Label Studio calls, and what a person asks. Nothing here trains; `/setup` and `/health` answer at once."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from ml_backend import __version__
from ml_backend.errors import BackendError, InvalidInputError
from ml_backend.labelstudio.config import selection_from
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps import push_queue
from ml_backend.store.faults import retry_until_available
from ml_backend.web import replies
from ml_backend.web.accept_page import accept
from ml_backend.web.access import Gate, require_closed
from ml_backend.web.downloads import downloads
from ml_backend.web.grid import grid
from ml_backend.web.grid_work import GridWork
from ml_backend.web.map_page import map_routes
from ml_backend.web.overview import overview
from ml_backend.web.own_pages import STATIC
from ml_backend.web.persons import Persons
from ml_backend.web.project_page import project_page
from ml_backend.web.project_routes import operations
from ml_backend.web.protocol import (
    REFUSALS,
    JobRequest,
    PredictRequest,
    ProjectRequest,
    Refusal,
    SetupRequest,
    WebhookRequest,
    explain,
    host_of,
    parse_project,
)
from ml_backend.web.sections.health_section import health_routes
from ml_backend.web.visitors import Visitors
from ml_backend.wording import encodable, shortened

logger = logging.getLogger(__name__)

LONGEST_ERROR, LONGEST_ADDRESS = 4_000, 1_500
"""Characters of an answer that says what is wrong, which may quote the request."""
NOTING, PREDICTING = 8, 16
"""Threads for events, and for predictions, which may wait for slow images; so that neither keeps the other waiting, nor
any other request."""


def app() -> FastAPI:
    """Build the service from the environment; what gunicorn calls."""
    settings = Settings.from_environ(os.environ)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # more connections than it keeps open are nothing to tell
    require_closed(settings)
    return create_app(retry_until_available(partial(Services.open, settings)))


def create_app(services: Services) -> FastAPI:
    """Build the service around `services`."""
    application = FastAPI(
        title="Label Studio active learning backend",
        version=__version__,
        responses=REFUSALS,
        docs_url=None,  # their scripts come from another site, and would run here with the rights of our own pages
        redoc_url=None,
    )
    application.state.services = services
    _add_errors(application)
    application.add_middleware(Gate, settings=services.settings)
    routes = protocol_routes(services)
    application.include_router(routes)
    application.include_router(routes, prefix="/hosts/{host}")
    application.include_router(operations(services))
    visitors = Visitors(Persons())
    work = GridWork(services, visitors.persons)
    application.include_router(grid(services, visitors, work))
    application.include_router(accept(services, visitors))
    application.include_router(project_page(services, visitors))
    application.include_router(overview(services, visitors))
    application.include_router(map_routes(services, visitors, work))
    application.include_router(downloads(services, visitors))
    application.include_router(health_routes(services, visitors))
    application.mount("/static", StaticFiles(directory=STATIC))
    return application


def protocol_routes(services: Services) -> APIRouter:  # noqa: C901 - a list of routes
    """The ML backend protocol. The same routes stand under `/hosts/<slug>`, so that hosts cannot be confused."""
    router = APIRouter()
    noting, predicting = CapacityLimiter(NOTING), CapacityLimiter(PREDICTING)

    @router.get("/", response_model=replies.Health, responses={307: {"description": "A browser: to the overview."}})
    async def root(request: Request) -> Any:
        """Label Studio and scripts ask for JSON; a browser is led to the pages."""
        if "text/html" in request.headers.get("Accept", "") and "host" not in request.path_params:
            return RedirectResponse("overview", headers={"Vary": "Accept"})
        return await health()

    @router.get("/health", response_model=replies.Health)
    async def health() -> dict[str, str]:
        # The id says which store this is to who has the same one; to anybody else it says nothing.
        return {"status": "UP", "model_class": "ActiveLearningModel", "store": services.database.store_id}

    @router.post(
        "/setup",
        response_model=replies.Setup,
        responses={303: {"model": Refusal, "description": "Refused; the address tells why."}},
    )
    def setup(message: SetupRequest, request: Request) -> dict[str, str]:
        project_id, created = parse_project(message.project)
        host = services.hosts.named(host_of(request), message.hostname)
        selection = selection_from(message.extra_params)
        project = services.registry.register(
            host, project_id, message.label_config, created=created, selection=selection
        )
        return {"model_version": services.predictor.served_name(project)}

    @router.get("/setup/{why}", response_model=Refusal)
    def setup_refused(why: str) -> JSONResponse:
        return error_response(422, why.replace("_", " "))

    @router.post("/predict", response_model=replies.Predictions)
    async def predict(message: PredictRequest, request: Request) -> dict[str, Any]:
        return await to_thread.run_sync(_predicted, services, message, host_of(request), limiter=predicting)

    @router.get("/versions", response_model=replies.ServedNames)
    @router.post("/versions", response_model=replies.ServedNames)
    def versions(request: Request, message: ProjectRequest | None = None) -> dict[str, list[str]]:
        name = (message.project if message else None) or request.query_params.get("project")
        if name is None:
            return {"versions": []}
        project = services.registry.find_project(host_of(request), *parse_project(name))
        return {"versions": services.predictor.served_names(project)}

    @router.post("/webhook", response_model=replies.Status)
    async def webhook(message: WebhookRequest, request: Request) -> dict[str, str]:
        project = request.query_params.get("project")
        return await to_thread.run_sync(_noted, services, message, host_of(request), project, limiter=noting)

    @router.post("/job_status", response_model=replies.JobAnswer)
    def job_status(message: JobRequest) -> dict[str, str]:
        return {"job_status": "finished", "job": encodable(str(message.job)[:100])}

    @router.post("/duplicate_model", response_model=replies.Status)
    @router.post("/delete", response_model=replies.Status)
    def acknowledged(message: dict[str, Any]) -> dict[str, str]:  # noqa: ARG001 - nothing is deleted on Label Studio's word
        return {"status": "ok"}

    return router


def _predicted(services: Services, message: PredictRequest, host: str | None) -> dict[str, Any]:
    project_id, created = parse_project(message.project)
    project = services.registry.find_project(host, project_id, created)
    return {
        "results": services.predictor.predict(project, [{"id": task.id, "data": task.data} for task in message.tasks])
    }


def _noted(services: Services, message: WebhookRequest, host: str | None, project: str | None) -> dict[str, str]:
    key = services.registry.find_key(host, message.project_id(project))
    receipt = services.inbox.record(key, message.action, message.as_sent())
    if message.action == "PROJECT_UPDATED" and isinstance(message.project, dict):
        push_queue.notice(services.ledger.project(key), message.project, services.ledger, services.jobs)
    return {"status": "doubled" if receipt.duplicate else "ok" if receipt.known else "ignored"}


def refused(error: BackendError) -> JSONResponse:
    """Answer /setup so that Label Studio shows the sentence to whoever connects the model.

    Of a refusal it shows the status and the address that gave it, never the body: so the address tells the reason.
    """
    logger.warning("Project refused: %s", error)
    why = re.sub(r"[^A-Za-z0-9.,;:()'=-]+", "_", str(error).replace('"', "'")).strip("_.")
    return error_response(303, str(error), {"Location": f"setup/{why[:LONGEST_ADDRESS]}"})


def error_response(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Answer with a sentence, whatever a request made of it: half a character would not go into any answer."""
    return JSONResponse({"error": shortened(encodable(sentence), LONGEST_ERROR)}, status_code=status, headers=headers)


def _add_errors(application: FastAPI) -> None:
    """One place where errors become HTTP; a caller never sees a traceback."""

    @application.exception_handler(BackendError)
    async def backend_error(request: Request, error: BackendError) -> JSONResponse:
        if isinstance(error, InvalidInputError) and request.url.path.endswith("/setup"):
            return refused(error)
        return error_response(error.status, str(error))

    @application.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        status, sentence = explain(error)
        return error_response(status, sentence)

    @application.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), error.headers)

    @application.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"error": "Internal error: see the service's log."}, status_code=500)
