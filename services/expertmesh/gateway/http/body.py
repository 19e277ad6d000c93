"""How much a request may send. Knows bytes, not what they mean."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A client that is cut off while it sends may never read why: so much more is read and dropped.
PATIENCE = 16


class BodyLimit:
    """Middleware: a body beyond ``max_bytes`` is answered with 413, whether or not its length was announced."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its bytes counted."""
        num_bytes = 0

        async def count() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                await self._drop(message, receive)
                raise HTTPException(413, f"the body is larger than {self._max_bytes} bytes, the most that is taken")
            return message

        await self._app(scope, count, send)

    async def _drop(self, message: Message, receive: Receive) -> None:
        num_bytes = 0
        while message.get("more_body", False) and num_bytes < PATIENCE * self._max_bytes:
            message = await receive()
            num_bytes += len(message.get("body", b""))
