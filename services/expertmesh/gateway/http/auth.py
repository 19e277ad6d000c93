"""Who may call over HTTP. Knows paths and headers; keys.py knows the keys."""

from starlette.types import ASGIApp, Receive, Scope, Send

from expertmesh.gateway.http.errors import UnauthorizedError, error_response
from expertmesh.gateway.keys import ApiKeys

# What probes, tools and browsers get before they have a key; none of it says what anybody asked or was answered.
OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/metrics", "/openapi.json", "/dashboard", "/"})


class KeyCheck:
    """Middleware: answers callers without a key before anything of their request is read."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or _is_open(scope) or self._keys.accept(_authorization(scope)):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError(
            "this gateway wants an API key that it knows, as the header Authorization: Bearer KEY"
        )
        await error_response(error, scope["path"])(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    return scope["method"] == "GET" and scope["path"] in OPEN_PATHS  # what is posted to / is a request to generate


def _authorization(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bytes(value).decode(errors="replace")
    return None
