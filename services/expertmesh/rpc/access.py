"""Refusing strangers before a servicer sees them. Knows what an rpc is called and carries, not which keys are right."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from expertmesh.rpc.handlers import Handler
from expertmesh.rpc.metadata import API_KEY_KEY

# Probes and tools that ask what there is to call have no keys.
OPEN_PREFIXES = ("/grpc.health.", "/grpc.reflection.")


class RequireAuthorization(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers UNAUTHENTICATED unless ``accept`` takes an rpc's authorization; health and reflection stay open."""

    def __init__(self, accept: Callable[[str | None], bool]) -> None:
        self._accept = accept

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        values = [value for key, value in handler_call_details.invocation_metadata if key == API_KEY_KEY]
        authorization = str(values[0]) if values else None
        if handler_call_details.method.startswith(OPEN_PREFIXES) or self._accept(authorization):
            return await continuation(handler_call_details)
        # Right for rpcs of every kind: it waits for no request.
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(requests: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> NoReturn:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, f"an API key is missing or wrong; send it as {API_KEY_KEY}: Bearer KEY"
    )
