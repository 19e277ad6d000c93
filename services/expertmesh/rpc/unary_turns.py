"""Unary rpcs that are read one after the other. Knows how gRPC reads and writes, no method and no message.

gRPC reads the request of a unary rpc before anybody is asked whether there is room for it, and keeps the response until
the client takes it. On the wire a unary rpc is a stream with one message each way: answered as one, it waits its turn
with what flow control lets through, and ends its turn when its response is taken.
"""

import asyncio
from typing import Any

import grpc
import grpc.aio

from expertmesh.rpc.handlers import Behaviour, Context, Handler, HandlerInterceptor

# A client whose turn it is, and whose request does not come, has lost it after so long.
READ_SECONDS = 30.0


class UnaryTurns(HandlerInterceptor):
    """Lets at most ``num_at_once`` rpcs of ``method`` ("/package.Service/Method") be read, answered and written."""

    def __init__(self, method: str, num_at_once: int) -> None:
        self._method = method
        self._turns = asyncio.Semaphore(num_at_once)

    def change(self, handler: Handler, method: str) -> Handler:  # noqa: D102
        if method != self._method:
            return handler
        answer: Any = handler.unary_unary  # of which the stubs know the synchronous kind only
        behaviour = self._in_turn(answer)
        return grpc.stream_stream_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )

    def _in_turn(self, answer: Behaviour) -> Behaviour:
        async def answer_in_turn(_: Any, context: Context) -> None:
            async with self._turns:
                try:
                    await context.write(await answer(await _read(context), context))
                except grpc.aio.AbortError as error:
                    # gRPC keeps it in a ring of objects, until garbage is collected, and it knows the request.
                    error.__context__ = None
                    raise error.with_traceback(None) from None

        return answer_in_turn


async def _read(context: Context) -> Any:
    try:
        async with asyncio.timeout(READ_SECONDS):
            request = await context.read()
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request came within {READ_SECONDS:g} s")
    if request is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request; one would be right")
    return request
