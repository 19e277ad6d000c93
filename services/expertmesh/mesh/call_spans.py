"""The span of a call to an expert server, as the gateway sees it. Knows tickets, not what they answer."""

from collections.abc import Sequence
from dataclasses import replace

from expertmesh.mesh.replica import Replica, Ticket
from expertmesh.tracing.tracer import SpanKind, Tracer
from expertmesh.wire.calls import ExpertCall


def send_traced(tracer: Tracer, replica: Replica, experts: Sequence[int], call: ExpertCall) -> Ticket:
    """Send a call with a span of its own, under the one that the call names, if it names any."""
    if not call.traceparent:
        return replica.send(call)
    span = tracer.start("expert rpc", call.traceparent, _describe(replica, experts, call), SpanKind.CLIENT)
    return replica.send(replace(call, traceparent=span.traceparent), span)


def _describe(replica: Replica, experts: Sequence[int], call: ExpertCall) -> dict[str, str | int | Sequence[int]]:
    return {
        "server.address": replica.endpoint,
        "expertmesh.layer": call.layer,
        "expertmesh.experts": experts,
        "expertmesh.num_rows": call.hidden.shape[0],
    }
