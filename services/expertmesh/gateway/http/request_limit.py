"""How many requests are answered at once. Knows paths of probes, nothing of the work."""

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from expertmesh.errors import QueueFullError
from expertmesh.gateway.http.errors import error_response
from expertmesh.gateway.http.request_ids import request_id_of
from expertmesh.gateway.rare_log import RareLog

_log = logging.getLogger(__name__)

# What tells how the gateway is, in particular when it is full.
ALWAYS_ANSWERED = frozenset({"/health", "/ready", "/metrics"})


class RequestLimit:
    """Middleware: beyond ``max_requests`` at once, all but probes are answered with 429 before their body is read."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app = app
        self._max_requests = max_requests
        self._num_running = 0
        self._rare_log = RareLog(_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or (scope["method"] == "GET" and scope["path"] in ALWAYS_ANSWERED):
            await self._app(scope, receive, send)
        elif self._num_running >= self._max_requests:
            await self._refuse(scope, receive, send)
        else:
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._num_running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_running -= 1

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        words = f"{self._num_running} requests are being answered, as many as --max-connections allows"
        self._rare_log.warning("%s: further ones are refused", words)
        error = QueueFullError(f"{words}; try again later")
        await error_response(error, scope["path"], request_id_of(scope))(scope, receive, send)
