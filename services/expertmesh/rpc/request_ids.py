"""Naming every rpc, so that what is told of it can be found. Knows metadata, no method."""

from typing import Any

from expertmesh.rpc.handlers import Behaviour, Context, Handler, HandlerInterceptor, surround
from expertmesh.rpc.metadata import REQUEST_ID_KEY, choose_request_id, request_id


class RequestIds(HandlerInterceptor):
    """Gives every rpc the id that its caller chose, or a new one, in its trailing metadata.

    Not in the initial ones: with these an answer has begun, and clients do not retry what has.
    """

    def change(self, handler: Handler, method: str) -> Handler:  # noqa: D102
        return surround(handler, _named)


def _named(answer: Behaviour) -> Behaviour:
    async def answer_named(request: Any, context: Context) -> Any:
        chosen = choose_request_id(request_id(context.invocation_metadata()))
        context.set_trailing_metadata(((REQUEST_ID_KEY, chosen),))
        return await answer(request, context)

    return answer_named
