"""Refusing strangers before a servicer sees them.

Knows what an rpc is called and carries, and whence, not which keys and certificates are right.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from expertmesh.errors import AccessDeniedError
from expertmesh.rpc.forwarded import FORWARDED_FOR_KEY, Proxies, host_of_peer
from expertmesh.rpc.handlers import Behaviour, Context, Handler, HandlerInterceptor, surround
from expertmesh.rpc.metadata import authorization, values
from expertmesh.rpc.status import report_errors
from expertmesh.rpc.tls import TlsServer

_log = logging.getLogger(__name__)

# Probes and tools that ask what there is to call have no keys.
OPEN_PREFIXES = ("/grpc.health.", "/grpc.reflection.")


class RequireAuthorization(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers rpcs with the error that ``check`` raises, and tells ``note`` of it and of where they come from.

    Health and reflection stay open.
    """

    def __init__(
        self,
        check: Callable[[str, str], object],
        note: Callable[[AccessDeniedError, str], None],
        proxies: Proxies,
    ) -> None:
        """``check`` gets an rpc as /SERVICE/METHOD, and its authorization; ``proxies`` say who is behind them."""
        self._check = check
        self._note = note
        self._proxies = proxies

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        if not method.startswith(OPEN_PREFIXES):
            try:
                self._check(method, authorization(handler_call_details.invocation_metadata))
            except AccessDeniedError as error:
                return self._refuse(error)
        return await continuation(handler_call_details)

    def _refuse(self, error: AccessDeniedError) -> Handler:
        async def refuse(requests: Any, context: Context) -> None:
            self._note(error, origin(context, self._proxies))
            async with report_errors(context):
                raise error

        # Right for rpcs of every kind: it waits for no request.
        return grpc.stream_stream_rpc_method_handler(refuse)


def origin(context: Context, proxies: Proxies) -> str:
    """Return the address that an rpc came from, as far as ``proxies`` are to be believed."""
    forwarded = values(context.invocation_metadata(), FORWARDED_FOR_KEY)
    return proxies.origin(host_of_peer(context.peer()), forwarded)


class RequireIdentity(HandlerInterceptor):
    """Answers PERMISSION_DENIED to whom ``tls`` does not allow, whatever is asked: health and reflection, too."""

    def __init__(self, tls: TlsServer) -> None:
        self._tls = tls

    def change(self, handler: Handler, method: str) -> Handler:  # noqa: D102
        return surround(handler, self._admitting)

    def _admitting(self, answer: Behaviour) -> Behaviour:
        async def answer_admitted(request: Any, context: Context) -> Any:
            names = _names_of(context)
            if not self._tls.allows(names):
                refusal = self._tls.refusal(names)
                _log.warning("refusing an rpc of %s: %s", context.peer(), refusal)
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
            return await answer(request, context)

        return answer_admitted


def _names_of(context: Context) -> list[str]:
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return [name.decode(errors="replace") for name in names]
