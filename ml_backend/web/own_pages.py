"""What the pages of ours have in common: where their files are, their headers, and how a person's token comes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ml_backend import __version__
from ml_backend.errors import NotFoundError
from ml_backend.services import Services
from ml_backend.web.access import BY_PASSWORD
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.project_routes import numbered

PAGES = Path(__file__).parent / "pages"
STATIC = PAGES / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of the page: nothing from elsewhere, no script that is not a file of ours, in nobody's frame."""
PRIVATE = {**HEADERS, "Cache-Control": "private, no-store", "Vary": f"{TOKEN_HEADER}, Authorization"}
"""Of what a page asks for with somebody's token."""
Token = Annotated[str | None, Header(alias=TOKEN_HEADER)]
HTML: dict[int | str, dict[str, Any]] = {200: {"description": "The page.", "content": {"text/html": {}}}}


def templates() -> Environment:
    """Whatever is put into them is text, and what is missing is an error."""
    return Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)


class Shells:
    """Pages before somebody has signed in.

    Where the service has a password that did not come, they tell nothing of a project but which Label Studio gives the tokens
    for it.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._templates = templates()

    def of(self, name: str, number: int, request: Request) -> HTMLResponse:
        """The page of that name of a project. Raises NotFoundError for none, to who may know."""
        told = self._told(number, open_=not self._services.settings.user or request.scope[BY_PASSWORD])
        shell = self._templates.get_template(name).render(told | self.common())
        return HTMLResponse(shell, headers=HEADERS)

    def common(self) -> dict[str, Any]:
        """operator: whether there is a password to sign in with."""
        return {"version": __version__, "operator": bool(self._services.settings.user)}

    def _told(self, number: int, *, open_: bool) -> dict[str, Any]:
        try:
            known = numbered(number, self._services.ledger)
        except NotFoundError:
            if open_:
                raise
            return {"title": f"Project {number}", "host": self._services.settings.label_studio_url, "number": number}
        return {"title": known.title if open_ else f"Project {number}", "host": known.key.host, "number": number}
