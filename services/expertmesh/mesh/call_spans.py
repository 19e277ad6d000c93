"""The span of a call to an expert server, as the gateway sees it. Knows tickets, not what they answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from expertmesh.mesh.replica import Replica, Ticket
from expertmesh.tracing.tracer import SpanKind, Tracer
from expertmesh.wire.calls import ExpertCall, ExpertResult


def send_traced(tracer: Tracer, replica: Replica, experts: Sequence[int], call: ExpertCall) -> Ticket:
    """Send a call with a span of its own, under the one that the call names; it ends with the answer."""
    span = tracer.start("expert rpc", call.traceparent, _describe(replica, experts, call), SpanKind.CLIENT)
    ticket = replica.send(replace(call, traceparent=span.traceparent))
    ticket.answer.add_done_callback(lambda answer: span.end(_error(answer)))
    return ticket


def _describe(replica: Replica, experts: Sequence[int], call: ExpertCall) -> dict[str, str | int | Sequence[int]]:
    return {
        "server.address": replica.endpoint,
        "expertmesh.layer": call.layer,
        "expertmesh.experts": experts,
        "expertmesh.num_rows": call.hidden.shape[0],
    }


def _error(answer: asyncio.Future[ExpertResult]) -> BaseException | None:
    return asyncio.CancelledError("nobody waits for the answer any more") if answer.cancelled() else answer.exception()
