"""Answering with JSON that is made while it is sent. Knows pieces and their transport, not what they say."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from expertmesh.gateway.http.disconnect import unless_disconnected
from expertmesh.gateway.http.errors import ClientGoneError
from expertmesh.gateway.http.long_json import LongReply, chunks, json_pieces


def long_response(reply: LongReply) -> Response:
    """Answer with ``reply``, whose lists may be long."""
    return LongResponse(json_pieces(reply))


class LongResponse(Response):
    """Sends pieces of JSON, others having their turn between two chunks; what fits into one has its length announced.

    A client that leaves ends it.
    """

    media_type = "application/json"

    def __init__(self, pieces: Iterable[str]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._chunks = chunks(pieces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        first, second = next(self._chunks), next(self._chunks, None)
        if second is None:
            self.headers["content-length"] = str(len(first))
            await self._send_all(send, [first])
        else:
            with suppress(ClientGoneError):
                await unless_disconnected(receive, self._send_all(send, chain((first, second), self._chunks)))

    async def _send_all(self, send: Send, parts: Iterable[bytes]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
