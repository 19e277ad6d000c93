"""``GET /``: a page to chat on. Knows its path, neither markup nor conversations: these stay in the browser."""

from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from expertmesh.gateway.http.pages.page import Page, read_page

STYLES = ("chat.css",)
SCRIPTS = (
    "stream.js",
    "conversation.js",
    "token_view.js",
    "route_view.js",
    "turn_view.js",
    "announcer.js",
    "settings.js",
    "composer.js",
    "main.js",
)


def make_router() -> APIRouter:
    """Serve the page; POST / is TGI's."""
    page, router = make_page(), APIRouter(include_in_schema=False)

    @router.get("/")
    async def get_chat() -> Response:
        """Return the page, which holds no data."""
        return HTMLResponse(page.html, headers=page.headers)

    return router


def make_page() -> Page:
    """Put the page together."""
    return read_page(files(__package__) / "parts", STYLES, SCRIPTS)
