"""How much a request may send, and how slowly. Knows bytes, not what they mean."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A client that is cut off while it sends may never read why: so much more is read and dropped.
PATIENCE = 16
# A body that trickles in would hold its connection for ever.
MAX_SECONDS = 60.0
# Between two pieces of it.
PAUSE_SECONDS = 10.0


class BodyLimit:
    """Middleware: a body beyond ``max_bytes``, announced or not, is answered with 413.

    One that takes longer than ``max_seconds``, or stops for ``pause_seconds``, is answered with 408.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_seconds: float = MAX_SECONDS, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._pause_seconds = pause_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its bytes counted."""
        num_bytes, is_complete = 0, False
        deadline = asyncio.get_running_loop().time() + self._max_seconds

        async def count() -> Message:
            nonlocal num_bytes, is_complete
            message = await (receive() if is_complete else self._receive_by(deadline, receive))
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if num_bytes > self._max_bytes:
                await self._drop(message, deadline, receive)
                raise HTTPException(413, f"the body is larger than {self._max_bytes} bytes, the most that is taken")
            return message

        await self._app(scope, count, send)

    async def _receive_by(self, deadline: float, receive: Receive) -> Message:
        pause = asyncio.get_running_loop().time() + self._pause_seconds
        try:
            async with asyncio.timeout_at(min(deadline, pause)):
                return await receive()
        except TimeoutError:
            late = f"within {self._max_seconds:g} s" if deadline <= pause else f"for {self._pause_seconds:g} s"
            # What is still to come of it is no request.
            raise HTTPException(408, f"the body did not arrive {late}", {"Connection": "close"}) from None

    async def _drop(self, message: Message, deadline: float, receive: Receive) -> None:
        num_bytes = 0
        while message.get("more_body", False) and num_bytes < PATIENCE * self._max_bytes:
            message = await self._receive_by(deadline, receive)
            num_bytes += len(message.get("body", b""))
