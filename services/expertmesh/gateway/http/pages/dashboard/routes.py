"""``/dashboard``: a page about the experts' load, and what it shows. Knows paths, neither markup nor counts."""

from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from expertmesh.gateway.api.load_json import ReadLoad, measure_load
from expertmesh.gateway.http.pages.page import Page, read_page

# What rates are taken over; an answer takes as long, and a gateway that drains waits no longer for the page.
SECONDS = 1.0

STYLES = ("tiles.css", "parts.css")
SCRIPTS = ("numbers.js", "source.js", "time_line.js", "heat_map.js", "expert_table.js", "main.js")


def make_router(read_load: ReadLoad) -> APIRouter:
    """Serve the page and the JSON that it shows; the document leaves both out: programs have LoadService."""
    page, router = make_page(), APIRouter(include_in_schema=False)

    @router.get("/dashboard")
    async def get_dashboard() -> Response:
        """Return the page, which holds no data."""
        return HTMLResponse(page.html, headers=page.headers)

    @router.get("/dashboard/load")
    async def get_load() -> Response:
        """Return the load of the gateway with its rates over ``SECONDS``."""
        update = await measure_load(read_load, SECONDS)
        return Response(update, media_type="application/json", headers={"Cache-Control": "no-store"})

    return router


def make_page() -> Page:
    """Put the page together."""
    return read_page(files(__package__) / "parts", STYLES, SCRIPTS)
