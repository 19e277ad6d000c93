"""Putting something around whatever answers an rpc. Knows gRPC's kinds of handlers, no method and no message."""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

# By whether requests and responses are streams: how gRPC calls what answers, and what makes a handler of it.
_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def surround(handler: Handler, around: Callable[[Behaviour], Behaviour]) -> Handler:
    """Make a handler of the same kind that answers with ``around`` of what answered before."""
    if handler is None:  # there is no such method, of which the stubs know nothing
        return handler
    name, make_handler = _KINDS[handler.request_streaming, handler.response_streaming]
    behaviour = around(_written(getattr(handler, name)))
    return make_handler(behaviour, handler.request_deserializer, handler.response_serializer)


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
