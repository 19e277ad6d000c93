"""Putting something around whatever answers an rpc. Knows gRPC's kinds of handlers, no method and no message."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio

_log = logging.getLogger(__name__)

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


class HandlerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Changes what answers every rpc of a server."""

    def change(self, handler: Handler, method: str) -> Handler:
        """Return what is to answer ``method``, as /SERVICE/METHOD; the handler of one that there is not is None."""
        raise NotImplementedError

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        return self.change(await continuation(handler_call_details), handler_call_details.method)


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


def decode_inside(handler: Handler, method: str) -> Handler:
    """Make a handler of the same kind that decodes requests itself; one that is no message ends as INVALID_ARGUMENT.

    gRPC would log a traceback for whatever a stranger sends, and say UNKNOWN.
    """
    decode = handler.request_deserializer
    assert decode is not None, "it decodes requests so far"
    name, make_handler = _KINDS[handler.request_streaming, handler.response_streaming]
    answer = _written(getattr(handler, name))

    async def decode_one(request: bytes, context: Context) -> Any:
        try:
            return decode(request)
        except Exception as error:
            _log.info("a request to %s is no message: %s", method, error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request is no message: {error}")

    async def decode_all(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            yield await decode_one(request, context)

    async def answer_decoded(request: Any, context: Context) -> Any:
        is_stream = handler.request_streaming
        return await answer(decode_all(request, context) if is_stream else await decode_one(request, context), context)

    return make_handler(answer_decoded, None, handler.response_serializer)
