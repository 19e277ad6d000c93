"""Rpcs that are being answered, and how they end when a server has no more time. Knows no method and no message."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import grpc
import grpc.aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

TOO_LATE = "this server is shutting down, and the time that it had for running rpcs is over"
# By whether requests and responses are streams: how gRPC calls what answers, and what makes a handler of it.
_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class RunningRpcs(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Keeps the tasks of a server's rpcs, so that ``end`` can end them with a status.

    A server that is stopped cancels them without one: a client may see CANCELLED, which says that it did so itself.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    def end(self) -> None:
        """End every rpc that runs, and those to come, with UNAVAILABLE."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:  # there is no such method, of which the stubs know nothing
            return handler
        name, make_handler = _KINDS[handler.request_streaming, handler.response_streaming]
        behaviour = self._noted(_written(getattr(handler, name)))
        return make_handler(behaviour, handler.request_deserializer, handler.response_serializer)

    def _noted(self, answer: Behaviour) -> Behaviour:
        async def answer_noted(request: Any, context: Context) -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                if self._is_ending:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, TOO_LATE)
                return await answer(request, context)
            except asyncio.CancelledError:
                if self._is_ending:  # otherwise it was the client
                    # It was ending by itself, or a message is on its way that its status would have to overtake.
                    with suppress(grpc.aio.UsageError, grpc.aio.InternalError):
                        await context.abort(grpc.StatusCode.UNAVAILABLE, TOO_LATE)
                raise
            finally:
                self._tasks.discard(task)

        return answer_noted


def _written(answer: Callable[[Any, Context], Any]) -> Behaviour:
    """Have a generator's responses written as gRPC would, by a coroutine that closes it however that ends."""
    if not inspect.isasyncgenfunction(answer):
        return answer
    generate: Callable[[Any, Context], Any] = answer

    async def write_all(request: Any, context: Context) -> None:
        async with aclosing(generate(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all
