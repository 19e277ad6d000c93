"""Who may call over HTTP. Knows paths and headers; access.py and scopes.py know who may do what."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from expertmesh.errors import AccessDeniedError
from expertmesh.gateway.access import Access
from expertmesh.gateway.http.errors import error_response
from expertmesh.gateway.http.forwarded import client_of
from expertmesh.gateway.scopes import scope_of_route
from expertmesh.rpc.metadata import API_KEY_KEY


class KeyCheck:
    """Middleware: answers callers who may not call before anything of their request is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        answer: ASGIApp = self._app
        if scope["type"] == "http":
            try:
                self._check(scope)
            except AccessDeniedError as error:
                self._access.note(error, client_of(scope))
                answer = error_response(error, scope["path"])
        await answer(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path = scope["path"]
        if (wanted := scope_of_route(scope["method"], path)) is not None:
            self._access.check(Headers(scope=scope).get(API_KEY_KEY), wanted, path)
