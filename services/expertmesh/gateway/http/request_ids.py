"""Naming every request, so that what is told of it can be found. Knows headers, not routes."""

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from expertmesh.rpc.metadata import REQUEST_ID_KEY, choose_request_id

_log = logging.getLogger(__name__)


class RequestIds:
    """Puts the id that the caller chose for a request, or a new one, into the scope and the reply."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id, and note how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chosen = choose_request_id(Headers(scope=scope).get(REQUEST_ID_KEY, ""))

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_KEY] = chosen
                _log.debug("%s %r: %d, request %s", scope["method"], scope["path"], message["status"], chosen)
            await send(message)

        await self._app({**scope, REQUEST_ID_KEY: chosen}, receive, send_named)


def request_id_of(scope: Scope) -> str:
    """Return the id of a request; empty where nothing has given it one."""
    return str(scope.get(REQUEST_ID_KEY, ""))
