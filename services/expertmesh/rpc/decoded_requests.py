"""Requests that are no messages, and how their rpcs end. Knows no method and no message."""

from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from expertmesh.rpc.handlers import Handler, decode_inside


class DecodedRequests(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Decodes requests, as the last of the interceptors: the others see bytes."""

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return decode_inside(handler, handler_call_details.method)
