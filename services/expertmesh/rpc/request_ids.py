"""Naming every rpc, so that what is told of it can be found. Knows metadata, no method."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from expertmesh.rpc.handlers import Behaviour, Context, Handler, surround
from expertmesh.rpc.metadata import REQUEST_ID_KEY, choose_request_id, request_id


class RequestIds(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Gives every rpc the id that its caller chose, or a new one, in its trailing metadata.

    Not in the initial ones: with these an answer has begun, and clients do not retry what has.
    """

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        return surround(await continuation(handler_call_details), _named)


def _named(answer: Behaviour) -> Behaviour:
    async def answer_named(request: Any, context: Context) -> Any:
        chosen = choose_request_id(request_id(context.invocation_metadata()))
        context.set_trailing_metadata(((REQUEST_ID_KEY, chosen),))
        return await answer(request, context)

    return answer_named
