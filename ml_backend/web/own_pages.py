"""What the pages of ours have in common: where their files are, their headers, and how a person's token comes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Header
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ml_backend.web.persons import TOKEN_HEADER

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
Token = Annotated[str | None, Header(alias=TOKEN_HEADER)]
HTML: dict[int | str, dict[str, Any]] = {200: {"description": "The page.", "content": {"text/html": {}}}}


def templates() -> Environment:
    """Whatever is put into them is text, and what is missing is an error."""
    return Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)
