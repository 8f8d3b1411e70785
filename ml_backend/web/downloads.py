"""Files of a project to take away, for who may see it: made when asked for, then streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi import Path as InPath
from fastapi.responses import FileResponse

from ml_backend.errors import ForbiddenError
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.web import replies
from ml_backend.web.file_making import FileMaking, Making
from ml_backend.web.own_pages import PRIVATE
from ml_backend.web.project_routes import numbered
from ml_backend.web.visitors import Called, Caller, Visitors
from ml_backend.wording import encodable
from ml_backend.worker.downloading import File, has_guesses

T = TypeVar("T")
LOOKING = 4
LOOK_S = 0.2
MEDIA = {".csv": "text/csv; charset=utf-8", ".zip": "application/zip"}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {kind: {} for kind in (*MEDIA.values(), "application/octet-stream")}}
}
Key = Annotated[str, InPath(pattern="^[A-Za-z0-9_-]{20,100}$")]


def downloads(services: Services, visitors: Visitors) -> APIRouter:
    router = APIRouter(prefix="/projects/{number}/files")
    making, looking = FileMaking(services), CapacityLimiter(LOOKING)

    async def aside(what: Callable[..., T], number: int, *arguments: Any) -> T:
        def do() -> T:
            return what(numbered(number, services.ledger), *arguments)

        return await to_thread.run_sync(do, limiter=looking)

    def asked(project: Project, caller: Caller, name: File, same: bool = False) -> Making:
        visitor = visitors.looks(project, caller)
        if has_guesses(project, name) and not visitor.may_act:
            raise ForbiddenError(
                f"{name} tells what the model takes images for that are yet to be answered, which nobody who labels may see before: ask "
                "somebody who may change the project for it."
            )
        return making.ask(project, name, same=same)

    @router.get("/once/{key}", response_class=FileResponse, responses=BYTES)
    async def once(number: int, key: Key) -> FileResponse:
        """The file that a page has asked for, by the address that it was given for one time: a browser streams it to the disk."""
        return _sent(await to_thread.run_sync(making.once, number, key, limiter=looking))

    @router.post("/{name}", response_model=replies.FileTold)
    async def ask(number: int, name: File, caller: Called, *, same: bool = False) -> dict[str, Any]:
        """Have it made, or tell how far it is; once it is ready, with an address for one time, within a minute.

        same: the one that was made already will do, as after its warnings were read.
        """
        found = await aside(asked, number, caller, name, same)
        state = found.state
        if state == "failed":
            making.had(found)
        ready = state == "ready"
        return {
            "state": state,
            "said": encodable(found.said),
            "warnings": [encodable(warning) for warning in found.warnings] if ready else [],
            "address": f"files/once/{making.address(found)}" if ready else None,
        }

    @router.get("/{name}", response_class=FileResponse, responses=BYTES)
    async def get(number: int, name: File, caller: Called) -> FileResponse:
        """The file, once it is made. No thread waits for it."""
        found = await aside(asked, number, caller, name)
        await _ended(found)
        return _sent(await to_thread.run_sync(making.had, found, limiter=looking))

    return router


async def _ended(making: Making) -> None:
    while True:
        if making.state != "making":
            return
        await asyncio.sleep(LOOK_S)


def _sent(path: Any) -> FileResponse:
    media = MEDIA.get(path.suffix, "application/octet-stream")
    return FileResponse(path, filename=path.name, media_type=media, headers=PRIVATE)
