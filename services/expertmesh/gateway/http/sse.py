"""Server-sent events: a stream of JSON over one reply. Knows events, not what is in them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from itertools import chain

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from expertmesh.gateway.http.disconnect import unless_disconnected
from expertmesh.gateway.http.errors import ClientGoneError, error_body, problem_of, shape_of
from expertmesh.gateway.http.long_json import chunks
from expertmesh.gateway.http.request_ids import request_id_of

MEDIA_TYPE = "text/event-stream"

# A long event comes in pieces, which are made while they are sent.
Event = str | Iterator[str]


async def event_stream(request: Request, events: AsyncGenerator[Event], prefix: str = "data: ") -> Response:
    """Answer with ``events``, at least one. An error before the first has a status; a later one is the last event."""
    first = await unless_disconnected(request.receive, _next(events))
    return _EventStream(first, events, prefix)


async def _next(events: AsyncGenerator[Event]) -> Event:
    return await anext(events)


class _EventStream(Response):
    """Sends events until they end or the client leaves, and closes them in both cases."""

    media_type = MEDIA_TYPE

    def __init__(self, first: Event, events: AsyncGenerator[Event], prefix: str) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            with suppress(ClientGoneError):
                await unless_disconnected(receive, self._send_all(scope, send))

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send_event(send, self._first)
        try:
            async for event in self._events:
                await self._send_event(send, event)
        except Exception as error:
            await self._send_event(send, error_body(problem_of(error, request_id_of(scope)), shape_of(scope["path"])))
        await send({"type": "http.response.body", "body": b""})

    async def _send_event(self, send: Send, event: Event) -> None:
        pieces = (event,) if isinstance(event, str) else event
        for body in chunks(chain((self._prefix,), pieces, ("\n\n",))):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if not isinstance(event, str):
                await asyncio.sleep(0)
